"""Probability arithmetic that every method shares.

All functions work in at least float32 and keep float64: half-precision logits are promoted, never the
reverse. Everything starts from log-probabilities, so that a class whose probability underflows to 0 costs no
NaN, neither in the value nor in the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_ELEMENTS = 1 << 20  # values of one band of rows on the CPU: about the second-level cache


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself, or its float32 copy if it is float16 or bfloat16."""
    return x.to(_promoted(x))


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities over dimension 1."""
    return F.log_softmax(logits, dim=1, dtype=_promoted(logits))


def softmax(logits: Tensor) -> Tensor:
    """Probabilities over dimension 1."""
    return F.softmax(logits, dim=1, dtype=_promoted(logits))


def entropy(log_probability: Tensor) -> Tensor:
    """Entropy over dimension 1 in nats, in [0, log C]; (N, C, ...) log-probabilities give (N, ...)."""
    return -(log_probability.exp() * log_probability).sum(1)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over dimension 1 in nats, at least 0; (N, C, ...) log-probabilities give (N, ...).

    Differentiable in both arguments: where p underflows to 0, its term and its gradient are 0.
    """
    return (log_p.exp() * (log_p - log_q)).sum(1)


def upsample(x: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """Bilinear resize of (N, C, h, w) to `size` = (H, W), in the type of `x`; `x` itself if it fits."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align_corners)


def row_bands(height: int, elements_per_row: int, device: torch.device) -> Iterator[slice]:
    """Consecutive rows that cover `height`: bands that stay in the cache on a CPU, all rows on a device."""
    step = height
    if device.type == "cpu":
        step = max(1, min(height, BAND_ELEMENTS // max(1, elements_per_row)))
    for first in range(0, height, step):
        yield slice(first, min(first + step, height))


def upsampled_rows(
    low: Tensor,
    size: tuple[int, int],
    rows: slice,
    *,
    through: tuple[int, int] | None = None,
    align_corners: bool = True,
) -> Tensor:
    """Rows of `low` (N, C, h, w) resized bilinearly to (W, H) `size`.

    A device takes all rows at once through torch's kernel. On the CPU a band is interpolated along the height
    first, which leaves two taps instead of four for each of the many output pixels.

    Args:
        low: floating.
        size: of the whole result.
        rows: of the result.
        through: (W, H) that `low` is resized to first, and from there to `size`; on the CPU only the rows of
            it that these rows need are made.
        align_corners: as torch's `interpolate`, in both steps.
    """
    width, height = size
    if through in (size, (low.shape[3], low.shape[2])):
        through = None  # that step would change nothing
    if low.device.type != "cpu":
        between = low if through is None else upsample(low, through[::-1], align_corners=align_corners)
        return upsample(between, (height, width), align_corners=align_corners)[:, :, rows]
    length = low.shape[2] if through is None else through[1]
    above, below, weight = _row_taps(length, height, rows, low.dtype, align_corners)
    first = 0
    if through is not None:
        first = int(above[0])
        needed = slice(first, int(below[-1]) + 1)
        low = upsampled_rows(low, through, needed, align_corners=align_corners)
    count, classes, _, low_width = low.shape
    band = low[:, :, above - first] * (1 - weight) + low[:, :, below - first] * weight
    band = F.interpolate(
        band.reshape(count * classes, -1, low_width), size=width, mode="linear", align_corners=align_corners
    )
    return band.view(count, classes, -1, width)


def _row_taps(
    length: int, new_length: int, rows: slice, dtype: torch.dtype, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Both source rows of some rows of a resize, and the weight (rows, 1) of the lower one.

    Coordinates have the map's own type, as in torch's kernel: the results agree to the last bits.
    """
    index = torch.arange(rows.start, rows.stop, dtype=dtype)
    if align_corners:
        position = torch.tensor(length - 1, dtype=dtype) / max(new_length - 1, 1) * index
    else:
        position = (torch.tensor(length, dtype=dtype) / new_length * (index + 0.5) - 0.5).clamp_min(0)
    above = position.long().clamp_(max=length - 1)
    below = (above + 1).clamp_(max=length - 1)
    return above, below, (position - above)[:, None]


def window_reduce(x: Tensor, length: int, combine: Callable[[Tensor, Tensor], Tensor] = torch.add) -> Tensor:
    """Sums, or another associative reduction, over all `length` x `length` windows that lie inside `x`.

    Runs of 1, 2, 4, ... values are combined along each axis, so that a window of any length costs few passes
    and float sums are pairwise, hence accurate.

    Args:
        x: (..., H, W), both at least `length`.
        length: of a side.
        combine: of two tensors, for example `torch.maximum`.

    Returns:
        (..., H - length + 1, W - length + 1); `x` itself for length 1.
    """
    for dim in (-2, -1):
        x = _run_reduce(x, length, dim, combine)
    return x


def _run_reduce(x: Tensor, length: int, dim: int, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Reduction of every `length` consecutive values along `dim`."""
    results = x.shape[dim] - length + 1
    total, covered, step = None, 0, 1
    while True:
        if length & step:  # `x` holds runs of `step` values
            part = x.narrow(dim, covered, results)
            total = part if total is None else combine(total, part)
            covered += step
        if covered == length:
            return total
        x = combine(x.narrow(dim, 0, x.shape[dim] - step), x.narrow(dim, step, x.shape[dim] - step))
        step *= 2


def _promoted(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
