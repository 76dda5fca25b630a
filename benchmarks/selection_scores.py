"""Acquisition scores: one-hot encodings and grouped convolutions against bands and running sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import plain_scores
from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from benchmarks.plain_scores import CLASSES, HEIGHT, NETWORK_INPUT, WIDTH
from selection.class_weights import class_weights
from selection.scores import region_impurity, region_scores, weighted_by_class
from utils import maths

PIXEL_RADIUS = 32
STRIP = (128, 256)  # of one class, which is what the plain counts are measured on
LOOP_ROWS = 16  # which the plain loop is measured on


def run() -> list[Result]:
    """Region score, window counts of the pixel setting and DWACA's weights, at full size."""
    logits = plain_scores.resized_twice(plain_scores.drawn_logits(), (HEIGHT, WIDTH), NETWORK_INPUT)
    prediction = logits.argmax(0).to(torch.uint8)
    return [_region_score(logits), _window_counts(prediction), _class_weighting(prediction)]


def _region_score(logits: torch.Tensor) -> Result:
    def plain() -> torch.Tensor:
        return plain_scores.region_score(logits, 1)

    def ours() -> torch.Tensor:
        return region_scores(logits, radius=1).score

    torch.testing.assert_close(ours(), plain(), rtol=1e-4, atol=2e-6)
    note = f"from logits of full size; aim 1.5x; peak {peak_mib(ours):.0f} MiB against {peak_mib(plain):.0f}"
    return compare("region score, k = 1", plain, ours, repeats=3, note=note)


def _window_counts(prediction: torch.Tensor) -> Result:
    """Ours makes the whole impurity map from its counts, the plain way only counts."""
    member = prediction == 0
    strip = member[: STRIP[0], : STRIP[1]].float()[None]
    padded = F.pad(member[: STRIP[0], : STRIP[1]].to(torch.int16), (PIXEL_RADIUS,) * 4)
    counts = maths.window_reduce(padded, 2 * PIXEL_RADIUS + 1)
    assert torch.equal(plain_scores.window_counts(strip, PIXEL_RADIUS)[0], counts.float())

    def ours() -> torch.Tensor:
        return region_impurity(prediction, CLASSES, PIXEL_RADIUS, torch.float32)

    share = STRIP[0] * STRIP[1] / (HEIGHT * WIDTH * CLASSES)
    result = compare(
        "window counts, 65x65",
        lambda: plain_scores.window_counts(strip, PIXEL_RADIUS),
        ours,
        repeats=3,
        note=f"plain: {STRIP[0]}x{STRIP[1]} of one class measured, scaled; ours with the impurity; aim 300x; "
        f"peak {peak_mib(ours):.0f} MiB against {CLASSES * HEIGHT * WIDTH * 8 / 2**20:.0f} "
        "for the one-hot planes and counts alone",
    )
    return replace(result, plain_s=result.plain_s / share)


def _class_weighting(prediction: torch.Tensor) -> Result:
    generator = np.random.default_rng(0)
    entropy = torch.from_numpy(generator.random((HEIGHT, WIDTH), dtype=np.float32))
    weight = class_weights(generator.random(CLASSES))
    rows = slice(0, LOOP_ROWS)

    def plain() -> np.ndarray:
        return plain_scores.weighted_entropy(entropy[rows].numpy(), prediction[rows].numpy(), weight)

    def ours() -> torch.Tensor:
        return weighted_by_class(entropy, prediction, weight, CLASSES)

    assert np.array_equal(ours()[rows].numpy(), plain())
    note = f"plain: {LOOP_ROWS} rows measured, scaled; aim 30x; peak {peak_mib(ours):.0f} MiB"
    result = compare("DWACA class weighting", plain, ours, note=note)
    return replace(result, plain_s=result.plain_s * HEIGHT / LOOP_ROWS)
