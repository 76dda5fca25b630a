"""How far images lie from all anchors, and which are chosen for it: MADA's selection of whole images.

Source: Ning et al., ICCV 2021, and the authors' released code. `tests/goldens/test_mada_selection.py` pins
both; where scores tie the released code writes an image twice, ours goes by the order of the images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from selection.vector_folder import in_rows
from utils.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class ImageScores:
    """What images are ranked by.

    Attributes:
        values: (N,) float64, the higher the rather chosen.
        measure: what they are, in words.
        nearest: (N,) int64 nearest anchor of each image, where anchors are the measure.
    """

    values: np.ndarray
    measure: str
    nearest: np.ndarray | None = None


@torch.no_grad()
def anchor_distances(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Mean-square distance of every image vector to every anchor, (N, V) float64.

    Absent classes are zeros and count like any other row, so an image whose visible classes are unusual is
    far away, as released. The host waits for no device.

    Args:
        vectors: (N, C, D) of any float type.
        anchors: (V, C, D) of any float type.
    """
    assert vectors.ndim == 3, tuple(vectors.shape)
    assert anchors.shape[1:] == vectors.shape[1:], (tuple(anchors.shape), tuple(vectors.shape))
    images = vectors.double()
    return torch.stack([(images - anchor).square().mean(dim=(1, 2)) for anchor in anchors.double()], dim=1)


def image_scores(vectors: np.ndarray, anchors: Tensor) -> ImageScores:
    """Distance of each of the (N, C, D) vectors to the nearest of the (V, C, D) source anchors.

    The vectors may be mapped into memory and of any float type; they are read in pieces.
    """
    pieces = [anchor_distances(torch.from_numpy(np.array(rows)), anchors) for _, rows in in_rows(vectors)]
    distances = torch.cat(pieces)
    measure = f"distance to {len(anchors)} source anchors"
    return ImageScores(distances.amin(dim=1).numpy(), measure, distances.argmin(dim=1).numpy())


def select_images(scores: np.ndarray, count: int) -> np.ndarray:
    """Indices of the images with the highest scores, ascending; of equal scores the earlier image's.

    Args:
        scores: (N,) of all images that may be chosen, in the order of their list.
        count: how many are chosen, 1..N; `Budget.whole_images` gives it.

    Returns:
        (count,) int64 without duplicates.

    Raises:
        UserError: a score is not finite.
    """
    assert scores.ndim == 1, scores.shape
    assert 1 <= count <= len(scores), (count, len(scores))
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        raise UserError(
            f"{len(broken)} of {len(scores)} image scores are not finite, the first is number {broken[0]}; "
            "the snapshot that scored the images or the anchors are damaged: give others."
        )
    return np.sort(np.argsort(-scores, kind="stable")[:count])
