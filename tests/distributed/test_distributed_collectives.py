"""Two gloo processes exchange tensors, average gradients, and name a rank that stalls or leaves.

Run by pytest it starts itself as a program, which plays the scene named by its argument.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from utils import distributed, roll_call, stopping
from utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
from launching import run_processes


def exchange(world: distributed.World) -> None:
    """Every collective, checked on both ranks."""
    r = world.rank
    values = torch.tensor([1.0 + r, 10.0 * r], dtype=torch.float64, requires_grad=True)
    assert distributed.all_reduce_sum(values).tolist() == [3.0, 10.0]
    assert not distributed.all_reduce_sum(values).requires_grad
    assert distributed.all_reduce_max(values).tolist() == [2.0, 10.0]
    assert distributed.all_reduce_mean(values).tolist() == [1.5, 5.0]
    assert values.tolist() == [1.0 + r, 10.0 * r]
    flags = torch.tensor([r == 0, False])
    assert distributed.all_reduce_sum(flags).tolist() == [1, 0]
    assert distributed.all_reduce_max(flags).tolist() == [True, False]
    assert distributed.any_rank(r == 1, what="iteration 1")
    assert not distributed.any_rank(False, what="iteration 2")
    assert distributed.broadcast_object({"from": r}) == {"from": 0}
    assert distributed.all_gather_objects(f"rank {r}") == ["rank 0", "rank 1"]
    assert list(distributed.shard(5)) == ([0, 1] if r == 0 else [2, 3, 4])
    distributed.barrier("the exchange")


def concatenate(world: distributed.World) -> None:
    """Several types, one of them not contiguous, gathered and in one broadcast."""
    r = world.rank
    tables = torch.arange(6.0).view(3, 2).t() + 10 * r  # not contiguous
    both = distributed.all_gather_equal(tables.requires_grad_())
    assert both.tolist() == [[0, 2, 4], [1, 3, 5], [10, 12, 14], [11, 13, 15]]
    assert not both.requires_grad
    assert distributed.all_gather_equal(torch.tensor([r == 0])).tolist() == [True, False]
    assert distributed.all_gather_equal(torch.tensor([r], dtype=torch.uint8)).tolist() == [0, 1]
    tensors = [
        torch.full((2,), float(r)),
        torch.tensor(r + 5),
        torch.tensor([r == 0, True]),
        torch.zeros(1, 2) + r,
    ]
    distributed.broadcast_(tensors, source=1)
    assert [t.tolist() for t in tensors] == [[1.0, 1.0], 6, [False, True], [[1.0, 1.0]]]


def differentiate(world: distributed.World) -> None:
    """The gradient of a global sum is the sum of the ranks' gradients; so is the second derivative."""
    x = torch.tensor([2.0 + world.rank], dtype=torch.float64, requires_grad=True)
    total = distributed.all_reduce_sum_differentiable(x * x)  # 4 + 9
    assert total.item() == 13.0
    loss = (world.rank + 1) * total * total
    (gradient,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    # d(1 * T^2 + 2 * T^2)/dx = 6 T * 2 x
    torch.testing.assert_close(gradient, 6 * 13.0 * 2 * x)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    # d/dx of sum over ranks of 12 T x_r = 12 T + 12 (x_0 + x_1) 2 x
    torch.testing.assert_close(second, 12 * 13.0 + 12 * 5.0 * 2 * x.detach())


class Toy(nn.Module):
    """A frozen and a trainable layer, and a buffer that counts forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.last = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += x.sum().detach()
        return self.last(self.frozen(x)).mean()


def assert_equal_weights(module: nn.Module) -> None:
    """The same parameters on both ranks."""
    weights = [parameter.tolist() for parameter in module.parameters()]
    first, second = distributed.all_gather_objects(weights)
    assert first == second


def train(world: distributed.World) -> None:
    """Ranks start from rank 0's weights, average gradients, keep their own buffers until told otherwise."""
    torch.manual_seed(world.rank)
    toy = Toy()
    wrapped = distributed.wrap_data_parallel(toy, world.device)
    assert distributed.unwrap(wrapped) is toy
    assert_equal_weights(wrapped)
    wrapped(torch.full((2, 3), 1.0 + world.rank)).backward()
    first = distributed.all_gather_objects(toy.last.weight.grad.tolist())
    assert first[0] == first[1]
    assert distributed.all_gather_objects(toy.seen.item()) == [6.0, 12.0]
    distributed.synchronize_buffers_(wrapped)
    assert toy.seen.item() == 6.0
    wrapped.zero_grad()
    for last in (False, True):  # two micro-batches accumulate, and only the second is exchanged
        with distributed.gradient_synchronization(wrapped, last):
            wrapped(torch.full((2, 3), 1.0 + world.rank)).backward()
        gradients = distributed.all_gather_objects(toy.last.weight.grad)
        assert torch.equal(*gradients) is last
    torch.testing.assert_close(toy.last.weight.grad, 2 * torch.tensor(first[0]))
    frozen = Toy().requires_grad_(False)
    assert distributed.wrap_data_parallel(frozen, world.device) is frozen
    assert_equal_weights(frozen)


def everything(world: distributed.World) -> None:
    """All that runs without a failure, in one start of the processes."""
    for scene in (exchange, concatenate, differentiate, train):
        scene(world)


def stall_at_a_barrier(world: distributed.World) -> None:
    """Rank 1 never reaches the barrier."""
    if world.rank == 1:
        time.sleep(60)
    distributed.barrier("snapshot 200", timeout_s=1)


def stall_in_a_backward(world: distributed.World) -> None:
    """Rank 1 never reaches the backward pass."""
    wrapped = distributed.wrap_data_parallel(Toy(), world.device)
    if world.rank == 1:
        time.sleep(60)
    wrapped(torch.ones(2, 3)).backward()


def leave_alone(world: distributed.World) -> None:
    """Rank 1 finds a mistake that rank 0 does not see."""
    if world.rank == 1:
        raise UserError("aachen_0.png is damaged; remove it.")
    stopping.install()  # torchrun answers rank 1's end with SIGTERM
    distributed.all_reduce_sum(torch.ones(1))


def test_collectives_gradients_and_wrapping_agree_on_two_processes() -> None:
    output = run_processes(2, [__file__, "everything"])
    assert output.stdout.count("finished") == 2


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (
            "stall_at_a_barrier",
            r"the barrier 'snapshot 200' failed: rank 1 did not reach it \(time-out 1 s\)",
        ),
        ("stall_in_a_backward", r"an exchange between the ranks failed: rank 1 did not reach it"),
        ("leave_alone", r"rank 1 left with UserError: aachen_0.png is damaged"),
    ],
)
def test_a_rank_that_does_not_take_part_is_named(scene: str, expected: str) -> None:
    output = run_processes(2, [__file__, scene], env={"TIMEOUT_S": "3"}, check=False)
    assert output.returncode != 0
    assert re.search(f"StalledRankError: .*{expected}", output.stderr), output.stderr


def run_scene(name: str) -> None:
    """What each process executes."""
    roll_call.PATIENCE_S = 1.0  # nobody answers late here
    with distributed.session("auto", timeout_s=float(os.environ.get("TIMEOUT_S", "60"))) as world:
        globals()[name](world)
    print(f"rank {world.rank} finished")


if __name__ == "__main__":
    run_scene(sys.argv[1])
