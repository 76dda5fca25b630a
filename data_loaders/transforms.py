"""What happens to an image and its label between the file and the batch.

Source of the training transform: the data loaders of the code released with Zheng & Yang, IJCV 2021;
`tests/goldens/test_mrnet_loaders.py` replays their recorded draws.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from data_loaders.autoaugment import RandomSource, augment
from data_loaders.resampling import RESAMPLINGS, Window, resize_image, resize_label
from utils.errors import UserError

Pair = tuple[np.ndarray, np.ndarray | None]


class Transform(Protocol):
    """Turns a decoded image and label into what a sample holds."""

    def __call__(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """(H, W, 3) uint8 RGB and (H, W) uint8 train ids or None, before and after."""
        ...


class TrainingTransform:
    """Resize with scale jitter, colour policies, crop, mirror.

    Draws, in this order and each only where it is switched on: scale; colour policy; top and left of each
    crop tried; mirror. Image and label are resized each from its own size (GTA5 has pairs of different size).

    Args:
        size: (width, height) to resize to, at scale 1.
        crop: (height, width) to cut out at a random place; None: the whole image.
        scale_range: bounds of the uniform scale, one draw for both sides; None: always 1.
        crop_attempts: crops to try until one shows enough classes; the last one is taken as it is.
        crop_min_classes: a crop is taken once it holds more distinct label values than this (255 counts).
        mirror: flip left and right with probability 0.5.
        autoaugment: apply one of the colour policies of `data_loaders.autoaugment`.
        resampling: one of RESAMPLINGS; the label's nearest neighbour comes from the same library.

    Raises:
        UserError: the crop does not fit into the smallest resized image.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        crop: tuple[int, int] | None,
        scale_range: tuple[float, float] | None = None,
        crop_attempts: int = 1,
        crop_min_classes: int = 0,
        mirror: bool = False,
        autoaugment: bool = False,
        resampling: str = "pillow_bicubic",
    ) -> None:
        assert resampling in RESAMPLINGS, resampling
        assert crop_attempts >= 1, crop_attempts
        if scale_range is not None and crop is None:
            raise UserError(
                "a random scale needs a crop size: without one the images of a batch differ in size"
            )
        self.size = size
        self.crop = crop
        self.scale_range = scale_range
        self.crop_attempts = crop_attempts
        self.crop_min_classes = crop_min_classes
        self.mirror = mirror
        self.autoaugment = autoaugment
        self.resampling = resampling
        self._is_random = mirror or autoaugment or crop is not None or scale_range is not None
        self._check_crop()

    def __call__(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """Image and label of the crop's size; see the class for what `generator` is asked: None where nothing
        is drawn."""
        assert generator is not None or not self._is_random, "a training sample needs its generator"
        size = self._draw_size(generator)
        if self.autoaugment:  # policies look at the histogram of the whole resized image
            image = augment(resize_image(image, size, self.resampling), generator)
        window, label = self._draw_crop(label, size, generator)
        image = resize_image(image, size, self.resampling, window)
        if self.mirror and generator.random() < 0.5:
            image = cv2.flip(image, 1)
            label = None if label is None else cv2.flip(label, 1)
        return image, label

    def _draw_size(self, generator: RandomSource) -> tuple[int, int]:
        if self.scale_range is None:
            return self.size
        lowest, highest = self.scale_range
        return _scaled(self.size, lowest + (highest - lowest) * float(generator.random()))

    def _draw_crop(
        self, label: np.ndarray | None, size: tuple[int, int], generator: RandomSource
    ) -> tuple[Window | None, np.ndarray | None]:
        """A window of the resized image and the label inside; without a label the first window is taken."""
        if self.crop is None:
            return None, None if label is None else resize_label(label, size, self.resampling)
        window = self._draw_window(size, generator)
        if label is None:
            return window, None
        cropped = resize_label(label, size, self.resampling, window)
        for _ in range(self.crop_attempts - 1):
            if distinct_values(cropped) > self.crop_min_classes:
                break
            window = self._draw_window(size, generator)
            cropped = resize_label(label, size, self.resampling, window)
        return window, cropped

    def _draw_window(self, size: tuple[int, int], generator: RandomSource) -> Window:
        height, width = self.crop
        top = int(generator.integers(0, size[1] - height, endpoint=True))
        left = int(generator.integers(0, size[0] - width, endpoint=True))
        return Window(top, left, height, width)

    def _check_crop(self) -> None:
        if self.crop is None:
            return
        lowest = 1.0 if self.scale_range is None else self.scale_range[0]
        smallest = _scaled(self.size, lowest)
        if self.crop[1] > smallest[0] or self.crop[0] > smallest[1]:
            jittered = "" if lowest == 1.0 else f", as the scale jitter goes down to {lowest:g}"
            raise UserError(
                f"the crop {self.crop[1]},{self.crop[0]} (W,H) does not fit into images resized to "
                f"{self.size[0]},{self.size[1]}: the smallest is {smallest[0]},{smallest[1]}{jittered}; "
                "use a smaller crop size or a larger input size"
            )


def distinct_values(label: np.ndarray) -> int:
    """How many different ids an (H, W) uint8 map holds."""
    return int(np.count_nonzero(cv2.calcHist([label], [0], None, [256], [0, 256])))


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(width, height), each times `scale` and rounded half to even."""
    return round(size[0] * scale), round(size[1] * scale)
