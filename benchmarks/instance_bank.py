"""Momentum update of the instance bank: every labelled pixel in turn against one matrix product."""

from __future__ import annotations

from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, compare
from losses.instance_bank import InstanceBank

CLASSES, CHANNELS, ENTRIES = 19, 256, 300
IMAGES, SIDE, STRIDE = 2, 256, 4
BLOCK = 16  # side of the squares that labels consist of
MOMENTUM = 0.999


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(device) for device in devices]


def _update_pixel_by_pixel(bank: Tensor, bank_labels: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """The bank after one update; the first image's features averaged at all images' label positions."""
    full = F.interpolate(features[:1], size=labels.shape[-2:], mode="bilinear", align_corners=False)[0]
    pixels = full.flatten(1).T.contiguous()
    sums, counts = pixels.new_zeros(CLASSES, CHANNELS), [0] * CLASSES
    for image in labels.flatten(1).tolist():
        for place, label in enumerate(image):
            if label < CLASSES:
                sums[label] += pixels[place]
                counts[label] += 1
    means = sums / torch.tensor(counts, device=sums.device).clamp_min(1)[:, None]
    return MOMENTUM * bank + (1 - MOMENTUM) * means[bank_labels]


def _compare_on(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(IMAGES, CHANNELS, SIDE // STRIDE, SIDE // STRIDE, generator=generator).to(device)
    blocks = torch.randint(0, CLASSES + 1, (IMAGES, SIDE // BLOCK, SIDE // BLOCK), generator=generator)
    labels = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)
    labels = labels.masked_fill(labels == CLASSES, 255).to(device, torch.uint8)
    entries = torch.rand(ENTRIES, CHANNELS, generator=generator).to(device)
    entry_labels = (torch.arange(ENTRIES) % CLASSES).to(device)
    bank = InstanceBank(ENTRIES, CHANNELS, CLASSES).to(device)
    iterations = count()  # the bank is updated once in each

    def plain() -> float:
        return float(_update_pixel_by_pixel(entries, entry_labels, features, labels).sum())

    def ours() -> float:
        bank.set(entries, entry_labels)
        bank.update(features, labels, iteration=next(iterations), momentum=MOMENTUM)
        return float(bank.features.sum())  # read back, so that a GPU's work is timed

    ours()
    expected = _update_pixel_by_pixel(entries, entry_labels, features, labels)
    torch.testing.assert_close(bank.features, expected, rtol=1e-5, atol=1e-6)
    return compare(
        f"instance bank update, {device}",
        plain,
        ours,
        repeats=2,
        note=f"{IMAGES} x {SIDE} x {SIDE} labels, {CHANNELS} channels at stride {STRIDE}; aim 50x",
    )
