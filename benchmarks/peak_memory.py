"""Peak memory of one call, for the notes beside the timings."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # what Linux wants to read there


def peak_mib(call: Callable[[], object], device: str = "cpu") -> float:
    """MiB that one call needs at most beyond what is held before: resident memory of the process (NaN except
    on Linux), or tensors on a GPU."""
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not (_STATUS.exists() and _CLEAR.exists()):
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory that the process keeps would be used unnoticed
    _CLEAR.write_text(_RESET_PEAK)
    before = _kib("VmRSS")
    call()
    return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(name))
