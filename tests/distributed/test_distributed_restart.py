"""Three processes that start again in the middle get the bits of three that did not: the order in which
gradients are added must not depend on how long a process has run.

Run by pytest it starts itself as a program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from utils import distributed
from utils.errors import entry_point

UPDATES = 3


class Backwards(nn.Module):
    """Layers registered in another order than they are used, as heads are."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(41, 3)
        self.middle = nn.Linear(37, 41)
        self.first = nn.Linear(5, 37)

    def forward(self, inputs: Tensor) -> Tensor:
        """A loss."""
        return self.last(torch.tanh(self.middle(torch.tanh(self.first(inputs))))).square().mean()


def train(module: nn.Module, updates: range, rank: int) -> None:
    """Plain SGD; every update has its own inputs on every rank."""
    wrapped = distributed.wrap_data_parallel(module, torch.device("cpu"))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for update in updates:
        inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(100 * update + rank))
        optimizer.zero_grad()
        wrapped(inputs).backward()
        optimizer.step()


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Trains in one go and with a start in between; rank 0 leaves both results in a file."""
    with distributed.session("cpu", timeout_s=60) as world:
        results = []
        for parts in ([range(UPDATES)], [range(1), range(1, UPDATES)]):
            torch.manual_seed(0)
            module = Backwards()
            for part in parts:
                train(module, part, world.rank)
            results.append(module.state_dict())
        if world.is_main:
            torch.save(results, argv[0])
    return 0


def test_three_processes_do_not_notice_a_restart(tmp_path: Path) -> None:
    from launching import run_processes

    run_processes(3, [__file__, str(tmp_path / "results")])
    once, twice = torch.load(tmp_path / "results", weights_only=True)
    assert all(torch.equal(once[name], twice[name]) for name in once)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
