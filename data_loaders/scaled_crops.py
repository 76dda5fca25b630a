"""Crops of images that were resized twice, to a fixed size and by a random scale: what MADA trains on.

Source: the authors' released code of Ning et al., ICCV 2021 (MADA); `tests/goldens/test_mada_preprocess.py`
pins sizes, pixels and draws. Without augmentation its images are those of
`TrainingTransform(size=..., crop=None, resampling="pillow_bilinear")`.
"""

from __future__ import annotations

import cv2
import numpy as np

from data_loaders.autoaugment import RandomSource
from data_loaders.resampling import Window, resize_image, resize_label
from data_loaders.transforms import Pair

_RESAMPLING = "pillow_bilinear"  # labels: Pillow's nearest neighbour


class ScaledCropTransform:
    """Resize to a fixed size, resize by a random scale, crop at a random place, mirror.

    Both resizes round to bytes, and both pick a label's nearest neighbours. Of the second only the crop is
    computed, which changes no bit. Image and label are resized each from its own size. A scaled image that is
    smaller than the crop in either direction is resized to the crop's size instead: no sample is padded.

    Draws, in this order: scale; left and top of the crop unless the scaled image is smaller; mirror.

    Args:
        size: (width, height) to resize to before anything is drawn. Whatever the proportions of the image
            (MADA gives its bought images, which are 2:1, the size of GTA5's).
        crop: (height, width) of every sample.
        scaled_width: width at scale 1; the height follows from the proportions of `size`.
        scale_range: bounds of the uniform scale.
        mirror: probability of flipping left and right.
    """

    def __init__(
        self,
        *,
        size: tuple[int, int],
        crop: tuple[int, int],
        scaled_width: int,
        scale_range: tuple[float, float] = (0.5, 1.5),
        mirror: float = 0.5,
    ) -> None:
        assert 0 < scale_range[0] <= scale_range[1], scale_range
        assert 0 <= mirror <= 1, mirror
        self.size = size
        self.crop = crop
        self.scaled_width = scaled_width
        self.scale_range = scale_range
        self.mirror = mirror

    def __call__(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """Image and label of the crop's size; see the class for what `generator` is asked."""
        assert generator is not None, "a training sample needs its generator"
        image, label = _resized((image, label), self.size)
        scaled_size = self._draw_size(generator)
        if scaled_size[0] < self.crop[1] or scaled_size[1] < self.crop[0]:
            scaled = _resized((image, label), scaled_size)
            image, label = _resized(scaled, self.crop[::-1])
        else:
            image, label = _resized((image, label), scaled_size, self._draw_window(scaled_size, generator))
        if generator.random() < self.mirror:
            image, label = cv2.flip(image, 1), None if label is None else cv2.flip(label, 1)
        return image, label

    def _draw_size(self, generator: RandomSource) -> tuple[int, int]:
        """(width, height), each cut off to an integer."""
        lowest, highest = self.scale_range
        scale = lowest + (highest - lowest) * float(generator.random())
        width = max(1, int(scale * self.scaled_width))
        return width, max(1, int(width / (self.size[0] / self.size[1])))

    def _draw_window(self, size: tuple[int, int], generator: RandomSource) -> Window:
        height, width = self.crop
        left = int(generator.integers(0, size[0] - width, endpoint=True))
        top = int(generator.integers(0, size[1] - height, endpoint=True))
        return Window(top, left, height, width)


def _resized(pair: Pair, size: tuple[int, int], window: Window | None = None) -> Pair:
    """The window of an image and its label resized to `size` (width, height)."""
    image, label = pair
    return (
        resize_image(image, size, _RESAMPLING, window),
        None if label is None else resize_label(label, size, _RESAMPLING, window),
    )
