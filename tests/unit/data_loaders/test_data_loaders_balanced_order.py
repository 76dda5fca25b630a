"""The class-balanced source list, and the endless order over a list."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loaders.balanced_order import ListedOrder, class_balanced_list
from data_loaders.statistics import LabelInfo
from utils.errors import UserError

PER = 40  # draws in a sub-epoch of these tests


def _tables(has: np.ndarray) -> LabelInfo:
    """Tables of a (files, C) bool array."""
    names = [f"{number}.png" for number in range(len(has))]
    return LabelInfo(
        [[names[number] for number in np.flatnonzero(column)] for column in has.T],
        {name: np.flatnonzero(row).tolist() for name, row in zip(names, has, strict=True)},
    )


def _drawn_tables(files: int, num_classes: int, share: float, seed: int) -> LabelInfo:
    has = np.random.default_rng(seed).random((files, num_classes)) < share
    has[:2] = True  # no class in fewer than two files
    return _tables(has)


def _plain_list(info: LabelInfo, generator: np.random.RandomState, length: int) -> list[str]:
    """The list drawn with `choice`, on lists of names."""
    files = [list(names) for names in info.label_to_file]
    pointer, chosen = [0] * len(files), []
    for _ in range(length // PER + 1):
        shown = np.zeros(len(files))
        for _ in range(PER):
            share = shown / shown.sum() if shown.sum() else shown
            weight = 1 / np.log(1.01 + share)
            label = generator.choice(len(files), p=weight / weight.sum())
            if pointer[label] > len(files[label]) - 1:
                generator.shuffle(files[label])
                pointer[label] %= len(files[label]) - 1
            chosen.append(files[label][pointer[label]])
            pointer[label] += 1
            shown[info.file_to_label[chosen[-1]]] += 1
    return chosen


@given(
    files=st.integers(2, 40),
    num_classes=st.integers(1, 19),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(0, 3 * PER),
)
@settings(deadline=None, max_examples=40)
def test_the_list_and_the_number_of_draws_are_those_of_choice_and_shuffle(
    files: int, num_classes: int, share: float, seed: int, length: int
) -> None:
    info = _drawn_tables(files, num_classes, share, seed)
    own, plain = np.random.RandomState(seed), np.random.RandomState(seed)
    assert class_balanced_list(info, seed=own, length=length, per_sub_epoch=PER) == _plain_list(
        info, plain, length
    )
    assert own.random_sample() == plain.random_sample()


@pytest.mark.parametrize(("length", "expected"), [(0, 40), (39, 40), (40, 80), (100, 120)])
def test_there_is_always_one_sub_epoch_more_than_full_ones(length: int, expected: int) -> None:
    info = _drawn_tables(10, 3, 0.5, 0)
    assert len(class_balanced_list(info, seed=0, length=length, per_sub_epoch=PER)) == expected


def test_the_list_depends_on_the_seed_alone_and_leaves_tables_and_global_generator_as_they_are() -> None:
    info = _drawn_tables(10, 3, 0.5, 0)
    before = [list(names) for names in info.label_to_file]
    np.random.seed(5)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = class_balanced_list(info, seed=1, length=200, per_sub_epoch=PER)
    assert class_balanced_list(info, seed=1, length=200, per_sub_epoch=PER) == first
    assert class_balanced_list(info, seed=2, length=200, per_sub_epoch=PER) != first
    assert class_balanced_list(info, seed=1 + 2**32, length=200, per_sub_epoch=PER) == first
    assert info.label_to_file == before
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_images_of_a_rare_class_are_drawn_more_often() -> None:
    has = np.zeros((100, 2), bool)
    has[:, 0] = True
    has[:5, 1] = True
    counts = Counter(class_balanced_list(_tables(has), seed=0, length=2999))
    rare = np.mean([counts[f"{number}.png"] for number in range(5)])
    common = np.mean([counts[f"{number}.png"] for number in range(5, 100)])
    assert rare > 10 * common


@pytest.mark.parametrize(
    ("files", "words"), [(0, "train id 2 is in none"), (1, r"train id 2 is in only 3\.png")]
)
def test_a_class_in_fewer_than_two_images_is_refused(files: int, words: str) -> None:
    has = np.ones((4, 3), bool)
    has[: 4 - files, 2] = False
    with pytest.raises(UserError, match=rf"{words}; use more images, .*--source-order shuffled"):
        class_balanced_list(_tables(has), seed=0, length=10)


def test_tables_that_contradict_each_other_are_refused() -> None:
    info = LabelInfo([["a.png", "b.png"], ["a.png", "c.png"]], {"a.png": [0, 1], "b.png": [0]})
    with pytest.raises(UserError, match=r"lists c\.png under train id 1 but not among its files"):
        class_balanced_list(info, seed=0, length=10)


@given(indices=st.lists(st.integers(0, 9), min_size=1, max_size=30), first=st.integers(0, 4))
def test_every_pass_shows_every_entry_of_the_list(indices: list[int], first: int) -> None:
    order, n = ListedOrder(indices, 0, "source"), len(indices)
    assert Counter(order(draw) for draw in range(first * n, (first + 1) * n)) == Counter(indices)


def test_passes_are_shuffled_differently_and_draws_can_be_repeated() -> None:
    order = ListedOrder(range(50), 0, "source")
    first = [order(draw) for draw in range(50)]
    assert first != [order(draw) for draw in range(50, 100)]
    assert first == [order(draw) for draw in range(50)]
    assert first != [ListedOrder(range(50), 1, "source")(draw) for draw in range(50)]
