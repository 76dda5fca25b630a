"""Synchronised BatchNorm on two gloo processes against one process on the joined batch, in float64."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from networks.normalization import AllReduceBatchNorm2d
from utils import distributed

Results = dict[str, torch.Tensor]


def joined_input() -> torch.Tensor:
    return torch.randn(4, 5, 3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3 + 2


def train_twice(layer: nn.BatchNorm2d, x: torch.Tensor) -> Results:
    """Two forwards, so that the running statistics of the first matter, and one backward."""
    x = x.clone().requires_grad_()
    y = layer(x * x)
    y = layer(y * 0.5 + x)
    (y.square() * y).sum().backward()
    return {
        "y": y.detach(),
        "dx": x.grad,
        "dw": layer.weight.grad,
        "db": layer.bias.grad,
        **layer.state_dict(),
    }


def make(kind: type[nn.BatchNorm2d], momentum: float | None) -> nn.BatchNorm2d:
    layer = kind(5, momentum=momentum).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, 5))
        layer.bias.copy_(torch.linspace(-1, 1, 5))
    return layer


def worker(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    part = joined_input()[:1] if rank == 0 else joined_input()[1:]  # unequal shares
    with distributed.session("cpu"):
        results = {
            str(momentum): train_twice(make(AllReduceBatchNorm2d, momentum), part) for momentum in (0.1, None)
        }
    torch.save(results, Path(folder) / f"{rank}.pt")


def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(worker, args=(port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for momentum in (0.1, None):
        expected = train_twice(make(nn.BatchNorm2d, momentum), joined_input())
        left, right = first[str(momentum)], second[str(momentum)]
        combined = {name: torch.cat([left[name], right[name]]) for name in ("y", "dx")}
        combined |= {name: left[name] + right[name] for name in ("dw", "db")}
        combined |= {name: left[name] for name in ("running_mean", "running_var", "num_batches_tracked")}
        for name, value in combined.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12, msg=name)


def test_one_process_is_plain_batch_norm() -> None:
    ours = train_twice(make(AllReduceBatchNorm2d, 0.1), joined_input())
    plain = train_twice(make(nn.BatchNorm2d, 0.1), joined_input())
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
