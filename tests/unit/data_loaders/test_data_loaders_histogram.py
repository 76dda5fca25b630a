"""Counts of byte values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_loaders import histogram
from data_loaders.histogram import value_counts


@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 99), step=st.integers(1, 3))
def test_every_value_is_counted_in_arrays_and_views(height: int, width: int, seed: int, step: int) -> None:
    whole = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    view = whole[height // 3 :, :width:step]
    counts = value_counts(view)
    assert counts.dtype == np.int64
    assert counts.tolist() == np.bincount(view.ravel(), minlength=256).tolist()


def test_large_maps_are_counted_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "_EXACT", 10)
    values = np.array([[0, 255, 255], [7, 7, 7]], np.uint8).repeat(4, axis=1)
    assert {int(value): int(value_counts(values)[value]) for value in (0, 7, 255)} == {0: 4, 7: 12, 255: 8}
