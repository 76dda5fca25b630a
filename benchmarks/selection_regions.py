"""Greedy region selection: one full-image maximum per pick against the scan of the best pixels."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from benchmarks.plain_scores import HEIGHT, WIDTH, greedy_picks
from selection.regions import select_regions

SETTINGS = ((2331, 2, "5 %, 3x3"), (1026, 2, "2.2 %, 3x3"), (26, 18, "2.2 %, 19x19"), (21, 32, "40 px"))
MEASURED_PICKS = 40  # of the plain way, whose time is the same for each pick
CHECKED_PICKS = 200


def run() -> list[Result]:
    """On noise and, where many pixels tie, on 64 levels."""
    noise = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    results = [_compare(noise, *setting) for setting in SETTINGS]
    return [*results, _compare((64 * noise).floor(), 2331, 2, "5 %, 3x3, many ties")]


def _compare(score: torch.Tensor, count: int, radius: int, words: str) -> Result:
    checked, measured = min(count, CHECKED_PICKS), min(count, MEASURED_PICKS)

    def ours() -> torch.Tensor:
        return select_regions(score, None, count, exclusion_radius=radius)

    assert ours()[:checked].tolist() == greedy_picks(score, checked, radius)
    result = compare(
        f"region selection, {count} picks",
        lambda: greedy_picks(score, measured, radius),
        ours,
        repeats=3,
        note=f"{words}; plain: {measured} picks measured, scaled; first {checked} picks checked; "
        f"peak {peak_mib(ours):.0f} MiB against {peak_mib(lambda: greedy_picks(score, 1, radius)):.0f}",
    )
    return replace(result, plain_s=result.plain_s * count / measured)
