"""DWACA's class weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.class_weights import class_weights


def test_weights_worked_by_hand() -> None:
    iou = np.array([0.8, 0.4, 0.2])
    inverse = 1 / (iou / (1.4 + 1e-6) + 1e-6)  # about 1.75, 3.5, 7
    expected = [1e-6 / (inverse[2] - inverse[0] + 1e-6), (3.5 - 1.75) / (7 - 1.75), 1]
    np.testing.assert_allclose(class_weights(iou), expected, rtol=1e-5)
    assert class_weights(iou).dtype == np.float64


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_classes_all_weigh_exactly_one(value: float) -> None:
    assert class_weights(np.full(16, value)).tolist() == [1.0] * 16


def test_a_dead_class_leaves_next_to_nothing_for_the_others() -> None:
    weights = class_weights(np.array([0.9, 0.5, 0.0]))
    assert weights[2] == 1
    assert 0 < weights[0] < weights[1] < 1e-5


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=19))
@settings(deadline=None)
def test_weights_are_positive_and_rise_as_the_iou_falls(values: list[float]) -> None:
    iou = np.array(values, dtype=np.float32)
    weights = class_weights(iou)
    assert (weights > 0).all()
    assert weights.max() == weights[iou.argmin()] == 1
    assert (np.diff(weights[np.argsort(iou)]) <= 0).all()


@pytest.mark.parametrize("iou", [[0.5, 1.01], [-0.1, 0.5], [np.nan, 0.5], [np.inf, 0.5], [55.0, 70.0]])
def test_anything_but_fractions_is_refused(iou: list[float]) -> None:
    with pytest.raises(ValueError, match=r"fractions in \[0, 1\]"):
        class_weights(np.array(iou))


@pytest.mark.parametrize("shape", [(0,), (2, 3), ()])
def test_anything_but_a_vector_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one IoU per class"):
        class_weights(np.zeros(shape))
