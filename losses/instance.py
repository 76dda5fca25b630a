"""DIDA's instance loss: the student's similarities to stored source features follow the teacher's.

Source: the authors' released code (DIDA, on DAFormer). Every pixel's feature e is compared with K bank
features b_k by plain dot products. A student's similarities z_k become shares s_k = z_k / sum_j z_j, without
softmax or temperature; a teacher's u_k, weighted with the score l of the entry's class c_k, become the target
t_k = u_k l_{c_k} / sum_j u_j l_{c_j}. The loss of a pixel is -sum_k t_k log(s_k + 1e-10).
`tests/goldens/test_dida_instance_loss.py` pins all of it.

How it is computed: K maps at full size would need gigabytes. Dot products and bilinear resizing commute, so
similarities are taken at the features' own size and enlarged tile by tile, and the gradient of a tile is
reduced to that size at once. Denominators are dot products too, with sums of bank features. So are
y_k = z_k + 1e-10 y_0 with y_0 = sum_j z_j, hence s_k + 1e-10 = y_k / y_0, and y_0 is the sum of all y_k but
for a factor of 1 + 1e-10 K. Since the targets sum to 1, the gradient with respect to y_k is
(1 / (1 + 1e-10 K) - t_k / (s_k + 1e-10)) / y_0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils import maths
from utils.precision import exact_float32

_EPSILON = 1e-10  # inside the logarithm, as released
_TILE = 16  # pixels along a side; on a CPU three arrays of K x 256 values fit the second-level cache
_CPU_BAND = 64  # pixel rows of a band on a CPU: the maps at low size stay small, few rows are taken twice
_GPU_TEMPORARY = 96 << 20  # bytes of one of the three arrays over the pixels of a band on a GPU


def instance_loss(
    student_features: Tensor,
    teacher_features: Tensor,
    bank_features: Tensor,
    bank_labels: Tensor,
    *,
    size: tuple[int, int],
    class_logits: Tensor | None,
    softmax: bool = False,
) -> Tensor:
    """Mean over all pixels at `size` of -sum_k t_k log(s_k + 1e-10), without the method's weight.

    Nothing is masked. Pixels where a denominator is exactly 0, such as those of an all-zero feature, count
    in the mean with loss and gradient 0. Raw logits have both signs: targets may be negative or in the
    hundreds and single gradients large; nothing is clamped. Every rank holds equally many pixels, so the
    mean over ranks is the loss of the global batch. In at least float32, also under autocast; without TF32.

    Args:
        student_features: (N, D, h, w) at least 0, such as what a ReLU gives; the only input with a gradient
            (negative shares have no logarithm). Second derivatives are not available.
        teacher_features: (N, D, h, w).
        bank_features: (K, D) at least 0.
        bank_labels: (K,) int64 in [0, C); classes may be missing. Not read without `class_logits`.
        size: (H, W) to which features and logits are resized bilinearly, corners not aligned.
        class_logits: (N, C, h, w), whose resized values weight the target; None: t_k = u_k / sum_j u_j.
        softmax: weight with the probabilities of the resized logits instead of the logits.

    Returns:
        Scalar in the type of the student's features, at least float32.
    """
    assert student_features.shape == teacher_features.shape, (student_features.shape, teacher_features.shape)
    assert bank_features.shape == (len(bank_labels), student_features.shape[1]), bank_features.shape
    student = maths.at_least_float32(student_features)
    teacher, bank = teacher_features.detach().to(student.dtype), bank_features.detach().to(student.dtype)
    if class_logits is None:  # as with one class whose score is 1
        scores, bank_labels, softmax = torch.ones_like(teacher[:, :1]), torch.zeros_like(bank_labels), False
    else:
        scores = class_logits.detach().to(student.dtype)
    assert scores.shape[2:] == teacher.shape[2:], (scores.shape, teacher.shape)
    wants_gradient = student.requires_grad and torch.is_grad_enabled()
    with torch.autocast(student.device.type, enabled=False), exact_float32():
        prepared = _prepared(bank, bank_labels, scores.shape[1])
        total = _SumOverPixels.apply(student, teacher, scores, prepared, tuple(size), softmax, wants_gradient)
    return total / (len(student) * size[0] * size[1])


@torch.no_grad()
def aggregated_similarity(
    teacher_features: Tensor,
    bank_features: Tensor,
    bank_labels: Tensor,
    *,
    num_classes: int,
    size: tuple[int, int],
) -> Tensor:
    """The teacher's shares u_k / sum_j u_j summed over the entries of each class, at full size.

    (1 - a) times it is what smoothing by a < 1 adds to the teacher's probabilities.

    Args:
        teacher_features: (N, D, h, w).
        bank_features: (K, D).
        bank_labels: (K,) int64 in [0, C); a class without an entry gets 0.
        num_classes: C.
        size: (H, W).

    Returns:
        (N, C, H, W) in at least float32, sums to 1 over the classes; 0 where all similarities are 0.
    """
    teacher = maths.at_least_float32(teacher_features)
    with torch.autocast(teacher.device.type, enabled=False), exact_float32():
        sums = class_sums(bank_features.to(teacher.dtype), bank_labels, num_classes)
        low = similarities(teacher.flatten(2), sums).mT.unflatten(2, teacher.shape[2:])
        similarity = maths.upsample(low, size, align_corners=False)
        return similarity * _reciprocal(similarity.sum(1, keepdim=True))


def similarities(features: Tensor, bank_features: Tensor) -> Tensor:
    """(..., P, K) dot products of (..., D, P) features with (K, D) bank features."""
    return features.mT @ bank_features.T


def class_sums(bank_features: Tensor, bank_labels: Tensor, num_classes: int) -> Tensor:
    """(C, D) sums of the bank features of each class; by their dot products the entries' are summed."""
    sums = bank_features.new_zeros(num_classes, bank_features.shape[1])
    return sums.index_add_(0, bank_labels, bank_features)


def target_factors(class_similarity: Tensor, scores: Tensor, *, softmax: bool = False) -> Tensor:
    """What each class multiplies the teacher's similarities by: t_k = u_k * factor of c_k.

    Args:
        class_similarity: (..., C, P) sums of u_k over the entries of each class.
        scores: (..., C, P) logits of the classes.
        softmax: their probabilities count.

    Returns:
        (..., C, P) l_c / sum_j u_j l_{c_j}; 0 where that sum is exactly 0.
    """
    if softmax:
        scores = F.softmax(scores, dim=-2)
    return scores * _reciprocal((class_similarity * scores).sum(-2, keepdim=True))


def _reciprocal(x: Tensor) -> Tensor:
    """1 / x, and 0 for 0."""
    return torch.where(x == 0, x, 1 / x)


@dataclass(frozen=True, slots=True)
class _Bank:
    """What features are multiplied with."""

    teacher: Tensor  # (K, D) the entries b_k
    student: Tensor  # (K, D) b_k + 1e-10 times their sum
    whole: Tensor  # (1, D) their sum
    classes: Tensor  # (C, D) sums of the entries of each class
    labels: Tensor  # (K,) class of every entry


def _prepared(bank: Tensor, labels: Tensor, num_classes: int) -> _Bank:
    whole = bank.sum(0, keepdim=True)
    return _Bank(bank, bank + _EPSILON * whole, whole, class_sums(bank, labels, num_classes), labels)


@dataclass(frozen=True, slots=True)
class _Maps:
    """Similarities and scores of a few rows of one image at low size; the first axis is the position."""

    student: Tensor  # (h*w, K) y_k
    total: Tensor  # (h*w, 1) y_0
    teacher: Tensor  # (h*w, K) u_k
    classes: Tensor  # (h*w, 2 C) sums of u_k over the entries of each class, then scores
    gradient: Tensor | None  # (h*w, K) of the loss with respect to `student`, summed up tile by tile


class _SumOverPixels(torch.autograd.Function):
    """Sum of the losses of all pixels at full size; keeps the gradient at the features' size for backward."""

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        scores: Tensor,
        bank: _Bank,
        size: tuple[int, int],
        softmax: bool,
        wants_gradient: bool,
    ) -> Tensor:
        gradient = torch.zeros_like(student) if wants_gradient else None
        total = student.new_zeros((), dtype=torch.float64)
        for band in _bands(student, size, len(bank.labels)):
            for image in range(len(student)):
                part = (image, slice(None), band.rows)
                maps = _low_maps(student[part], teacher[part], scores[part], bank, wants_gradient)
                for taps, weights in band.steps():
                    total += _tiles_loss(maps, taps, weights, bank.labels, softmax)
                if wants_gradient:
                    gradient[part] += (bank.student.T @ maps.gradient.T).view_as(gradient[part])
        ctx.save_for_backward(gradient)
        return total.to(student.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None, None, None, None


def _low_maps(student: Tensor, teacher: Tensor, scores: Tensor, bank: _Bank, wants_gradient: bool) -> _Maps:
    """Maps of (D, h, w) features and (C, h, w) scores."""
    student, teacher, scores = student.flatten(1), teacher.flatten(1), scores.flatten(1)
    similarity = similarities(student, bank.student)
    return _Maps(
        student=similarity,
        total=similarities(student, bank.whole),
        teacher=similarities(teacher, bank.teacher),
        classes=torch.cat([similarities(teacher, bank.classes), scores.T], 1),
        gradient=torch.zeros_like(similarity) if wants_gradient else None,
    )


def _tiles_loss(maps: _Maps, taps: Tensor, weights: Tensor, labels: Tensor, softmax: bool) -> Tensor:
    """Sum of the losses over the pixels of B tiles, whose gradient is added to that of `maps`.

    Where the student's denominator is 0, shares are 1 and their weights 0; where the target's is, it is 0.

    Args:
        taps: (B, n) positions of the maps that a tile is interpolated from.
        weights: (B, n, P) of these positions for each pixel; all 0 for what lies beyond the image.
        labels: (K,) class of every entry.
    """
    total = maps.total[taps].mT @ weights  # (B, 1, P)
    class_similarity, scores = (maps.classes[taps].mT @ weights).chunk(2, 1)
    factors = target_factors(class_similarity, scores, softmax=softmax)  # (B, C, P)
    weights_to_share = weights * _reciprocal(total)
    share = torch.baddbmm((total == 0).to(total.dtype), maps.student[taps].mT, weights_to_share)
    term = factors.index_select(1, labels)  # (B, K, P), as share and target
    target = (maps.teacher[taps].mT @ weights).mul_(term)
    loss = -torch.log(share, out=term).mul_(target).sum()
    if maps.gradient is not None:
        has_target = (factors != 0).any(1, keepdim=True).to(share.dtype)
        mean = has_target / (1 + len(labels) * _EPSILON)
        pull = torch.sub(mean, target.div_(share), out=term)  # the gradient, but for 1 / y_0
        gradient = weights_to_share @ pull.mT  # (B, n, K)
        maps.gradient.index_add_(0, taps.flatten(), gradient.flatten(0, 1))
    return loss


@dataclass(frozen=True, slots=True)
class _Band:
    """Tiles that cover some rows of the image, and how they are interpolated from the rows at low size."""

    rows: slice  # at low size
    taps: Tensor  # (tiles, n) positions in these rows
    weights: Tensor  # (tiles, n, P)

    def steps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Taps and weights of the tiles that are computed at once: on a CPU one per thread, else all."""
        step = torch.get_num_threads() if self.taps.device.type == "cpu" else len(self.taps)
        return zip(self.taps.split(step), self.weights.split(step), strict=True)


def _bands(features: Tensor, size: tuple[int, int], entries: int) -> Iterator[_Band]:
    """Bands of tiles for (N, D, h, w) features enlarged to `size`, and K `entries`."""
    low_width = features.shape[3]
    rows, columns = (_axis(*sides, features) for sides in zip(features.shape[2:], size, strict=True))
    count = _tile_rows_per_band(rows, columns, entries, features)
    for start in range(0, len(rows.first), count):
        part = slice(start, start + count)
        inside = slice(rows.first[start], rows.first[part][-1] + rows.taps.shape[1])
        row_taps = (rows.taps[part] - inside.start) * low_width
        taps = row_taps[:, None, :, None] + columns.taps[None, :, None, :]
        weights = rows.weights[part][:, None, :, None, :, None] * columns.weights[None, :, None, :, None, :]
        yield _Band(
            inside,
            taps.flatten(2).flatten(0, 1),  # (tile rows, tile columns, row taps, column taps) before
            weights.flatten(4).flatten(2, 3).flatten(0, 1),  # the same, then pixel rows and columns of a tile
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    """Bilinear interpolation along one axis, cut into tiles of `_TILE` pixels."""

    first: list[int]  # per tile: the first low position that it needs
    taps: Tensor  # (tiles, n) low positions
    weights: Tensor  # (tiles, n, _TILE); 0 beyond the last pixel


def _axis(low: int, full: int, like: Tensor) -> _Axis:
    """As torch's bilinear resize with corners not aligned, coordinates in float64.

    A position's weight for a pixel falls linearly with their distance, from 1 to 0 at the next position.
    The host waits for no device.
    """
    count = min(low, -(-(_TILE - 1) * low // full) + 2)
    first = _first_taps(low, full, count, like.device)
    taps = first[:, None] + torch.arange(count, device=like.device)
    pixel = torch.arange(len(first) * _TILE, device=like.device).view(-1, 1, _TILE)
    position = ((pixel.double() + 0.5) * (low / full) - 0.5).clamp(0, low - 1)
    weights = (1 - (position - taps[:, :, None]).abs()).clamp_min(0) * (pixel < full)
    return _Axis(_first_taps(low, full, count, torch.device("cpu")).tolist(), taps, weights.to(like.dtype))


def _first_taps(low: int, full: int, count: int, device: torch.device) -> Tensor:
    """The first of the `count` low positions of every tile, (tiles,); in integers, alike on every device."""
    pixel = torch.arange(0, full, _TILE, device=device)
    below = torch.div((2 * pixel + 1) * low - full, 2 * full, rounding_mode="floor")
    return below.clamp(0, low - count)


def _tile_rows_per_band(rows: _Axis, columns: _Axis, entries: int, features: Tensor) -> int:
    if features.device.type == "cpu":
        return _CPU_BAND // _TILE
    taps = rows.taps.shape[1] * columns.taps.shape[1]
    tile_row = len(columns.first) * _TILE**2 * max(entries, taps) * features.element_size()
    return max(1, _GPU_TEMPORARY // tile_row)
