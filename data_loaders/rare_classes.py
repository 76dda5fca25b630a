"""Rare class sampling: source images are drawn by class, rare classes more often, and crops must show them.

Source: Hoyer et al., CVPR 2022 (DAFormer), and the authors' released code: temperature 0.01 on shares in
float32, images with more than 3000 pixels of the class, crops with more than half of that.
`tests/goldens/test_dida_rcs.py` pins probabilities, their order and which crop is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_loaders.aspect_crops import AspectCropTransform
from data_loaders.dataset import SegmentationDataset
from data_loaders.file_list import Item
from data_loaders.histogram import value_counts
from data_loaders.samples import Sample
from data_loaders.statistics import class_occurrences
from data_loaders.transforms import Pair, RandomSource
from utils.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class RareClassDistribution:
    """The classes that occur: (n,) int64 ascending by pixels; (n,) float32 probability of drawing each."""

    classes: np.ndarray
    probability: np.ndarray


def rare_class_distribution(
    pixels_per_class: Mapping[int, int], *, temperature: float
) -> RareClassDistribution:
    """softmax((1 - f) / T) over the classes that occur, f being a class's share of all pixels.

    Args:
        pixels_per_class: train id -> pixels, at least one; of equally frequent classes the first comes first.
        temperature: T above 0; a small one prefers the rarest classes.

    Source: Hoyer et al., CVPR 2022 (DAFormer); in float32, as in the authors' released code.
    """
    assert temperature > 0, temperature
    classes = np.fromiter(pixels_per_class, np.int64, len(pixels_per_class))
    pixels = np.fromiter(pixels_per_class.values(), np.int64, len(pixels_per_class))
    order = np.argsort(pixels, kind="stable")
    shares = pixels[order].astype(np.float32) / np.float32(pixels.sum())
    exponents = (1 - shares) / np.float32(temperature)
    weights = np.exp(exponents - exponents.max())
    return RareClassDistribution(classes[order], weights / weights.sum())


class RareClassSampler:
    """Draws a class by its rarity, then any image with enough of it.

    Args:
        counts: train id -> pixels of every image, as `image_statistics.statistics_for` gives them.
        temperature: of the softmax, see `rare_class_distribution`.
        min_pixels: an image can be drawn for a class if it has more pixels of it than this.
        class_names: of the class space.
        origin: the statistics file, for messages.

    Raises:
        UserError: no class at all, or one that no image shows with more than `min_pixels`.
    """

    def __init__(
        self,
        counts: Sequence[Mapping[int, int]],
        *,
        temperature: float = 0.01,
        min_pixels: int = 3000,
        class_names: Sequence[str],
        origin: str,
    ) -> None:
        self.size = len(counts)
        self.temperature = temperature
        self.min_pixels = min_pixels
        self.class_names = tuple(class_names)
        self.origin = origin
        occurrences = class_occurrences(counts)
        if not occurrences:
            raise UserError(f"{origin}: no source image has a pixel of any class; check the labels")
        self.pixels_per_class = {train: int(found.pixels.sum()) for train, found in occurrences.items()}
        self.distribution = rare_class_distribution(self.pixels_per_class, temperature=temperature)
        drawn = [occurrences[train] for train in self.distribution.classes.tolist()]
        self._images = [found.images[found.pixels > min_pixels] for found in drawn]
        self._check_images({train: int(found.pixels.max()) for train, found in occurrences.items()})
        self._bounds = self.distribution.probability.astype(np.float64).cumsum()
        self._bounds /= self._bounds[-1]

    def draw(self, generator: RandomSource) -> tuple[int, int]:
        """(train id, index of an image with enough of it); one `random` and one `integers` draw."""
        place = int(self._bounds.searchsorted(generator.random(), side="right"))
        images = self._images[place]
        drawn = int(generator.integers(0, len(images) - 1, endpoint=True))
        return int(self.distribution.classes[place]), int(images[drawn])

    def summary(self) -> list[str]:
        """Lines for the log: each class with its probability, share of the pixels and number of images."""
        total = sum(self.pixels_per_class.values())
        lines = [
            f"rare class sampling from {self.origin}: temperature {self.temperature:g}, images with more "
            f"than {self.min_pixels} pixels of the class"
        ]
        for train, probability, images in zip(
            self.distribution.classes.tolist(), self.distribution.probability, self._images, strict=True
        ):
            lines.append(
                f"  {train:>3} {self.class_names[train]:<18} drawn {probability:>7.2%}, "
                f"{self.pixels_per_class[train] / total:>8.3%} of the pixels, {len(images)} images"
            )
        return lines

    def _check_images(self, largest: Mapping[int, int]) -> None:
        """Refuses a class without an image to draw; `largest`: most pixels of each class in one image."""
        missing = [
            train
            for train, images in zip(self.distribution.classes.tolist(), self._images, strict=True)
            if not images.size
        ]
        if not missing:
            return
        first, others = missing[0], len(missing) - 1
        raise UserError(
            f"{self.origin}: no source image has more than {self.min_pixels} pixels of class {first} "
            f"({self.class_names[first]}), the most is {largest[first]}"
            + (f", and so for {others} other classes" if others else "")
            + f"; use --rare-class-min-pixels {min(largest[train] for train in missing) - 1} or less"
        )


class RareClassSamples:
    """Samples of a dataset in which the sampler, not the index, decides what is shown.

    The image is decoded and resized once; crops are drawn from it until one shows enough of the class.

    Args:
        dataset: labelled, with an AspectCropTransform.
        sampler: over the same images.
        min_crop_share: a crop is kept if it has more than this share of the sampler's `min_pixels` pixels of
            the class; 0: the first one is.
        attempts: crops drawn again at most; the last one is kept as it is.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        sampler: RareClassSampler,
        *,
        min_crop_share: float = 0.5,
        attempts: int = 10,
    ) -> None:
        assert isinstance(dataset.transform, AspectCropTransform), (
            "crops are drawn again from a resized image"
        )
        assert sampler.size == len(dataset), "sampler and dataset are of the same images"
        self.dataset = dataset
        self.transform = dataset.transform
        self.sampler = sampler
        self.min_crop_share = min_crop_share
        self.attempts = attempts

    @property
    def items(self) -> tuple[Item, ...]:
        """The images that can be drawn."""
        return self.dataset.items

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
        """A sample of the class and image that `generator` draws; `index` is ignored.

        Draws, in this order: class; image; for each crop what `AspectCropTransform.draw` draws.

        Raises:
            UserError: as `SegmentationDataset.sample`.
        """
        assert generator is not None, "a training sample needs its generator"
        train_id, drawn = self.sampler.draw(generator)
        loaded = self.dataset.load(drawn)
        image, label = self.transform.prepare(loaded.image, loaded.label)
        assert label is not None, "classes are drawn from labelled images"
        return self.dataset.finish(loaded, *self.crop(image, label, train_id, generator))

    def crop(self, image: np.ndarray, label: np.ndarray, train_id: int, generator: RandomSource) -> Pair:
        """A crop of a prepared image with enough of the class, if one of the attempts shows it."""
        enough = self.sampler.min_pixels * self.min_crop_share
        cropped = self.transform.draw(image, label, generator)
        for _ in range(self.attempts if self.min_crop_share > 0 else 0):
            if value_counts(cropped[1])[train_id] > enough:
                break
            cropped = self.transform.draw(image, label, generator)
        return cropped
