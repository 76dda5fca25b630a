"""Running means of a trainer's scalars between two log lines, kept on the device."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from utils import distributed


class Meter:
    """Averages scalars over iterations and ranks without touching the host until it is read.

    A term that is absent in some iterations (behind a gate) is averaged over those that had it.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._started = time.perf_counter()

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Adds one micro-batch's detached scalars."""
        for name, value in terms.items():
            if name in self._sums:
                self._sums[name] = self._sums[name] + value
                self._counts[name] += 1
            else:
                self._sums[name], self._counts[name] = value.clone(), 1

    def read(self) -> dict[str, float]:
        """Means over ranks since the last reading, then starts anew. Every rank must call it with the same
        terms."""
        means: dict[str, float] = {}
        if self._sums:
            names = sorted(self._sums)
            values = torch.stack([self._sums[name].double() / self._counts[name] for name in names])
            means = dict(zip(names, distributed.all_reduce_mean(values).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return means

    def seconds(self) -> float:
        """Wall seconds since the last call (or the start)."""
        now = time.perf_counter()
        passed, self._started = now - self._started, now
        return passed
