"""Where the feature distance counts, and its value."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses.feature_distance import downscaled_labels, feature_distance, feature_mask


def _blocks(values: list[list[int]], scale: int) -> Tensor:
    """(1, H, W) uint8 labels of constant `scale` x `scale` blocks."""
    blocks = torch.tensor(values, dtype=torch.uint8)
    return blocks.repeat_interleave(scale, 0).repeat_interleave(scale, 1).unsqueeze(0)


def _majority(labels: Tensor, scale: int, min_share: float = 0.75) -> list[Any]:
    size = (labels.shape[1] // scale, labels.shape[2] // scale)
    return downscaled_labels(labels, size, num_classes=3, min_share=min_share).tolist()


def _features(n: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 features with gradient, a reference and a mask of about half of the positions."""
    generator = torch.Generator().manual_seed(n)
    features, reference = torch.randn(2, n, 5, 3, 4, generator=generator, dtype=torch.float64)
    return features.requires_grad_(), reference, torch.rand(n, 3, 4, generator=generator) < 0.5


class TestDistance:
    def test_worked_by_hand(self) -> None:
        features = torch.tensor([[3.0, 0.0, 7.0], [4.0, 0.0, 7.0]]).view(1, 2, 1, 3)
        mask = torch.tensor([[[True, True, False]]])
        assert feature_distance(features, torch.zeros_like(features), mask).item() == 2.5

    def test_gradcheck(self) -> None:
        features, reference, mask = _features()
        assert torch.autograd.gradcheck(lambda x: feature_distance(x, reference, mask), features)

    def test_positions_outside_the_mask_have_no_gradient(self) -> None:
        features, reference, mask = _features(2)
        feature_distance(features, reference, mask).backward()
        assert not features.grad.movedim(1, -1)[~mask].any()
        assert features.grad.movedim(1, -1)[mask].all()

    def test_an_empty_mask_gives_0_without_gradient(self) -> None:
        features, reference, mask = _features()
        loss = feature_distance(features, reference, torch.zeros_like(mask))
        loss.backward()
        assert loss.item() == 0
        assert not features.grad.any()

    @pytest.mark.parametrize("value", [0.0, 2.0])
    def test_equal_features_give_0_with_a_zero_gradient(self, value: float) -> None:
        features = torch.full((1, 3, 2, 2), value, requires_grad=True)
        loss = feature_distance(features, features.detach().clone(), torch.ones(1, 2, 2, dtype=torch.bool))
        loss.backward()
        assert loss.item() == 0
        assert not features.grad.any()

    def test_the_mean_over_ranks_is_that_over_all_positions(self, two_ranks: Any) -> None:
        features, reference, mask = (part.detach() for part in _features(2))
        mask[0], mask[1, 0] = False, True  # one rank has no position at all
        expected = (features - reference).norm(dim=1)[mask].mean()

        def on_rank(rank: int) -> Tensor:
            mine = slice(rank, rank + 1)
            return feature_distance(features[mine], reference[mine], mask[mine])

        torch.testing.assert_close(torch.stack(two_ranks.run(on_rank)).mean(), expected)

    def test_half_precision_under_autocast_is_computed_in_single_precision(self) -> None:
        features, reference, mask = (part.detach() for part in _features())
        half = features.to(torch.bfloat16).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = feature_distance(half, reference.float(), mask)
        loss.backward()
        expected = feature_distance(half.detach().double(), reference, mask)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert half.grad.isfinite().all()


class TestDownscaledLabels:
    def test_the_largest_share_wins_if_it_is_large_enough(self) -> None:
        labels = torch.tensor([[[0, 0, 2, 2, 1, 1], [0, 1, 2, 2, 0, 2]]], dtype=torch.uint8)
        assert _majority(labels, 2) == [[[0, 2, 255]]]
        assert _majority(labels, 2, min_share=0.76) == [[[255, 2, 255]]]
        assert _majority(labels, 2, min_share=0.5) == [[[0, 2, 1]]]

    def test_ignored_pixels_are_one_more_class_that_loses_ties(self) -> None:
        labels = torch.tensor([[[255, 255, 255, 1], [255, 2, 1, 255]]], dtype=torch.uint8)
        assert _majority(labels, 2, min_share=0.5) == [[[255, 1]]]

    @pytest.mark.parametrize(("share", "scale"), [(0.07, 10), (0.7, 10), (0.28, 5), (0.29, 10)])
    def test_exactly_the_share_is_enough_whatever_its_digits(self, share: float, scale: int) -> None:
        labels = torch.full((scale * scale,), 255)
        labels[: round(share * scale * scale)] = 1
        labels[round(share * scale * scale) :] = torch.arange(len(labels) - round(share * scale * scale)) + 2
        found = downscaled_labels(labels.view(1, scale, scale), (1, 1), num_classes=110, min_share=share)
        assert found.item() == 1

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
    def test_equals_the_pooling_of_a_one_hot_map(self, dtype: torch.dtype) -> None:
        labels = torch.randint(0, 4, (2, 13, 19), generator=torch.Generator().manual_seed(0))
        one_hot = F.one_hot(labels, 4).movedim(-1, 1).double()
        share, expected = F.avg_pool2d(one_hot, 4).max(1)
        expected[(share < 0.4) | (expected == 3)] = 255
        labels[labels == 3] = 255
        found = downscaled_labels(labels.to(dtype), (3, 4), num_classes=3, min_share=0.4)
        assert torch.equal(found, expected)


class TestMask:
    def test_marks_cells_of_the_classes(self) -> None:
        labels = _blocks([[0, 1, 2], [255, 2, 1]], 4)
        mask = feature_mask(labels, (2, 3), classes=(1, 2), num_classes=3)
        assert mask.tolist() == [[[False, True, True], [False, True, True]]]
        assert not feature_mask(labels, (2, 3), classes=(), num_classes=3).any()

    def test_remaining_pixels_are_dropped_where_square_cells_give_the_size(self) -> None:
        labels = F.pad(_blocks([[0, 1]], 5), (0, 1, 0, 3), value=1)  # 8 x 11, cells of 5 pixels
        assert feature_mask(labels, (1, 2), classes=(1,), num_classes=3).tolist() == [[[False, True]]]

    def test_other_sizes_are_divided_as_evenly_as_possible(self) -> None:
        """A stride-8 network gives 65 positions for 513 pixels: cells of 7 pixels would end at 455."""
        labels = torch.zeros(1, 513, 513, dtype=torch.uint8)
        labels[:, :, 260:] = 1
        mask = feature_mask(labels, (65, 65), classes=(1,), num_classes=3)
        assert mask[0].any(0).nonzero().min().item() == 33  # 260 / 513 * 65
        assert mask[0, :, 33:].all()

    def test_features_larger_than_the_labels_have_no_marked_empty_cell(self) -> None:
        mask = feature_mask(_blocks([[1]], 2), (3, 3), classes=(1,), num_classes=3)
        assert mask.sum().item() == 4
