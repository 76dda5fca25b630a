"""Two processes train MADA's second stage as one does on the joined batch, in float64.

Run by pytest it starts itself as a program, which writes what it computed to a file, its argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from launching import run_processes

from data_loaders.samples import Batch
from tests.toy_training import NUM_CLASSES, drawn_batch, part_of, small_network
from trainers.anchored import AnchoredSettings, AnchoredTrainer
from trainers.loop_settings import LoopSettings
from utils import distributed
from utils.distributed import World

IMAGES, WIDTH, ITERATIONS = 4, 16, 2
BATCH_NORMS = ("sync", "frozen")


def drawn(iteration: int) -> dict[str, Batch]:
    """The global batch of an iteration; target images large enough that classes are present."""
    target = drawn_batch(IMAGES, 3 * iteration + 2, labelled=False)
    enlarged = target.image.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return {
        "active": drawn_batch(IMAGES, 3 * iteration, ignored=True),
        "source": drawn_batch(IMAGES, 3 * iteration + 1, ignored=True),
        "target": Batch(enlarged, None, target.names, target.sizes),
    }


def train(batch_norm: str, world: World) -> dict[str, Tensor]:
    """Weights, buffers, anchors and logged means after the iterations."""
    generator = torch.Generator().manual_seed(5)
    anchors = torch.randn(4, NUM_CLASSES, WIDTH, generator=generator, dtype=torch.float64)
    trainer = AnchoredTrainer(
        network=small_network().double(),
        settings=AnchoredSettings(learning_rate=1e-2, num_steps=100),
        anchors=anchors,
        world=world,
        loop=LoopSettings(num_steps_stop=ITERATIONS, batch_norm=batch_norm, train_batch_norm_affine=True),
    )
    means = []
    share = IMAGES // world.size
    for iteration in range(ITERATIONS):
        first = world.rank * share
        trainer.run_iteration(iteration, [part_of(drawn(iteration), first, first + share)])
        means.append(trainer.meter.read())
    state = {f"network/{name}": value for name, value in trainer.network.state_dict().items()}
    state["anchors"] = trainer.anchors.values
    logged = [[terms[name] for name in sorted(terms)] for terms in means]
    return {**state, "logged": torch.tensor(logged, dtype=torch.float64)}


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    alone = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))
    run_processes(2, [__file__, str(tmp_path / "two.pt")])
    both = torch.load(tmp_path / "two.pt", weights_only=True)
    for batch_norm in BATCH_NORMS:
        one, two = train(batch_norm, alone), both[batch_norm]
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.allclose(two[name].double(), value.double(), rtol=1e-9, atol=1e-12), name
        assert torch.isfinite(one["logged"]).all()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.session("cpu", timeout_s=120) as opened:
        results = {batch_norm: train(batch_norm, opened) for batch_norm in BATCH_NORMS}
        if opened.is_main:
            torch.save(results, sys.argv[1])
