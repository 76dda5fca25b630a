"""Side-by-side timing: a plain way and ours, in the same process, interleaved."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_SHORTEST_S = 0.02  # of one measurement


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds of one call of the plain way and of ours."""

    name: str
    plain_s: float
    fast_s: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.plain_s / self.fast_s


def compare(
    name: str,
    plain: Callable[[], object],
    fast: Callable[[], object],
    *,
    repeats: int = 5,
    note: str = "",
) -> Result:
    """Best time of each over `repeats` rounds that measure both in turn.

    A call is repeated until a measurement takes 20 ms, so that a clock tick or a page fault does not decide.
    """
    plain_calls, fast_calls = _calls_to_measure(plain), _calls_to_measure(fast)
    times = [(_seconds(plain, plain_calls), _seconds(fast, fast_calls)) for _ in range(repeats)]
    return Result(name, min(plain_s for plain_s, _ in times), min(fast_s for _, fast_s in times), note)


def format_results(results: Sequence[Result]) -> str:
    """A markdown table, one line per result."""
    lines = ["| name | plain ms | ours ms | ratio | note |", "|---|---:|---:|---:|---|"]
    for result in results:
        times = f"{1000 * result.plain_s:.2f} | {1000 * result.fast_s:.2f}"
        lines.append(f"| {result.name} | {times} | {result.ratio:.1f} | {result.note} |")
    return "\n".join(lines)


def _calls_to_measure(call: Callable[[], object]) -> int:
    call()  # the first one pays for imports, caches and memory
    return max(1, math.ceil(_SHORTEST_S / _seconds(call, 1)))


def _seconds(call: Callable[[], object], calls: int) -> float:
    """Mean time of one of `calls` calls."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
