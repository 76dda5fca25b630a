"""Two processes have the batch vector of one, and after averaging its gradient.

Run by pytest it starts itself as a program, which writes what it computed to a folder, its argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from losses.alignment import soft_alignment, updated_anchors
from losses.objective import batch_vector, class_means_of
from utils import distributed
from utils.distributed import World

sys.path.insert(0, str(Path(__file__).parent))
from launching import run_processes

IMAGES, CLASSES, CHANNELS, ANCHORS = 4, 6, 3, 5
OWNER = (3, 1, 2, 0)  # the last image that has class 0, 1, ...; no image has the other classes
RULES = ("last", "mean")


def compute(world: World) -> dict[str, Tensor]:
    """Batch vectors, losses, moved anchors, and the gradient of this rank's images; images are split."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(IMAGES, CHANNELS, 8, 10, generator=generator, dtype=torch.float64)
    logits = torch.randn(IMAGES, CLASSES, 8, 10, generator=generator, dtype=torch.float64)
    for index in range(CLASSES):
        last = OWNER[index] if index < len(OWNER) else -1
        logits[last + 1 :, index] = -9
    anchors = torch.randn(ANCHORS, CLASSES, CHANNELS, generator=generator, dtype=torch.float64)
    own = distributed.shard(IMAGES, rank=world.rank, size=world.size)
    mine = slice(own.start, own.stop)

    results = {}
    for rule in RULES:
        image_features = features[mine].clone().requires_grad_()
        means = class_means_of(image_features, logits[mine], None)
        vector = batch_vector(means.vectors, means.present, rule=rule)
        loss, distances = soft_alignment(vector, anchors)
        loss.backward()
        results |= {
            f"{rule}/vector": vector.detach(),
            f"{rule}/loss": loss.detach(),
            f"{rule}/anchors": updated_anchors(anchors, vector, distances),
            f"{rule}/gradient": image_features.grad,
            f"{rule}/means": means.vectors.detach(),
        }
    return results


def test_two_processes_have_the_batch_vector_of_one(tmp_path: Path) -> None:
    one = compute(World(rank=0, size=1, local_rank=0, device=torch.device("cpu")))
    run_processes(2, [__file__, str(tmp_path)])
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for rule in RULES:
        for name in (f"{rule}/vector", f"{rule}/loss", f"{rule}/anchors"):
            assert torch.equal(ranks[0][name], ranks[1][name]), name
            torch.testing.assert_close(ranks[0][name], one[name], rtol=1e-12, atol=1e-14, msg=name)
        averaged = torch.cat([rank[f"{rule}/gradient"] for rank in ranks]) / 2  # as DDP averages weights'
        torch.testing.assert_close(averaged, one[f"{rule}/gradient"], rtol=1e-12, atol=1e-14, msg=rule)
    means = one["last/means"]
    for index, owner in enumerate(OWNER):
        assert means[owner, index].all()
        assert torch.equal(one["last/vector"][index], means[owner, index])
    assert not one["last/vector"][len(OWNER) :].any()
    assert not torch.equal(one["last/vector"], one["mean/vector"])


if __name__ == "__main__":
    with distributed.session("cpu", timeout_s=60) as this_world:
        torch.save(compute(this_world), Path(sys.argv[1]) / f"{this_world.rank}.pt")
