"""Peak memory of one call on the CPU, for the notes beside the timings."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # what Linux wants to read there


def peak_mib(call: Callable[[], object]) -> float:
    """MiB of resident memory that one call needs at most beyond what is held before; NaN except on Linux."""
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
