"""A selection round without the forward: two upsamplings, scores and selection, per image."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from benchmarks import plain_scores
from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from benchmarks.plain_scores import HEIGHT, NETWORK_INPUT, WIDTH, drawn_logits
from selection.budget import Budget
from selection.regions import select_regions
from selection.scores import pixel_scores, region_scores

ROUNDS = 5
MEASURED_PICKS = 40  # of the plain way, whose time is the same for each pick


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table; `size` is (H, W)."""

    size: tuple[int, int] = (HEIGHT, WIDTH)
    budget: str = "2.2%"
    radius: int = 1
    pixels: bool = False
    stride: int = 8

    @property
    def count(self) -> int:
        """Picks in this image and round."""
        label_radius = 0 if self.pixels else self.radius
        return Budget.parse(self.budget).picks_per_round(
            self.size, label_radius=label_radius, rounds=ROUNDS, training_size=NETWORK_INPUT[::-1]
        )

    def select(self, logits: torch.Tensor) -> torch.Tensor:
        """The picks of one image."""
        scores = pixel_scores if self.pixels else region_scores
        maps = scores(logits, size=self.size, network_input=NETWORK_INPUT, radius=self.radius)
        exclusion_radius = self.radius if self.pixels else 2 * self.radius
        return select_regions(maps.score, None, self.count, exclusion_radius=exclusion_radius)


PUBLISHED = Setting()
GROWTH = (
    *(Setting(size=(side, 2 * side)) for side in (256, 512, 1024, 2048)),
    *(Setting(budget=budget) for budget in ("1%", "5%", "20%")),
    *(Setting(radius=radius) for radius in (2, 4, 9, 32)),
    *(Setting(budget="40px", radius=radius, pixels=True) for radius in (8, 32, 64)),
    Setting(stride=4),
)


def run() -> list[Result]:
    """At full size and 2.2 % on the CPU; at 5 % on the GPU where there is one."""
    results = [_compare_on(torch.device("cpu"), PUBLISHED, "aim under 1000 ms")]
    if torch.cuda.is_available():
        results.append(_compare_on(torch.device("cuda"), Setting(budget="5%"), "on the device throughout"))
    return results


def table() -> str:
    """How the time and the peak memory of a round grow with the image, the budget and the radius (CPU)."""
    lines = [
        "| image | setting | budget | k | stride | picks | ms | peak MiB |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for setting in GROWTH:
        logits = drawn_logits(setting.stride)
        setting.select(logits)
        seconds = min(_seconds(setting, logits) for _ in range(3))
        peak = peak_mib(lambda setting=setting, logits=logits: setting.select(logits))
        kind = "pixel" if setting.pixels else "region"
        lines.append(
            f"| {setting.size[1]}x{setting.size[0]} | {kind} | {setting.budget} | {setting.radius} "
            f"| {setting.stride} | {setting.count} | {1000 * seconds:.0f} | {peak:.0f} |"
        )
    return "\n".join(lines)


def _seconds(setting: Setting, logits: torch.Tensor) -> float:
    start = time.perf_counter()
    setting.select(logits)
    return time.perf_counter() - start


def _compare_on(device: torch.device, setting: Setting, words: str) -> Result:
    """Plain: full-size logits, one-hot encoding, a maximum per pick; some picks are measured and scaled."""
    logits = drawn_logits(setting.stride).to(device)
    radius = setting.radius

    def plain_score() -> torch.Tensor:
        full = plain_scores.resized_twice(logits, setting.size, NETWORK_INPUT)
        score = plain_scores.region_score(full, radius)
        return score if device.type == "cpu" else score.sum().item()

    def ours() -> list[list[int]]:
        return setting.select(logits).tolist()  # read back, so that a GPU's work is timed

    note = f"{setting.budget}, k = {radius}; {words}; "
    note += f"plain: {MEASURED_PICKS} of {setting.count} picks measured, scaled"
    if device.type == "cpu":
        note += f"; peak {peak_mib(ours):.0f} MiB against {peak_mib(plain_score):.0f}"
    result = compare(f"selection round, {device.type}", plain_score, ours, repeats=3, note=note)
    score = region_scores(logits, size=setting.size, network_input=NETWORK_INPUT, radius=radius).score
    picking = compare(
        "", lambda: plain_scores.greedy_picks(score, MEASURED_PICKS, 2 * radius), ours, repeats=2
    )
    return replace(result, plain_s=result.plain_s + picking.plain_s * setting.count / MEASURED_PICKS)
