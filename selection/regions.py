"""Which regions of an image to buy: the best scores that keep their distance, chosen greedily and exactly.

The greedy choice takes the maximum of the image again and again and rules out its neighbourhood. A walk
through the pixels in descending order that skips those too close to an accepted one gives the same picks.
Ties go to the smallest column, then to the smallest row.

Source: the selection of the authors' released code (Xie et al., CVPR 2022);
`tests/goldens/test_ripu_selection.py` and `test_dwaca_selection.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selection.queries import covers_image
from utils import maths

_CHUNK = 1 << 14  # candidates that the scan looks at together


def select_regions(score: Tensor, blocked: Tensor | None, count: int, *, exclusion_radius: int) -> Tensor:
    """Centres of the `count` best regions that are not too close to each other.

    Args:
        score: (H, W) floats; -inf is never picked. Not changed.
        blocked: (H, W) bool, True where nothing may be picked, or None. Not changed.
        count: how many picks.
        exclusion_radius: no later pick lies within this Chebyshev distance of an earlier one.

    Returns:
        (count, 2) int64 (row, column) on the score's device, in the order chosen. Where no pixel is left
        to pick, the remaining picks are (0, 0).

    Raises:
        ValueError: a score is NaN, or count or radius is negative.
    """
    if count < 0 or exclusion_radius < 0:
        raise ValueError(f"cannot pick {count} regions at an exclusion radius of {exclusion_radius}")
    if torch.isnan(score).any():
        raise ValueError(f"{int(torch.isnan(score).sum())} of {score.numel()} scores are not a number")
    if count == 0 or score.numel() == 0:
        return torch.zeros((count, 2), dtype=torch.int64, device=score.device)
    choose = scan if score.device.type == "cpu" else peel
    return choose(score, blocked, count, exclusion_radius)


def candidate_count(count: int, exclusion_radius: int, pixels: int) -> int:
    """How many of the best pixels suffice: each pick but the last rules out at most its own square."""
    return min(pixels, (2 * exclusion_radius + 1) ** 2 * (count - 1) + 1)


def scan(score: Tensor, blocked: Tensor | None, count: int, radius: int) -> Tensor:
    """`select_regions` on the CPU: one walk through the candidates."""
    values = score.detach().numpy()
    if blocked is not None:
        values = np.where(blocked.numpy(), -np.inf, values)
    rows, columns = _ordered_candidates(values, candidate_count(count, radius, values.size))
    picks = _walk(rows, columns, values.shape, count, radius)
    result = torch.zeros((count, 2), dtype=torch.int64)
    result[: len(picks)] = torch.tensor(picks, dtype=torch.int64).view(-1, 2)
    return result


def _ordered_candidates(values: np.ndarray, needed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the best `needed` pixels and of all that tie with the last, best first."""
    flat = values.reshape(-1)
    last = np.partition(flat, flat.size - needed)[flat.size - needed]
    positions = np.flatnonzero(flat >= last if last > -np.inf else flat > last)
    rows, columns = np.divmod(positions, values.shape[1])
    column_major = np.argsort(columns * len(values) + rows)
    order = column_major[np.argsort(-flat[positions[column_major]], kind="stable")]
    return rows[order], columns[order]


def _walk(
    rows: np.ndarray, columns: np.ndarray, size: tuple[int, int], count: int, radius: int
) -> list[tuple[int, int]]:
    """The first `count` candidates that are not within `radius` of an accepted one."""
    width = size[1] + 2 * radius  # with a margin, so that no square needs clipping
    near = bytearray((size[0] + 2 * radius) * width)  # plain Python reads a byte faster than a numpy scalar
    near_map = np.frombuffer(near, np.uint8).reshape(-1, width)
    places = (rows + radius) * width + columns + radius
    picks: list[tuple[int, int]] = []
    for start in range(0, len(places), _CHUNK):
        chunk = places[start : start + _CHUNK]
        for place in chunk[near_map.reshape(-1)[chunk] == 0].tolist():
            if near[place]:
                continue
            row, column = place // width - radius, place % width - radius
            picks.append((row, column))
            if len(picks) == count:
                return picks
            near_map[row : row + 2 * radius + 1, column : column + 2 * radius + 1] = 1
    return picks


def peel(score: Tensor, blocked: Tensor | None, count: int, radius: int) -> Tensor:
    """`select_regions` on a device: sweeps over the whole map instead of a step per pick.

    Each candidate has its unique rank in the order of choice. A sweep accepts the candidates that are the
    best of their neighbourhood and removes the neighbours; what is accepted in the end is the greedy choice.
    A few sweeps do, with one host read each.
    """
    height, width = score.shape
    if blocked is not None:
        score = score.masked_fill(blocked, -torch.inf)
    by_column = score.t().reshape(-1) + 0.0  # + 0.0: no negative zeros, which a sort may put last
    values, order = by_column.sort(descending=True, stable=True)
    needed = candidate_count(count, radius, order.numel())
    order, values = order[:needed], values[:needed]
    ranks = torch.arange(needed, 0, -1, dtype=torch.int32, device=score.device)
    live = torch.zeros(height * width, dtype=torch.int32, device=score.device)
    live[order] = ranks.masked_fill(values == -torch.inf, 0)
    best = _peeled_ranks(live.view(width, height), min(count, needed), radius)
    place = order[(needed - best.long()).clamp_max(needed - 1)]
    found = torch.stack((place % height, place // height), 1).masked_fill(best[:, None] == 0, 0)
    return F.pad(found, (0, 0, 0, count - len(found)))


def _peeled_ranks(live: Tensor, count: int, radius: int) -> Tensor:
    """The `count` best ranks of the greedy choice, descending, 0 where there are fewer.

    `live` holds the ranks of the candidates that are left, 0 elsewhere.
    """
    accepted = torch.zeros_like(live)
    while True:
        peak = (live == _neighbourhood_maximum(live, radius)) & (live > 0)
        accepted = torch.where(peak, live, accepted)
        live = live.masked_fill(_neighbourhood_maximum(peak.to(torch.uint8), radius).bool(), 0)
        best = accepted.flatten().topk(count).values
        if bool(live.max() <= best[-1]):  # what is left cannot come among them; both 0: nothing is left
            return best


def _neighbourhood_maximum(x: Tensor, radius: int) -> Tensor:
    """Maximum of non-negative integers over the clipped window around each place."""
    return maths.window_reduce(F.pad(x, (radius,) * 4), 2 * radius + 1, torch.maximum)


def squares(picks: np.ndarray, radius: int, size: tuple[int, int]) -> np.ndarray:
    """Union of the clipped squares around picks.

    Args:
        picks: (n, 2) integers (row, column) inside the image.
        radius: of a square, (2 * radius + 1) pixels wide.
        size: (H, W).

    Returns:
        (H, W) bool.
    """
    picks = np.asarray(picks, dtype=np.int64).reshape(-1, 2)
    if covers_image(picks, radius, size):
        return np.ones(size, bool)
    centres = np.zeros(size, np.uint8)
    rows, columns = picks.T
    centres[rows, columns] = 1
    if radius > 0 and len(picks) > 0:  # without picks nothing bounds the radius by the image
        centres = cv2.dilate(centres, np.ones((2 * radius + 1,) * 2, np.uint8))
    return centres.view(bool)
