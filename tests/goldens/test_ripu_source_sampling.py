"""The class-balanced source list, image by image (source_sampling.npz, source_sampling.json)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_files import load_json, load_npz
from json_cases import json_cases

from data_loaders.balanced_order import class_balanced_list
from data_loaders.statistics import LabelInfo

ARCHIVE, RECIPES = "source_sampling.npz", "source_sampling.json"


def label_tables(has: np.ndarray) -> LabelInfo:
    """Tables of a (files, C) bool array, in increasing file and class order."""
    names = [f"{number:05d}.png" for number in range(len(has))]
    return LabelInfo(
        [[names[number] for number in np.flatnonzero(column)] for column in has.T],
        {name: np.flatnonzero(row).tolist() for name, row in zip(names, has, strict=True)},
    )


@pytest.mark.parametrize("case", json_cases("ripu", RECIPES))
def test_order_and_number_of_draws_equal_the_reference(case: str) -> None:
    recipe, archive = load_json("ripu", RECIPES)[case], load_npz("ripu", ARCHIVE)
    shape = recipe["files"], recipe["num_classes"]
    has = np.unpackbits(archive[f"{case}/has"], count=shape[0] * shape[1]).astype(bool).reshape(shape)
    generator = np.random.RandomState(recipe["np_seed"])
    names = class_balanced_list(label_tables(has), seed=generator, length=recipe["max_iters"])
    assert len(names) == recipe["length"]
    np.testing.assert_array_equal(
        [int(name.removesuffix(".png")) for name in names], archive[f"{case}/order"]
    )
    expected = archive[f"{case}/next_random"]
    np.testing.assert_array_equal(generator.random_sample(len(expected)), expected)
