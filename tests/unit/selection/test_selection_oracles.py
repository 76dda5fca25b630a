"""The label files as the oracle."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from toy_rounds import CLASSES, NAMES, SIZES, toy_info, toy_queries, toy_query, whole_queries

from selection.oracles import GroundTruthOracle
from selection.rounds import RoundQueries
from utils.errors import UserError


def truth(name: str) -> np.ndarray:
    """A drawn label with some ignored pixels."""
    size = SIZES[NAMES.index(name)]
    generator = np.random.default_rng(len(name))
    label = generator.integers(0, CLASSES, size, dtype=np.uint8)
    label[generator.random(size) < 0.2] = 255
    return label


def test_the_answer_is_the_label_of_every_queried_pixel() -> None:
    label = np.arange(20, dtype=np.uint8).reshape(4, 5)
    label[0, 0] = 255
    query = toy_query(NAMES[0], (4, 5), [(3, 4), (0, 0)], toy_info())
    answer = GroundTruthOracle(lambda name: label).answer_image(query, 1)
    assert answer.dtype == np.uint8
    assert answer.tolist() == [255, 1, 5, 6, 13, 14, 18, 19]
    assert GroundTruthOracle(lambda name: label).answer_image(query, 0).tolist() == [255, 19]


def test_a_round_is_answered_in_the_order_of_its_queries() -> None:
    queries = toy_queries()
    classes = GroundTruthOracle(truth).answer_round(queries)
    assert classes.dtype == np.uint8
    for query in queries.images:
        expected = truth(query.name).reshape(-1)[query.pixels(1)]
        np.testing.assert_array_equal(classes[queries.slice_of(query.name)], expected)


def test_threads_give_the_same_answers() -> None:
    used = set()

    def read(name: str) -> np.ndarray:
        used.add(threading.current_thread())
        return truth(name)

    queries = toy_queries()
    with ThreadPoolExecutor(2) as pool:
        classes = GroundTruthOracle(read).answer_round(queries, mapper=pool.map)
    np.testing.assert_array_equal(classes, GroundTruthOracle(truth).answer_round(queries))
    assert threading.current_thread() not in used


def test_a_round_without_images_has_no_answers() -> None:
    classes = GroundTruthOracle(truth).answer_round(RoundQueries(toy_info(images=0), []))
    assert (classes.dtype, classes.shape) == (np.uint8, (0,))


def test_a_label_of_another_size_is_refused() -> None:
    query = toy_query(NAMES[0], (4, 5), [(1, 1)], toy_info())
    oracle = GroundTruthOracle(lambda name: np.zeros((5, 4), np.uint8))
    with pytest.raises(UserError, match=rf"the label of {NAMES[0]} has 4x5 pixels but the image has 5x4"):
        oracle.answer_image(query, 1)


def test_a_whole_image_is_answered_by_its_label() -> None:
    queries = whole_queries()
    classes = GroundTruthOracle(truth).answer_round(queries)
    expected = np.concatenate([truth(query.name).ravel() for query in queries.images])
    np.testing.assert_array_equal(classes, expected)
