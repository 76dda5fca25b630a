"""Two processes update and fill the bank that one process has.

Run by pytest it starts itself as a program, which writes what it computed to the file named by its argument.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from losses.instance_bank import InstanceBank
from tests.toy_bank import Pooled, Striped
from trainers.bank_filling import fill_bank
from utils import distributed
from utils.distributed import World

sys.path.insert(0, str(Path(__file__).parent))
from launching import run_processes

CLASSES, CHANNELS = 4, 3


def compute(world: World) -> dict[str, Tensor]:
    """Banks after two updates and filled from a network; images split over the ranks."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(4, CHANNELS, 5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (4, 10, 13), generator=generator, dtype=torch.uint8)
    labels[:2][labels[:2] == 1] = 255  # class 1 is in the last two images only: another rank's
    own = distributed.shard(len(labels), rank=world.rank, size=world.size)
    mine = slice(own.start, own.stop)

    results = {}
    bank = InstanceBank(14, CHANNELS, CLASSES).double()
    entries = torch.rand(bank.features.shape, generator=generator, dtype=torch.float64)
    bank.set(entries, torch.arange(len(entries)) % CLASSES)
    bank.update(features[mine] + 1, labels[mine], iteration=0, momentum=0.5)
    results["updated"] = bank.features.clone()
    bank.update(features[mine] - 2, labels[mine], iteration=1, momentum=0.5, own_image_only=True)
    results["updated_own"] = bank.features.clone()
    network = Pooled()
    network.norm.running_mean.fill_(world.rank)  # rank 0's counts
    made = fill_bank(network, Striped(range(7), rare=3), size=20, order=range(7), seed=1, world=world)
    results |= {"made": made[0], "made_labels": made[1]}
    return results


def test_two_processes_have_the_bank_of_one(tmp_path: Path) -> None:
    one = compute(World(rank=0, size=1, local_rank=0, device=torch.device("cpu")))
    run_processes(2, [__file__, str(tmp_path)])
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, expected in one.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        torch.testing.assert_close(ranks[0][name], expected, rtol=1e-12, atol=1e-14, msg=name)
    assert torch.equal(ranks[0]["made"], one["made"])  # every sample meets the same neighbours


if __name__ == "__main__":
    with distributed.session("cpu", timeout_s=60) as this_world:
        torch.save(compute(this_world), Path(sys.argv[1]) / f"{this_world.rank}.pt")
