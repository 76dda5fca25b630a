"""Distances of images to anchors, and the choice of the farthest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selection import vector_folder
from selection.image_distance import anchor_distances, image_scores, select_images
from utils.errors import UserError


def test_distances_worked_by_hand() -> None:
    anchors = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    vectors = torch.tensor([[[1.0, 1.0], [0.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    distances = anchor_distances(vectors, anchors)
    assert distances.tolist() == [[1.5, 1.0], [0.0, 0.5]]  # an absent class counts as zeros
    assert distances.dtype is torch.float64
    scores = image_scores(vectors.numpy(), anchors)
    assert scores.values.tolist() == [1.0, 0.0]
    assert scores.nearest is not None
    assert scores.nearest.tolist() == [1, 0]
    assert scores.measure == "distance to 2 source anchors"


@pytest.mark.parametrize("rows", [1, 3, 256])
def test_pieces_of_any_size_give_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 19, 64, generator=random)
    anchors = torch.randn(5, 19, 64, generator=random)
    plain = (vectors[:, None].double() - anchors.double()).square().mean(dim=(2, 3))
    alone = [anchor_distances(vector[None], anchors).min().item() for vector in vectors]
    monkeypatch.setattr(vector_folder, "_ROWS_AT_ONCE", rows)
    scores = image_scores(vectors.numpy(), anchors)
    assert scores.values.tolist() == alone
    np.testing.assert_allclose(scores.values, plain.amin(dim=1).numpy(), rtol=1e-12)
    np.testing.assert_array_equal(scores.nearest, plain.argmin(dim=1).numpy())


def test_a_memory_map_is_scored(tmp_path: Path) -> None:
    vectors, anchors = np.random.default_rng(0).random((9, 3, 4), np.float32), torch.rand(2, 3, 4)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    np.testing.assert_array_equal(image_scores(mapped, anchors).values, image_scores(vectors, anchors).values)


def test_vectors_of_a_network_give_no_gradient() -> None:
    vectors = torch.randn(2, 3, 4, requires_grad=True)
    assert not anchor_distances(vectors, torch.randn(2, 3, 4)).requires_grad


def test_other_classes_are_our_mistake() -> None:
    with pytest.raises(AssertionError):
        anchor_distances(torch.zeros(2, 16, 8), torch.zeros(3, 19, 8))


@pytest.mark.parametrize(
    ("scores", "count", "chosen"),
    [
        ([0.1, 0.5, 0.3], 1, [1]),
        ([0.1, 0.5, 0.3], 2, [1, 2]),
        ([0.5, 0.1, 0.5, 0.5], 2, [0, 2]),  # the earlier of equals, none twice
        ([0.0, 0.0], 2, [0, 1]),
    ],
)
def test_the_farthest_images_in_the_order_of_their_list(
    scores: list[float], count: int, chosen: list[int]
) -> None:
    assert select_images(np.array(scores), count).tolist() == chosen


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_no_image_that_is_left_is_farther_or_as_far_and_earlier(
    scores: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, len(scores)))
    chosen = select_images(np.array(scores, float), count).tolist()
    ranking = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    assert chosen == sorted(ranking[:count])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match="1 of 3 image scores are not finite, the first is number 2"):
        select_images(np.array([0.0, 1.0, value]), 1)
