"""MADA's objective vector class by class, and its soft alignment anchor by anchor, against ours.

The plain ways go as the authors' loops do: a mask of all features and a question to the device per class; a
copy of an anchor from the host and a reading back per anchor. On a GPU ours must not wait for it: checked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Result, compare
from losses.alignment import soft_alignment
from losses.objective import class_means_of

CLASSES, CHANNELS, ANCHORS, MIN_PIXELS = 19, 256, 10, 10
IMAGE = (256, 512)  # a full image of 1024 x 2048 at stride 4
BLOCK = 8  # side of the squares that predictions consist of


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [compare_on(device) for device in devices for compare_on in (_objective, _alignment)]


def plain_objective(features: Tensor, logits: Tensor) -> Tensor:
    """(C, D) mean features of one image's predicted classes, each through a mask of all its features."""
    prediction = torch.softmax(logits, 1).argmax(1)
    vectors = features.new_zeros(CLASSES, CHANNELS)
    for index in range(CLASSES):
        mask = (prediction == index).unsqueeze(1)
        pixels = mask.sum()
        if pixels.item() >= MIN_PIXELS:
            vectors[index] = ((features * mask).sum((2, 3)) / pixels)[0]
    return vectors


def plain_alignment(vector: Tensor, anchors: np.ndarray) -> tuple[Tensor, int]:
    """Loss and nearest anchor, from anchors that lie on the host."""
    distances = [(vector - torch.tensor(anchor, device=vector.device)).square().mean() for anchor in anchors]
    weights = [1 / distance for distance in distances]
    loss = sum(w * d for w, d in zip(weights, distances, strict=True)) / sum(weights)
    values = [distance.item() for distance in distances]
    return loss, values.index(min(values))


def _objective(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, CHANNELS, *IMAGE, generator=generator).relu().to(device)
    blocks = torch.randn(1, CLASSES, *(side // BLOCK for side in IMAGE), generator=generator)
    logits = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3).to(device)

    def ours() -> Tensor:
        return class_means_of(features, logits, None).vectors[0]

    ours()  # the first call may wait
    _check_that_nothing_waits(ours, device)
    torch.testing.assert_close(ours(), plain_objective(features, logits), rtol=0, atol=1e-6)
    return compare(
        f"objective vector, {device}",
        _timed(lambda: plain_objective(features, logits), device),
        _timed(ours, device),
        repeats=3,
        note=f"1 image, {CHANNELS} x {IMAGE[0]} x {IMAGE[1]}, {CLASSES} classes; aim 20x",
    )


def _alignment(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(ANCHORS, CLASSES, CHANNELS, generator=generator)
    vector = torch.randn(CLASSES, CHANNELS, generator=generator).to(device).requires_grad_()
    on_host, on_device = anchors.numpy(), anchors.to(device)

    def plain() -> Tensor:
        return torch.autograd.grad(plain_alignment(vector, on_host)[0], vector)[0]

    def ours() -> Tensor:
        loss, distances = soft_alignment(vector, on_device)
        distances.argmin()  # stays on the device
        return torch.autograd.grad(loss, vector)[0]

    ours()  # the first call may wait
    _check_that_nothing_waits(ours, device)
    torch.testing.assert_close(ours(), plain(), rtol=1e-5, atol=1e-9)
    return compare(
        f"soft alignment with gradient, {device}",
        _timed(plain, device),
        _timed(ours, device),
        repeats=20,
        note=f"{ANCHORS} anchors; aim 8x",
    )


def _check_that_nothing_waits(call: Callable[[], Tensor], device: str) -> None:
    """Raises where the host waits for the GPU; on a CPU there is nothing to wait for."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _timed(call: Callable[[], Tensor], device: str) -> Callable[[], None]:
    """The call and, so that a GPU's work is timed, the end of what it started."""

    def timed() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    return timed
