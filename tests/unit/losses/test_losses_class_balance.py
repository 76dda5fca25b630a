"""Class counts and the weights that follow them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.class_balance import ClassWeights, class_counts


def _labels(counts: dict[int, int], images: int = 1) -> torch.Tensor:
    """(images, 1, pixels) labels holding each class as often as given; the rest is ignored."""
    flat = torch.cat([torch.full((count,), label, dtype=torch.uint8) for label, count in counts.items()])
    padding = -len(flat) % images
    return torch.cat([flat, torch.full((padding,), 255, dtype=torch.uint8)]).view(images, 1, -1)


@given(ids=st.lists(st.integers(0, 255), max_size=40), num_classes=st.integers(1, 19))
@settings(deadline=None, max_examples=50)
def test_counts_equal_a_loop_over_classes(ids: list[int], num_classes: int) -> None:
    labels = torch.tensor(ids, dtype=torch.uint8)
    expected = [ids.count(index) for index in range(num_classes)]
    assert class_counts(labels, num_classes).tolist() == expected
    assert class_counts(labels.to(torch.int64), num_classes).tolist() == expected


def test_negative_ids_are_not_counted() -> None:
    assert class_counts(torch.tensor([-1, 0, 1, 1]), 2).tolist() == [1, 2]


def test_counts_are_int64_and_keep_no_shape() -> None:
    counts = class_counts(torch.zeros(2, 3, 4, dtype=torch.uint8), 19)
    assert counts.dtype == torch.int64
    assert counts.shape == (19,)


def test_a_class_is_small_strictly_below_64_by_64_pixels_per_image() -> None:
    weights = ClassWeights(3, max_value=7, class_balance=True, often_balance=False)
    labels = _labels({0: 2 * 64 * 64, 1: 2 * 64 * 64 - 1}, images=2)
    assert weights.update(labels).tolist() == [1, 7, 7]


def test_absent_classes_grow_in_the_running_mean() -> None:
    weights = ClassWeights(2, max_value=7, class_balance=True, often_balance=True).double()
    labels = _labels({0: 64 * 64})
    first, second = weights.update(labels).clone(), weights.update(labels).clone()
    often = 0.9 + 0.1 * 7
    torch.testing.assert_close(first, torch.tensor([1, 7 * often], dtype=torch.float64))
    torch.testing.assert_close(second, torch.tensor([1, 7 * (0.9 * often + 0.7)], dtype=torch.float64))


def test_weights_stay_one_without_class_balance() -> None:
    weights = ClassWeights(2, max_value=7, class_balance=False, often_balance=True)
    assert weights.update(_labels({0: 3})).tolist() == [1, 1]
    assert weights.often.tolist() == [1, 1]


def test_state_resumes_the_running_mean() -> None:
    def new() -> ClassWeights:
        return ClassWeights(3, max_value=2, class_balance=True, often_balance=True)

    whole, first, second = new(), new(), new()
    batches = [_labels({0: 5000, 1: 10}), _labels({2: 5000})]
    expected = [whole.update(batch).clone() for batch in batches][-1]
    first.update(batches[0])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.update(batches[1]), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_have_the_type_of_the_module(dtype: torch.dtype) -> None:
    weights = ClassWeights(2, max_value=2, class_balance=True, often_balance=True).to(dtype)
    assert weights.update(_labels({0: 10})).dtype == dtype


def test_two_ranks_weigh_classes_by_the_global_batch(two_ranks: Any) -> None:
    parts = [_labels({0: 64 * 64 + 5, 1: 10}), _labels({0: 64 * 64 - 5, 2: 10})]
    pixels = max(part.shape[-1] for part in parts)
    padded = [torch.nn.functional.pad(part, (0, pixels - part.shape[-1]), value=255) for part in parts]

    def update(rank: int) -> torch.Tensor:
        weights = ClassWeights(4, max_value=7, class_balance=True, often_balance=True)
        return weights.update(padded[rank])

    on_both = two_ranks.run(update)
    assert torch.equal(on_both[0], on_both[1])
    often = 0.9 + 0.1 * 7
    torch.testing.assert_close(on_both[0], torch.tensor([1, 7, 7, 7 * often]))


@pytest.mark.gpu
def test_counting_on_a_gpu_waits_for_nothing() -> None:
    labels = torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8, device="cuda")
    weights = ClassWeights(19, max_value=7, class_balance=True, often_balance=True).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        counts = class_counts(labels, 19)
        weights.update(labels)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(counts.cpu(), class_counts(labels.cpu(), 19))
