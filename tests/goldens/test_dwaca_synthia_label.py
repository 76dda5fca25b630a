"""SYNTHIA's 16-bit labels (synthia_label_16bit.png, synthia_label.npz): read right, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_files import golden_path, load_npz
from PIL import Image

from data_loaders.decoding import map_label, read_raw_label
from data_loaders.description import load_description
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

PICTURE, ARCHIVE = "synthia_label_16bit.png", "synthia_label.npz"
DESCRIPTION = load_description("synthia")


def test_the_red_channel_is_read() -> None:
    raw = read_raw_label(golden_path("dwaca", PICTURE), DESCRIPTION.label_encoding)
    red = load_npz("dwaca", "synthia_label.npz")["raw_rgb"][..., 0]
    np.testing.assert_array_equal(raw, np.minimum(red, IGNORE_LABEL))


def test_train_ids_equal_the_reference() -> None:
    raw = read_raw_label(golden_path("dwaca", "synthia_label_16bit.png"), DESCRIPTION.label_encoding)
    train_ids = map_label(raw, DESCRIPTION.label_table("synthia16"))
    np.testing.assert_array_equal(train_ids, load_npz("dwaca", ARCHIVE)["train_id"])


def test_what_an_eight_bit_reader_makes_of_it_is_refused(tmp_path: Path) -> None:
    wrong = load_npz("dwaca", ARCHIVE)["pillow_8bit_wrong"]
    Image.fromarray(wrong).save(tmp_path / "converted.png")
    with pytest.raises(UserError, match=r"converted\.png has 3 channel\(s\) of uint8, .* 16-bit RGB PNGs"):
        read_raw_label(tmp_path / "converted.png", DESCRIPTION.label_encoding)
