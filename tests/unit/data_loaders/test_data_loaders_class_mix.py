"""Half of the batch's classes are drawn for every image, from its own generator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from data_loaders.class_mix import LABEL_VALUES, choose_classes, class_keys, class_mask, mix, present_values
from utils.class_spaces import IGNORE_LABEL


def value_set(*values: int) -> Tensor:
    present = torch.zeros(LABEL_VALUES, dtype=torch.bool)
    present[list(values)] = True
    return present


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_every_value_of_the_batch_is_present(dtype: torch.dtype) -> None:
    labels = torch.tensor([[[0, 7], [7, 18]], [[3, 3], [IGNORE_LABEL, 0]]], dtype=dtype)
    assert torch.equal(present_values(labels), value_set(0, 3, 7, 18, IGNORE_LABEL))


def test_no_value_is_read_by_the_host() -> None:
    """Tensors of the meta device have no values, so reading one would raise."""
    labels = torch.zeros(2, 3, 4, dtype=torch.uint8, device="meta")
    chosen = choose_classes(present_values(labels), class_keys(0, [0, 1]))
    mixed = mix(class_mask(labels, chosen), labels, labels)
    assert mixed.is_meta
    assert (mixed.shape, mixed.dtype) == (labels.shape, labels.dtype)


def test_the_smallest_keys_are_chosen() -> None:
    keys = torch.ones(1, LABEL_VALUES, dtype=torch.float64)
    keys[0, [2, 4, 9, IGNORE_LABEL, 11]] = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.0], dtype=torch.float64)
    chosen = choose_classes(value_set(2, 4, 9, IGNORE_LABEL), keys)  # 11 has the smallest key and is absent
    assert torch.equal(chosen, value_set(4, IGNORE_LABEL)[None])


def test_equal_keys_still_give_the_exact_number() -> None:
    chosen = choose_classes(value_set(1, 2, 3, 4, 5), torch.zeros(2, LABEL_VALUES, dtype=torch.float64))
    assert chosen.sum(1).tolist() == [3, 3]
    assert not chosen[:, 6:].any()


@pytest.mark.parametrize("value", [0, 7, IGNORE_LABEL])
def test_the_only_value_is_always_chosen(value: int) -> None:
    chosen = choose_classes(value_set(value), class_keys(0, [5, 6]))
    assert torch.equal(chosen, value_set(value).expand(2, -1))
    assert class_mask(torch.full((2, 3, 4), value), chosen).all()


def test_nothing_is_chosen_from_an_empty_set() -> None:
    assert not choose_classes(value_set(), class_keys(0, [0])).any()


def test_images_of_a_batch_draw_differently_and_every_value_equally_often() -> None:
    present = value_set(0, 1, 2, 3, 4, IGNORE_LABEL)
    chosen = choose_classes(present, class_keys(0, range(600)))
    assert len(chosen.unique(dim=0)) == 20  # all ways to draw 3 of 6
    counts = chosen.sum(0)[present]
    assert (counts - 300).abs().max() < 50


def test_an_image_draws_alike_in_any_batch() -> None:
    present = value_set(*range(12))
    together = choose_classes(present, class_keys(3, [8, 9, 10, 11]))
    apart = [choose_classes(present, class_keys(3, draws)) for draws in ([8], [9, 10], [11])]
    assert torch.equal(together, torch.cat(apart))
    assert not torch.equal(together, choose_classes(present, class_keys(4, [8, 9, 10, 11])))


def test_a_value_that_an_image_lacks_leaves_its_mask_empty() -> None:
    labels = torch.tensor([[[0, 1]], [[1, 1]]], dtype=torch.uint8)
    chosen = value_set(0).expand(2, -1)
    assert class_mask(labels, chosen).tolist() == [[[True, False]], [[False, False]]]


def test_images_and_maps_are_mixed_pairwise() -> None:
    mask = torch.tensor([[[True, False]], [[False, True]]])
    images = mix(
        mask, torch.ones(2, 3, 1, 2, dtype=torch.float64), torch.zeros(2, 3, 1, 2, dtype=torch.float64)
    )
    assert images.dtype == torch.float64
    assert torch.equal(images, mask[:, None].expand(2, 3, 1, 2).double())
    labels = torch.tensor([[[4, 5]], [[6, 7]]], dtype=torch.uint8)
    assert mix(mask, labels, labels + 10).tolist() == [[[4, 15]], [[16, 7]]]
