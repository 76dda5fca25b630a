"""Training pictures: one sheet per stream, drawn without touching the network."""

from __future__ import annotations

import numpy as np
import pytest

from tests.toy_training import assert_same, copied_state, drawn_batch, drawn_batches, small_network
from trainers.pictures import training_pictures


@pytest.mark.parametrize("architecture", ["deeplab_two_head", "deeplab_oracle"])
def test_one_sheet_per_stream_with_the_label_where_there_is_one(architecture: str) -> None:
    network = small_network(architecture=architecture)
    before = copied_state(network)
    sheets = training_pictures(network, drawn_batches(2, ignored=True))
    assert set(sheets) == {"train/source", "train/target"}
    for sheet in sheets.values():
        assert sheet.dtype == np.uint8
        assert sheet.ndim == 3
        assert sheet.shape[2] == 3
    labelled, unlabelled = (sheets[f"train/{name}"].shape for name in ("source", "target"))
    assert labelled[1] > unlabelled[1]  # four pictures beside three
    assert labelled[0] == unlabelled[0]
    assert_same(network.state_dict(), before)


def test_networks_in_float64_and_other_dtypes_of_images_work() -> None:
    batch = drawn_batch(1, 0)
    assert set(training_pictures(small_network().double(), {"source": batch})) == {"train/source"}
