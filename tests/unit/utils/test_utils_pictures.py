"""Pictures: every function gives RGB uint8 of the promised size and colours."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from utils import pictures
from utils.class_spaces import CLASS_SPACES
from utils.errors import UserError

PALETTE = [(128, 64, 128), (244, 35, 232), (70, 70, 70)]


def test_labels_get_their_colours_and_others_are_black() -> None:
    label = np.array([[0, 1], [2, 255]], np.uint8)
    assert pictures.colorize(label, PALETTE).tolist() == [
        [[128, 64, 128], [244, 35, 232]],
        [[70, 70, 70], [0, 0, 0]],
    ]


def test_heat_maps_run_from_dark_blue_to_yellow() -> None:
    heat = pictures.heat_map(np.array([[0.0, 1.0, np.nan]], np.float32))
    assert heat.dtype == np.uint8
    dark, bright, unknown = heat[0].tolist()
    assert dark[2] > dark[1]
    assert min(bright[:2]) > 200 > bright[2]
    assert unknown == [0, 0, 0]


def test_heat_maps_keep_given_limits() -> None:
    half = pictures.heat_map(np.full((2, 2), 0.5), low=0, high=1)
    assert (half == pictures.heat_map(np.array([[0, 0.5, 1]]))[0, 1]).all()


@pytest.mark.parametrize(
    "values", [np.full((3, 4), 2.0), np.full((3, 4), np.nan), np.zeros((3, 4), np.uint8)]
)
def test_constant_or_unknown_values_make_a_heat_map_too(values: np.ndarray) -> None:
    assert pictures.heat_map(values).shape == (3, 4, 3)


def test_overlays_mix_by_share() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    colours = np.full((2, 2, 3), 200, np.uint8)
    assert (pictures.overlay(image, colours, 0.25) == 125).all()
    assert (pictures.overlay(image, colours, 0.0) == image).all()


def test_errors_are_red_and_ignored_pixels_black() -> None:
    prediction = np.array([[1, 2, 3]], np.uint8)
    label = np.array([[1, 1, 255]], np.uint8)
    colours = pictures.error_map(prediction, label)
    assert colours.dtype == np.uint8
    assert [tuple(pixel) for pixel in colours[0].tolist()] == [
        pictures.CORRECT,
        pictures.WRONG,
        pictures.BLACK,
    ]


def test_contact_sheets_align_pictures_of_any_size() -> None:
    wide = np.full((20, 60, 3), 10, np.uint8)
    grey = np.full((40, 40), 20, np.uint8)
    sheet = pictures.contact_sheet([[wide, grey], [None, wide], [grey]], ["image", "truth"], height=30)
    gap = pictures.GAP
    assert sheet.shape == (pictures.TEXT_HEIGHT + gap + 3 * (30 + gap), gap + 90 + gap + 90 + gap, 3)
    top = pictures.TEXT_HEIGHT + gap
    assert (sheet[top : top + 30, gap : gap + 90] == 10).all()
    assert (sheet[top : top + 30, gap + 90 + gap : gap + 90 + gap + 30] == 20).all()
    assert (sheet[top + 30 + gap : top + 60 + gap, gap : gap + 90] == 255).all()
    assert (sheet[: pictures.TEXT_HEIGHT] < 128).any(), "titles are written"


def test_an_empty_contact_sheet_is_a_picture() -> None:
    assert pictures.contact_sheet([]).ndim == 3


def test_legends_show_every_class_colour() -> None:
    space = CLASS_SPACES["cityscapes19"]
    picture = pictures.legend(space.class_names, space.palette)
    seen = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert set(map(tuple, space.palette)) <= seen


def test_rgb_files_are_read_back_alike(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    pictures.write_png(tmp_path / "a.png", picture)
    assert (cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_COLOR_RGB) == picture).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_palette_files_keep_ids_and_colours(tmp_path: Path) -> None:
    label = np.array([[0, 1, 2, 255]], np.uint8)
    pictures.write_png(tmp_path / "a.png", label, PALETTE)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        assert (np.asarray(picture) == label).all()
        assert (np.asarray(picture.convert("RGB")) == pictures.colorize(label, PALETTE)).all()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(UserError, match="nowhere"):
        pictures.write_png(tmp_path / "nowhere/a.png", np.zeros((2, 2), np.uint8))
