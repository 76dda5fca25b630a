"""Threshold of the hardest pixels at the published stage-I size: numpy's percentile against ours."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.harness import Result, compare
from losses.segmentation import hard_label_threshold

IMAGES, HEIGHT, WIDTH = 2, 512, 1024
PERCENTILE = 80


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one (each head needs one threshold per iteration)."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(device) for device in devices]


def _compare_on(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    loss = 4 * torch.rand(IMAGES, HEIGHT, WIDTH, generator=generator) ** 2
    loss[:, :60] = 0  # ignored pixels
    loss = loss.to(device)

    def plain() -> float:
        return float(np.percentile(loss.detach().cpu().numpy(), PERCENTILE))

    def ours() -> float:
        return float(hard_label_threshold(loss, PERCENTILE))  # read back, so that a GPU's work is timed

    np.testing.assert_allclose(ours(), plain(), rtol=1e-6)
    return compare(
        f"hard-label threshold, {device}",
        plain,
        ours,
        note=f"{IMAGES} x {HEIGHT} x {WIDTH} losses; aim 1x on a CPU, 3x on a GPU",
    )
