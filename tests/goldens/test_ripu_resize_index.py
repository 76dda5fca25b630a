"""Which source rows and columns labels and annotation masks keep when they are resized (resize_index.npz)."""

from __future__ import annotations

import re

import numpy as np
import pytest
from golden_files import NO_CASES, has_golden, load_npz

from data_loaders.resampling import nearest_indices

ARCHIVE = "resize_index.npz"


def _cases() -> list[str]:
    if not has_golden("ripu", ARCHIVE):
        return ["missing-goldens"]
    return sorted(name for name in load_npz("ripu", ARCHIVE) if re.fullmatch(r"\d+_to_\d+", name)) or [
        NO_CASES
    ]


@pytest.mark.parametrize("case", _cases())
def test_positions_equal_pillows(case: str) -> None:
    expected = load_npz("ripu", ARCHIVE)[case]
    length, new_length = map(int, case.split("_to_"))
    np.testing.assert_array_equal(nearest_indices(length, new_length, "pillow"), expected)
