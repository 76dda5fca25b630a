"""One image with its label, and a batch of them, as they cross from the workers to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sample:
    """One transformed image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        label: (H, W) uint8 train ids, 255 ignored; None for an unlabelled image.
        name: the image's name in its file list.
        size: (height, width) of the image file, before any transform.
    """

    image: Tensor
    label: Tensor | None
    name: str
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of equal size under a leading axis.

    Attributes:
        image: (N, 3, H, W) uint8 RGB.
        label: (N, H, W) uint8 train ids, 255 ignored; None for unlabelled images.
        names: N names.
        sizes: (N, 2) int64, (height, width) of the image files; stays on the CPU.
    """

    image: Tensor
    label: Tensor | None
    names: tuple[str, ...]
    sizes: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with image and label on `device`; `non_blocking` only acts on a pinned batch."""
        label = None if self.label is None else self.label.to(device, non_blocking=non_blocking)
        return Batch(self.image.to(device, non_blocking=non_blocking), label, self.names, self.sizes)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        label = None if self.label is None else self.label.pin_memory()
        return Batch(self.image.pin_memory(), label, self.names, self.sizes)


def planar(image: np.ndarray) -> Tensor:
    """(3, H, W) contiguous tensor of an (H, W, 3) uint8 image."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(np.ascontiguousarray(image), list(planes))
    return torch.from_numpy(planes)


def collate(samples: Sequence[Sample]) -> Batch:
    """The batch of some samples, in their order; all labelled or none, all of one size."""
    images = [sample.image for sample in samples]
    labels = [sample.label for sample in samples if sample.label is not None]
    assert len(labels) in (0, len(samples)), "labelled and unlabelled samples in one batch"
    return Batch(
        image=torch.stack(images),
        label=torch.stack(labels) if labels else None,
        names=tuple(sample.name for sample in samples),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
    )
