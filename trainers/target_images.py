"""Target images as a query round reads them: by name, resized to what the network is to see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from data_loaders.decoding import read_image
from data_loaders.discovery import FileList, Item
from data_loaders.resampling import resize_image
from data_loaders.samples import planar
from selection.store import BoughtLabels
from utils.class_spaces import IGNORE_LABEL

Size = tuple[int, int]


class TargetImages(Protocol):
    """Where the images of a query round come from; a list on disk, or arrays in a test."""

    names: Sequence[str]  # in list order
    fingerprint: str  # changes with the list

    def network_input(self, name: str) -> tuple[Tensor, Size]:
        """Image (3, h, w) for the network, and its own (H, W). Called in threads."""
        ...

    def picture(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB, for people to look at."""
        ...


class FileImages:
    """Images of a file list, resized to `size` (W, H) with the method's filter; None: as they are."""

    def __init__(
        self, files: FileList, size: tuple[int, int] | None, *, resampling: str = "pillow_bicubic"
    ) -> None:
        self.paths: dict[str, Path] = {item.name: item.image for item in files.items}
        self.names = tuple(self.paths)
        self.fingerprint = files.fingerprint()
        self.size = size
        self.resampling = resampling

    def network_input(self, name: str) -> tuple[Tensor, Size]:
        """Image (3, h, w) uint8 RGB, and its own (H, W)."""
        image = read_image(self.paths[name])
        height, width = image.shape[:2]
        return planar(resize_image(image, self.size or (width, height), self.resampling)), (height, width)

    def picture(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return read_image(self.paths[name])


class BoughtLabelReader:
    """Labels of target images for training: what was bought so far, 255 elsewhere.

    `bought` is replaced after every round; loader workers that start later see the new one.
    """

    def __init__(self, bought: BoughtLabels) -> None:
        self.bought = bought

    def __call__(self, item: Item) -> np.ndarray:
        """(H, W) uint8 train ids; for an image nobody asked about a single 255, which resizes to any size."""
        if self.bought.size_of(item.name) is None:
            return np.full((1, 1), IGNORE_LABEL, np.uint8)
        return self.bought.mask(item.name)
