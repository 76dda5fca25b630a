"""Acquisition scores: how much a network could learn from the label of a pixel or of the region around it.

RIPU multiplies the impurity of a region (entropy of the classes predicted in it) by its uncertainty (entropy
of the probabilities); DWACA is RIPU with each pixel's entropy weighted by its predicted class.

Everything runs in at least float32, without autocast, with 1e-6 inside every logarithm and windows clipped at
the border. On the CPU the class axis exists for a band of rows only: no (C, H, W) tensor at the size of the
image and no one-hot encoding is made.

Source: the authors' released code of RIPU (Xie et al., CVPR 2022) and DWACA (Guan and Yuan);
`tests/goldens/test_ripu_scores.py` and `test_dwaca_scores.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from utils import maths

Size = tuple[int, int]  # (H, W)

EPS = 1e-6  # a region of one class gets the impurity -log(1 + EPS), below zero: it decides among such regions
ENTROPY_UNIT = math.log(19)  # of region scores, also for 16 classes, as released
_NO_CLASS = 255  # predicted outside the image


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMaps:
    """Score of every pixel of one image and what it is made of.

    Attributes:
        score: (H, W) impurity * uncertainty; the higher, the sooner a pixel is picked.
        impurity: (H, W) entropy of the classes predicted around each pixel.
        uncertainty: (H, W) entropy of the probabilities, of the pixel or averaged around it.
        prediction: (H, W) uint8 train ids.
    """

    score: Tensor
    impurity: Tensor
    uncertainty: Tensor
    prediction: Tensor


@torch.no_grad()
def region_scores(
    logits: Tensor,
    *,
    size: Size | None = None,
    network_input: Size | None = None,
    radius: int,
    class_weight: Tensor | np.ndarray | None = None,
) -> ScoreMaps:
    """Scores of the square regions around each pixel (RIPU's region setting; DWACA with `class_weight`).

    Args:
        logits: (C, h, w) of one image, at network stride.
        size: (H, W) of the image. None: the logits have it already.
        network_input: (h', w') of the network's input; the logits are resized to it first and then to `size`,
            which gives other scores than one resize. Needed with `size`.
        radius: the window is (2 * radius + 1) squared.
        class_weight: (C,) float64 that multiplies the entropy of the pixels predicted as each class.

    Returns:
        Impurity and uncertainty in units of log 19.

    Raises:
        ValueError: logits are not finite, or there is not one weight per class.
    """
    entropy, prediction = _entropy_and_prediction(logits, size, network_input, class_weight)
    uncertainty = _window_mean(entropy.div_(ENTROPY_UNIT), radius)
    impurity = region_impurity(prediction, len(logits), radius, entropy.dtype).div_(ENTROPY_UNIT)
    return ScoreMaps(impurity * uncertainty, impurity, uncertainty, prediction)


@torch.no_grad()
def pixel_scores(
    logits: Tensor, *, size: Size | None = None, network_input: Size | None = None, radius: int
) -> ScoreMaps:
    """Scores of single pixels (RIPU's pixel setting): own entropy times the impurity around, both in nats.

    Arguments and errors as for `region_scores`.
    """
    entropy, prediction = _entropy_and_prediction(logits, size, network_input)
    impurity = region_impurity(prediction, len(logits), radius, entropy.dtype)
    return ScoreMaps(impurity * entropy, impurity, entropy, prediction)


@torch.no_grad()
def entropy_scores(
    logits: Tensor, *, size: Size | None = None, network_input: Size | None = None, radius: int
) -> ScoreMaps:
    """Mean entropy around each pixel alone, in units of log 19; the impurity is 1 everywhere.

    A baseline. Arguments and errors as for `region_scores`.
    """
    entropy, prediction = _entropy_and_prediction(logits, size, network_input)
    uncertainty = _window_mean(entropy.div_(ENTROPY_UNIT), radius)
    return ScoreMaps(uncertainty.clone(), torch.ones_like(uncertainty), uncertainty, prediction)


def random_scores(size: Size, generator: np.random.Generator) -> Tensor:
    """(H, W) float32 noise in [0, 1): picks at random places. A baseline."""
    return torch.from_numpy(generator.random(size, dtype=np.float32))


def region_impurity(prediction: Tensor, num_classes: int, radius: int, dtype: torch.dtype) -> Tensor:
    """Entropy of the predicted classes around each pixel, in nats.

    Args:
        prediction: (H, W) uint8 train ids in [0, num_classes).
        num_classes: C, at most 255.
        radius: the window is (2 * radius + 1) squared and shrinks at the border.
        dtype: of the result.

    Returns:
        (H, W) in [-log(1 + 1e-6), log C]; the lowest value where the window holds one class.
    """
    height, width = prediction.shape
    radius = _useful_radius(radius, (height, width))
    padded = F.pad(prediction, (radius,) * 4, value=_NO_CLASS)
    area = _window_area((height, width), radius, dtype, prediction.device)
    impurity = torch.zeros((height, width), dtype=dtype, device=prediction.device)
    for rows in maths.row_bands(height, 4 * width, prediction.device):
        window = padded[rows.start : rows.stop + 2 * radius]
        for index in range(num_classes):
            share = _class_share(window == index, radius, area[rows])
            if share is not None:
                impurity[rows] -= (share + EPS).log_().mul_(share)
    return impurity


def _class_share(member: Tensor, radius: int, area: Tensor) -> Tensor | None:
    """Share of the window's pixels that are `member`; None where the host sees at once that none is.

    Counts are integers of the narrowest type that holds the largest one, hence exact.
    """
    if member.device.type == "cpu" and not member.any():
        return None
    largest = (2 * radius + 1) ** 2
    kind = next(kind for kind in (torch.uint8, torch.int16, torch.int32) if largest <= torch.iinfo(kind).max)
    counts = maths.window_reduce(member.to(kind), 2 * radius + 1)
    return counts.to(area.dtype).div_(area)


def _entropy_and_prediction(
    logits: Tensor,
    size: Size | None,
    network_input: Size | None,
    class_weight: Tensor | np.ndarray | None = None,
) -> tuple[Tensor, Tensor]:
    """Entropy (H, W) of the probabilities in nats, weighted by class if asked, and predicted train ids."""
    logits = maths.at_least_float32(logits)
    _check(logits, size, network_input)
    height, width = size or logits.shape[1:]
    entropy = torch.empty((height, width), dtype=logits.dtype, device=logits.device)
    prediction = torch.empty((height, width), dtype=torch.uint8, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        for rows, band in _bands(logits, (height, width), network_input):
            probability = _softmax(band)
            prediction[rows] = first_maximum(probability)
            log_probability = torch.add(probability, EPS).log_()
            entropy[rows] = _sum_over_classes(probability.mul_(log_probability)).neg_()
    if class_weight is not None:
        entropy = weighted_by_class(entropy, prediction, class_weight, len(logits))
    return entropy, prediction


def _softmax(logits: Tensor) -> Tensor:
    """Probabilities over dimension 0, the same bits for any number of threads and any height of a band.

    torch's own kernels end each part of their work in another arithmetic.
    """
    probability = (logits - logits.amax(0)).exp_()
    return probability.div_(_sum_over_classes(probability))


def _sum_over_classes(values: Tensor) -> Tensor:
    total = values[0].clone()
    for plane in values[1:]:
        total.add_(plane)
    return total


def _check(logits: Tensor, size: Size | None, network_input: Size | None) -> None:
    assert logits.ndim == 3, "logits of one image are (C, h, w)"
    assert len(logits) <= _NO_CLASS, "train ids are uint8"
    assert (size is None) == (network_input is None), "logits are resized twice or not at all"
    extremes = torch.stack(torch.aminmax(logits))  # NaN if there is one; `isfinite` would copy the logits
    if not torch.isfinite(extremes).all():
        raise ValueError(f"{int((~torch.isfinite(logits)).sum())} of {logits.numel()} logits are not finite")


def _bands(logits: Tensor, size: Size, network_input: Size | None) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their logits (C, rows, W) at `size`, resized bilinearly with aligned corners in two steps.

    A device does all rows at once. On the CPU the height is resized first, while the rows are still short,
    and the width band by band.
    """
    height, width = size
    classes, _, low_width = logits.shape
    on_cpu = logits.device.type == "cpu"
    for step in (network_input, size) if network_input is not None else ():
        logits = maths.upsample(logits[None], (step[0], low_width) if on_cpu else step)[0]
    for rows in maths.row_bands(height, classes * width, logits.device):
        band = logits[:, rows]
        if on_cpu and network_input is not None:
            band = _resized_width(_resized_width(band, network_input[1]), width)
        yield rows, band


def _resized_width(band: Tensor, width: int) -> Tensor:
    if band.shape[-1] == width:
        return band
    return F.interpolate(band, size=width, mode="linear", align_corners=True)


def first_maximum(probability: Tensor) -> Tensor:
    """Index along dimension 0 of the maximum, the lowest on ties, as uint8; (C, ...) gives (...).

    Ten times faster on a CPU than `argmax`, which walks down the classes pixel by pixel.
    """
    classes = len(probability)
    order = torch.arange(classes, 0, -1, dtype=torch.uint8, device=probability.device)
    order = order.view(-1, *[1] * (probability.ndim - 1))  # the lowest class counts highest
    is_maximum = probability == probability.amax(0)
    return classes - is_maximum.view(torch.uint8).mul_(order).amax(0)


def weighted_by_class(
    entropy: Tensor, prediction: Tensor, class_weight: Tensor | np.ndarray, num_classes: int
) -> Tensor:
    """Entropy times the weight of the predicted class: product in float64, rounded once to the map's type.

    Raises:
        ValueError: `class_weight` is not (num_classes,).
    """
    weight = torch.as_tensor(class_weight, dtype=torch.float64, device=entropy.device)
    if weight.shape != (num_classes,):
        raise ValueError(f"{num_classes} classes need as many class weights, got shape {tuple(weight.shape)}")
    pixel_weight = weight.index_select(0, prediction.flatten().int()).view_as(entropy)
    return pixel_weight.mul_(entropy).to(entropy.dtype)


def _window_mean(values: Tensor, radius: int) -> Tensor:
    """Mean over the window around each pixel, (H, W)."""
    radius = _useful_radius(radius, tuple(values.shape))
    total = maths.window_reduce(F.pad(values, (radius,) * 4), 2 * radius + 1)
    return total.div_(_window_area(tuple(values.shape), radius, values.dtype, values.device))


def _window_area(size: Size, radius: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Number of pixels of each pixel's window that lie inside the image, (H, W)."""
    inside = []
    for length in size:
        place = torch.arange(length, device=device)
        inside.append((place + radius).clamp_max(length - 1) - (place - radius).clamp_min(0) + 1)
    return (inside[0][:, None] * inside[1]).to(dtype)


def _useful_radius(radius: int, size: Size) -> int:
    """A window that reaches beyond every border from every pixel need not be larger."""
    return min(radius, max(size) - 1)
