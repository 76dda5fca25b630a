"""Class counts of a batch of labels: one comparison and sum per class against one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.harness import Result, compare
from losses.class_balance import class_counts

NUM_CLASSES = 19
SHAPE = (2, 512, 1024)


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(device) for device in devices]


def _compare_on(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, NUM_CLASSES + 1, SHAPE, generator=generator)
    labels = labels.masked_fill(labels == NUM_CLASSES, 255).to(device, torch.uint8)

    def plain() -> list[int]:
        return [int((labels == index).sum()) for index in range(NUM_CLASSES)]

    def ours() -> Tensor:
        return class_counts(labels, NUM_CLASSES).cpu()  # read back, so that a GPU's work is timed

    assert ours().tolist() == plain()
    return compare(f"class counts, {device}", plain, ours, note=f"{SHAPE} labels, {NUM_CLASSES} classes")
