"""Strong augmentation of self-training: colour jitter and Gaussian blur of a batch, on its device.

All parameters are numbers on the host, so no tensor is uploaded and the host never waits for a GPU. Images
are data: no gradient goes through these functions.

Source: Tranheden et al., WACV 2021 (DACS), in the semantics of the code released with DAFormer, which jitters
with kornia 0.5.8: brightness is added, contrast scales without a mean, saturation and hue go through HSV.
`tests/goldens/test_dida_strong_augmentation.py` pins pixels, gates and kernel sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import maths, seeding

SIGMA_RANGE = (0.15, 1.15)  # of the blur, in pixels
_SATURATION_EPSILON = 1e-6  # HSV saturation is (max - min) / (max + this)
_HUE_SECTORS = 6  # the hue is counted in sixths of the circle, from red
_PLANES_PER_BAND = 12  # what a row of an image needs in the cache, with the temporaries of the hue


@dataclass(frozen=True, slots=True)
class JitterFactors:
    """What is done to the colours of one image.

    Attributes:
        order: a permutation of 0 brightness, 1 contrast, 2 saturation and 3 hue: first to last.
        brightness: what is added, plus 1.
        contrast: what values are multiplied by, at least 0.
        saturation: what the HSV saturation is multiplied by, at least 0.
        hue: share of the full circle that is added to the HSV hue; any sign.
    """

    order: tuple[int, int, int, int]
    brightness: float
    contrast: float
    saturation: float
    hue: float


@dataclass(frozen=True, slots=True)
class StrongAugmentation:
    """Jitter and blur of the mixed images; the geometry stays.

    Whether an iteration jitters, and whether it blurs, is drawn once for all images of all ranks. The
    parameters are drawn for each image from its own generator, whether they are used or not.

    Attributes:
        seed: the seed of the run.
        stream: of the draws of images; the iterations' is `stream` + "/gates".
        jitter_strength: s in [0, 0.5]: factors in [1 - s, 1 + s], hue in [-s, s].
        jitter_threshold: a uniform draw above it jitters: 0.2 means in 80 % of the iterations; 1: never.
        blur_threshold: a uniform draw above it blurs.
        blur: False: never.
    """

    seed: int
    stream: str = "strong_augmentation"
    jitter_strength: float = 0.2
    jitter_threshold: float = 0.2
    blur_threshold: float = 0.5
    blur: bool = True

    def __call__(self, images: Tensor, *, iteration: int, draws: Sequence[int]) -> Tensor:
        """The augmented images; the given ones themselves in an iteration that does nothing.

        Args:
            images: (N, 3, H, W) RGB in [0, 255], of any floating type.
            iteration: the optimizer update, alike on all ranks.
            draws: N draw numbers.
        """
        assert images.is_floating_point()
        assert len(draws) == len(images)
        jitters, blurs = self.gates(iteration)
        parameters = [self.parameters(draw) for draw in draws]
        result = maths.at_least_float32(images)
        if jitters:
            jittered = [
                color_jitter(image / 255, of[0]) for image, of in zip(result, parameters, strict=True)
            ]
            result = torch.stack(jittered).mul_(255)
        if blurs:
            result = gaussian_blur(result, [sigma for _, sigma in parameters])
        return result.to(images.dtype)

    def gates(self, iteration: int) -> tuple[bool, bool]:
        """Whether the iteration jitters and whether it blurs."""
        return self.opened(
            *seeding.generator(self.seed, f"{self.stream}/gates", iteration).random(2).tolist()
        )

    def opened(self, jitter_draw: float, blur_draw: float) -> tuple[bool, bool]:
        """Whether uniform draws in [0, 1) lie above the thresholds of jitter and blur."""
        return jitter_draw > self.jitter_threshold, self.blur and blur_draw > self.blur_threshold

    def parameters(self, draw: int) -> tuple[JitterFactors, float]:
        """Jitter and blur sigma of one image, drawn in the order of the fields, sigma last."""
        generator = seeding.generator(self.seed, self.stream, draw)
        first, second, third, fourth = generator.permutation(4).tolist()
        brightness, contrast, saturation, hue = (
            self.jitter_strength * generator.uniform(-1, 1, size=4)
        ).tolist()
        factors = JitterFactors(
            (first, second, third, fourth), 1 + brightness, 1 + contrast, 1 + saturation, hue
        )
        return factors, float(generator.uniform(*SIGMA_RANGE))


def color_jitter(image: Tensor, factors: JitterFactors) -> Tensor:
    """The image after the four colour operations in their order; values stay in [0, 1].

    Brightness adds factor - 1 and contrast multiplies; both clamp to [0, 1]. Saturation multiplies the HSV
    saturation and clamps it to 1; hue turns the HSV hue.

    Args:
        image: (3, H, W) RGB in [0, 1]; half precision is promoted to float32.
        factors: see `JitterFactors`.
    """
    result = maths.at_least_float32(image).clone()
    operations: tuple[Callable[[Tensor], object], ...] = (
        lambda rows: rows.add_(factors.brightness - 1).clamp_(0, 1),
        lambda rows: rows.mul_(factors.contrast).clamp_(0, 1),
        lambda rows: _scale_saturation_(rows, factors.saturation),
        lambda rows: _turn_hue_(rows, factors.hue),
    )
    _, height, width = result.shape
    for rows in maths.row_bands(height, _PLANES_PER_BAND * width, result.device):
        for number in factors.order:
            operations[number](result[:, rows])
    return result


def blur_kernel_size(length: int) -> int:
    """Published size of the blur kernel along an axis of `length` pixels: a tenth, rounded up, then odd."""
    size = math.ceil(0.1 * length)
    return size - 1 if size % 2 == 0 else size


def gaussian_blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Images under a Gaussian of the published kernel size, reflected at the borders without the edge pixel.

    The kernel is applied along rows, then along columns, without its negligible outer taps (see
    `_half_kernel`): it differs from the full, dense one by less than the rounding error of the image's type.

    Args:
        images: (N, C, H, W); half precision is promoted to float32.
        sigmas: N standard deviations in pixels, above 0.
    """
    images = maths.at_least_float32(images)
    return torch.stack([_blurred(image, sigma) for image, sigma in zip(images, sigmas, strict=True)])


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """One (C, H, W) image: shifted copies are added pairwise, which no autocast and no TF32 touches."""
    height, width = image.shape[-2:]
    vertical = _half_kernel(sigma, blur_kernel_size(height), image.dtype)
    horizontal = _half_kernel(sigma, blur_kernel_size(width), image.dtype)
    top, left = len(vertical) - 1, len(horizontal) - 1
    image = F.pad(image, (left, left, top, top), mode="reflect")
    image = _symmetric_sum(image, vertical, dim=-2)
    return _symmetric_sum(image, horizontal, dim=-1)


def _symmetric_sum(x: Tensor, half_kernel: Sequence[float], dim: int) -> Tensor:
    """`x` under a symmetric kernel given from its middle tap outwards, where the whole kernel fits."""
    radius = len(half_kernel) - 1
    length = x.shape[dim] - 2 * radius
    total = x.narrow(dim, radius, length) * half_kernel[0]
    for offset in range(1, radius + 1):
        pair = x.narrow(dim, radius - offset, length) + x.narrow(dim, radius + offset, length)
        total.add_(pair, alpha=half_kernel[offset])
    return total


def _half_kernel(sigma: float, size: int, dtype: torch.dtype) -> list[float]:
    """Middle and right-hand taps of a Gaussian kernel whose sum is 1, cut where the rest is negligible.

    The taps left out weigh at most a quarter of the type's epsilon in all. As the others are scaled up to the
    sum 1, a blurred value changes by at most that times the range of the image: for sigma 1.15, 13 taps and
    7e-9 in float32.
    """
    assert sigma > 0
    weights = np.exp(-0.5 * (np.arange(size // 2 + 1) / sigma) ** 2)
    weights[1:] *= 2  # both sides
    weights /= weights.sum()
    outside = weights[::-1].cumsum()[::-1] - weights  # what lies beyond each tap
    radius = int(np.argmax(outside <= torch.finfo(dtype).eps / 4))
    kept = weights[: radius + 1] / weights[: radius + 1].sum()
    kept[1:] /= 2
    return kept.tolist()


def _scale_saturation_(image: Tensor, factor: float) -> None:
    """Multiplies the HSV saturation of a (3, H, W) image in place.

    With hue and value fixed, a colour's distance from its largest channel is value * saturation times a share
    that the hue determines, (value - colour) / (max - min): no hue is needed.
    """
    value, spread = _value_and_spread(image)
    distance = _saturation(value, spread).mul_(factor).clamp_(max=1).mul_(value)
    image.sub_(value).div_(_divisor_(spread)).mul_(distance).add_(value)


def _turn_hue_(image: Tensor, factor: float) -> None:
    """Adds `factor` times the full circle to the HSV hue of a (3, H, W) image in place.

    The hue is only ever read modulo the circle, so the sign that the published remainder keeps makes no
    difference. Masks are numbers 0 and 1 and choices are made by `lerp`, exact there and several times faster
    on a CPU than `where`.
    """
    red, green, blue = image
    value, spread = _value_and_spread(image)
    distance = _saturation(value, spread).mul_(value)
    red_leads = torch.ge(red, value, out=torch.empty_like(value))
    green_leads = torch.ge(green, value, out=torch.empty_like(value))
    hue = torch.lerp(torch.lerp(red - green, blue - red, green_leads), green - blue, red_leads)
    hue.div_(_divisor_(spread))
    sector = green_leads.mul_(-2).add_(4)  # green begins at 2, blue at 4, red at 0 and wins every tie
    hue.add_(torch.addcmul(sector, sector, red_leads, value=-1)).add_(_HUE_SECTORS * factor)
    hue.sub_((hue / _HUE_SECTORS).round_(), alpha=_HUE_SECTORS)  # in [-3, 3]

    lowest = value.sub_(distance)
    for channel, turn in ((red, 0), (green, -2), (blue, 2)):  # turned so that the channel's own hue is 0
        # a channel is full up to 1 from its own hue, falls to its lowest value at 2 and stays there up to 3
        share = (hue + turn).abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
        torch.addcmul(lowest, distance, share, out=channel)


def _value_and_spread(image: Tensor) -> tuple[Tensor, Tensor]:
    """Largest of the three channels, and how far the smallest lies below it."""
    value = image.amax(0)
    return value, value - image.amin(0)


def _saturation(value: Tensor, spread: Tensor) -> Tensor:
    """HSV saturation in [0, 1)."""
    return spread / (value + _SATURATION_EPSILON)


def _divisor_(spread: Tensor) -> Tensor:
    """The spread itself, in place no longer 0 where the colour is grey: 0 divided by it is 0."""
    return spread.clamp_min_(torch.finfo(spread.dtype).tiny)
