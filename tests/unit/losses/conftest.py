"""Ranks played by threads: collectives without a process group."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from utils import distributed


class Ranks:
    """Runs one function per rank, each in a thread, with `utils.distributed` joining them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._local = threading.local()
        self._barrier = threading.Barrier(size, timeout=20)
        self._shared: list[Tensor | None] = [None] * size

    def run(self, function: Callable[[int], Any]) -> list[Any]:
        """Results of `function(rank)` in rank order."""

        def play(rank: int) -> Any:
            self._local.rank = rank
            return function(rank)

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(play, range(self.size)))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """What every rank handed in, in rank order."""
        self._shared[self._local.rank] = tensor.detach().clone()
        self._barrier.wait()
        gathered = list(self._shared)
        self._barrier.wait()
        return gathered


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    """Two ranks; sums and gatherings of `utils.distributed` go over both."""
    ranks = Ranks(2)
    monkeypatch.setattr(distributed, "world_size", lambda: ranks.size)
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda t: torch.stack(ranks.gather(t)).sum(0))
    monkeypatch.setattr(distributed, "all_gather_equal", lambda t: torch.cat(ranks.gather(t)))
    return ranks
