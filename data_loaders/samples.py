"""One image with its label, and a batch of them, as they cross from the workers to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        content: (height, width) of the part from the top left corner that shows the image, the rest is
            padding (image 0, label 255); None: no padding.
    """

    image: Tensor
    label: Tensor | None
    name: str
    size: tuple[int, int]
    content: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of equal size under a leading axis.

    Attributes:
        image: (N, 3, H, W) uint8 RGB.
        label: (N, H, W) uint8 train ids, 255 ignored; None for unlabelled images.
        names: N names.
        sizes: (N, 2) int64, (height, width) of the image files; stays on the CPU.
        draws: number of every image's draw in its stream, for randomness that is made on the device; ():
            unknown.
        content: (N, 2) int64, (height, width) from the top left corner that is no padding; stays on the CPU;
            None: no image is padded.
        skipped: one message for every time a file could not be read and another draw took its place.
    """

    image: Tensor
    label: Tensor | None
    names: tuple[str, ...]
    sizes: Tensor
    draws: tuple[int, ...] = ()
    content: Tensor | None = None
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with image and label on `device`; `non_blocking` only acts on a pinned batch."""
        label = None if self.label is None else self.label.to(device, non_blocking=non_blocking)
        return replace(self, image=self.image.to(device, non_blocking=non_blocking), label=label)

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by torch's DataLoader)."""
        label = None if self.label is None else self.label.pin_memory()
        return replace(self, image=self.image.pin_memory(), label=label)


def planar(image: np.ndarray) -> Tensor:
    """(3, H, W) contiguous tensor of an (H, W, 3) uint8 image."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(np.ascontiguousarray(image), list(planes))
    return torch.from_numpy(planes)


def collate(samples: Sequence[Sample], draws: Sequence[int] = (), skipped: Sequence[str] = ()) -> Batch:
    """The batch of some samples, in their order; all labelled or none, all of one size.

    Args:
        samples: at least one.
        draws: the draw number of each; empty: unknown.
        skipped: see `Batch`.
    """
    images = [sample.image for sample in samples]
    labels = [sample.label for sample in samples if sample.label is not None]
    assert len(labels) in (0, len(samples)), "labelled and unlabelled samples in one batch"
    assert len(draws) in (0, len(samples)), "one draw number per sample"
    return Batch(
        image=torch.stack(images),
        label=torch.stack(labels) if labels else None,
        names=tuple(sample.name for sample in samples),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        draws=tuple(draws),
        content=_content(samples),
        skipped=tuple(skipped),
    )


def _content(samples: Sequence[Sample]) -> Tensor | None:
    if all(sample.content is None for sample in samples):
        return None
    parts = [sample.content or sample.image.shape[1:] for sample in samples]
    return torch.tensor([tuple(part) for part in parts], dtype=torch.int64)
