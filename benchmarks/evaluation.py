"""Evaluation after the forward at 2048x1024: a numpy copy per step, as in the original scripts, against ours.

From the logits of four passes (two sizes, each mirrored) to label map, confidence and confusion matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.harness import Result, compare
from trainers.inference import Pass, fuse
from utils.metrics import ConfusionMatrix

CLASSES, WIDTH, HEIGHT = 19, 2048, 1024
MAP_SIZES = ((65, 129), (81, 161))  # of 1024x512 and 1280x640 images at stride 8
TIE = 1e-5  # labels may differ where two classes are closer


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one. Aim: twice as fast on a CPU."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(device) for device in devices]


def _compare_on(device: str) -> Result:
    passes, truth = _inputs(device)
    expected, total = _numpy_steps(passes, truth)
    ours = _fused(passes, truth)
    top = np.sort(total, axis=0)[-2:]
    assert np.abs(expected - ours).sum() <= 2 * (top[1] - top[0] < TIE).sum()
    return compare(
        f"evaluation after the forward, {device}",
        lambda: _numpy_steps(passes, truth),
        lambda: _fused(passes, truth),
        repeats=3,
        note="2048x1024, 4 passes, 19 classes; aim 2x on a CPU",
    )


def _inputs(device: str) -> tuple[list[Pass], Tensor]:
    generator = torch.Generator().manual_seed(0)
    passes = []
    for size in MAP_SIZES:
        for flipped in (False, True):
            heads = [3 * torch.randn(1, CLASSES, *size, generator=generator).to(device) for _ in range(2)]
            passes.append(Pass(*heads, flipped=flipped))
    truth = torch.randint(0, CLASSES + 1, (HEIGHT, WIDTH), generator=generator)
    return passes, truth.masked_fill(truth == CLASSES, 255).to(device, torch.uint8)


def _numpy_steps(passes: list[Pass], truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Every pass is upsampled and copied to the host on its own; the rest is numpy."""
    total = np.zeros((CLASSES, HEIGHT, WIDTH), np.float32)
    for one in passes:
        one = one.upright()
        probability = torch.softmax(0.5 * one.auxiliary + one.main, dim=1)
        full = interpolate(probability, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=True)
        total = total + full[0].cpu().numpy()
    np.max(total, axis=0)  # the confidence
    label = np.argmax(total, axis=0).astype(np.uint8)
    known = truth.cpu().numpy().astype(np.int64)
    valid = known < CLASSES
    cells = CLASSES * known[valid] + label[valid]
    return np.bincount(cells, minlength=CLASSES**2).reshape(CLASSES, CLASSES), total


def _fused(passes: list[Pass], truth: Tensor) -> np.ndarray:
    label, _ = fuse(passes, (WIDTH, HEIGHT))
    matrix = ConfusionMatrix(CLASSES, truth.device)
    matrix.update(label[0], truth)
    return matrix.counts.cpu().numpy()
