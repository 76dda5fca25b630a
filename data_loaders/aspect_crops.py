"""Crops of images that were resized with their proportions kept: what DAFormer and DIDA train on.

Source: the authors' released code of Hoyer et al., CVPR 2022 (DAFormer), which DIDA trains with;
`tests/goldens/test_dida_preprocessing.py` pins sizes, pixels and which crop is taken.
"""

from __future__ import annotations

import cv2
import numpy as np

from data_loaders.histogram import value_counts
from data_loaders.resampling import resize_image, resize_label
from data_loaders.transforms import Pair, RandomSource
from utils.class_spaces import IGNORE_LABEL

_RESAMPLING = "opencv_bilinear"  # labels: OpenCV's nearest neighbour


def fitted_size(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image resized as large as `limit` allows, its proportions kept.

    Args:
        size: (width, height) of the image.
        limit: two lengths; the image's long side may reach the longer one, its short side the shorter one,
            whatever their order. A smaller image grows.
    """
    factor = min(max(limit) / max(size), min(limit) / min(size))
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


class AspectCropTransform:
    """Resize to fit, crop at a random place, mirror.

    Draws, in this order: top and left of each crop tried, also where there is only one place; mirror. The
    label takes the size of the resized image, whatever its own. An image that is smaller than the crop stays
    so: `SegmentationDataset` pads it.

    Args:
        limit: (width, height) into which the image is fitted, see `fitted_size`.
        crop: (height, width) to cut out.
        largest_share: a crop with one class only, or in which the largest class has at least this share of
            the pixels that are not ignored, is drawn again; None: the first crop is taken.
        attempts: crops to try; the last one is taken as it is.
        mirror: flip left and right with probability 0.5.
    """

    def __init__(
        self,
        *,
        limit: tuple[int, int],
        crop: tuple[int, int],
        largest_share: float | None = None,
        attempts: int = 11,
        mirror: bool = True,
    ) -> None:
        assert attempts >= 1, attempts
        self.limit = limit
        self.crop = crop
        self.largest_share = largest_share
        self.attempts = attempts
        self.mirror = mirror

    def __call__(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """Image and label of at most the crop's size; see the class for what `generator` is asked."""
        return self.draw(*self.prepare(image, label), generator)

    def prepare(self, image: np.ndarray, label: np.ndarray | None) -> Pair:
        """The resized image and label, from which `draw` can crop as often as needed."""
        size = fitted_size((image.shape[1], image.shape[0]), self.limit)
        resized = resize_image(image, size, _RESAMPLING)
        return resized, None if label is None else resize_label(label, size, _RESAMPLING)

    def draw(self, image: np.ndarray, label: np.ndarray | None, generator: RandomSource | None) -> Pair:
        """One random crop of a prepared image and label."""
        assert generator is not None, "a training sample needs its generator"
        assert label is None or label.shape == image.shape[:2], "image and label were prepared together"
        window = self._draw_window(image, generator)
        for _ in range(self.attempts - 1):
            if self.largest_share is None or label is None:
                break
            if is_mixed(label[window], self.largest_share):
                break
            window = self._draw_window(image, generator)
        image, label = image[window], None if label is None else label[window]
        if self.mirror and generator.random() < 0.5:
            return cv2.flip(image, 1), None if label is None else cv2.flip(label, 1)
        return image, label

    def _draw_window(self, image: np.ndarray, generator: RandomSource) -> tuple[slice, slice]:
        """Rows and columns of the next crop."""
        (height, width), (rows, columns) = image.shape[:2], self.crop
        top = int(generator.integers(0, max(0, height - rows), endpoint=True))
        left = int(generator.integers(0, max(0, width - columns), endpoint=True))
        return slice(top, top + rows), slice(left, left + columns)


def is_mixed(label: np.ndarray, largest_share: float) -> bool:
    """Whether several classes are in a crop and none has `largest_share` of its pixels, 255 left out.

    Args:
        label: (H, W) uint8 train ids.
        largest_share: in (0, 1]; exactly this share is too much.
    """
    counts = value_counts(label)[:IGNORE_LABEL]
    return bool(np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < largest_share)
