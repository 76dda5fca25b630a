"""MADA's samples: label ids, both resizes, scale, crop, mirror (preprocess.npz).

The archive ignores pixels by 250, ours by 255.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from golden_files import cases, load_npz
from matching_cases import matching_cases

from data_loaders.dataset import SegmentationDataset
from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.samples import Sample
from data_loaders.scaled_crops import ScaledCropTransform
from data_loaders.transforms import TrainingTransform, Transform
from utils.class_spaces import IGNORE_LABEL, class_space

ARCHIVE = "preprocess.npz"
THEIR_IGNORE = 250
SPACE = class_space("cityscapes19")
CASES = cases("mada", ARCHIVE, "image_u8_chw")
PICTURES = {  # beginning of a case: picture of the archive, our data set
    "gta": ("gta", "gta5"),
    "city": ("city", "cityscapes"),
    "active": ("city", "cityscapes"),
}


def golden() -> dict[str, np.ndarray]:
    """The archive."""
    return load_npz("mada", ARCHIVE)


@pytest.fixture(autouse=True)
def _are_here() -> None:
    """Skips or fails before a placeholder is taken for a case."""
    golden()


def in_our_ids(train_ids: np.ndarray) -> np.ndarray:
    """Void where the reference ignores, and where it stops on an id that is no class."""
    return np.where(train_ids < SPACE.num_classes, train_ids, IGNORE_LABEL).astype(np.uint8)


class PythonGenerator:
    """The reference's generator under the names of ours."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)

    def random(self) -> float:
        """Uniform in [0, 1)."""
        return self.source.random()

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """Uniform, both bounds included."""
        assert endpoint
        return self.source.randint(low, high)


def transform_of(case: str) -> Transform:
    """What the case does after decoding: nothing but the fixed size, or the augmentation of its kind."""
    files, (domain, kind) = golden(), case.split("_", 1)
    size = tuple(files[f"{domain}_size_wh"].tolist())
    if kind.startswith("plain"):
        return TrainingTransform(size=size, crop=None, resampling="pillow_bilinear")
    options = "fallback" if kind.startswith("cropfallback") else "aug"
    width, height = files[f"{options}_rcrop_wh"].tolist()
    return ScaledCropTransform(
        size=size,
        crop=(height, width),
        scaled_width=int(files[f"{options}_rsize"]),
        mirror=float(files["aug_hflip"]),
    )


def dataset_of(
    image: np.ndarray, label: np.ndarray, name: str, transform: Transform, folder: Path
) -> SegmentationDataset:
    """A data set of one image and its raw label, in files."""
    item = Item("image.png", folder / "image.png", folder / "label.png")
    assert cv2.imwrite(str(item.image), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_label_png(folder / "label.png", label)
    description = load_description(name)
    files = FileList(description, folder, "", "train", (item,))
    return SegmentationDataset(files, transform=transform, label_table=description.label_table(SPACE.name))


def sample(case: str, folder: Path) -> Sample:
    """Our sample of a case."""
    files, (picture, name) = golden(), PICTURES[case.partition("_")[0]]
    image, label = files[f"{picture}_image"], files[f"{picture}_label"]
    dataset = dataset_of(image, label, name, transform_of(case), folder)
    return dataset.sample(0, PythonGenerator(int(files[f"{case}/py_seed"])))


@pytest.mark.parametrize("case", CASES)
def test_the_image_has_the_very_bytes_of_the_reference(case: str, tmp_path: Path) -> None:
    np.testing.assert_array_equal(sample(case, tmp_path).image.numpy(), golden()[f"{case}/image_u8_chw"])


@pytest.mark.parametrize("case", CASES)
def test_the_label_equals_that_of_the_reference(case: str, tmp_path: Path) -> None:
    label, expected = sample(case, tmp_path).label, golden()[f"{case}/label"]
    assert label is not None
    assert np.isin(expected, [*range(SPACE.num_classes), THEIR_IGNORE]).all()
    np.testing.assert_array_equal(label.numpy(), in_our_ids(expected))


@pytest.mark.parametrize("table", matching_cases("mada", ARCHIVE, r"(lut_.+)"))
def test_all_256_ids_become_the_train_ids_of_the_reference(table: str) -> None:
    ours = load_description(table.removeprefix("lut_")).label_table(SPACE.name)
    np.testing.assert_array_equal(ours, in_our_ids(golden()[table]))


@pytest.mark.parametrize("case", matching_cases("mada", ARCHIVE, r"(city_label_\d+)_raises"))
def test_an_id_on_which_the_reference_stops_is_void_in_ours(case: str, tmp_path: Path) -> None:
    """License plates (34), and 255: in Cityscapes label id maps both are pixels without a class."""
    description, beyond = load_description("cityscapes"), int(re.findall(r"\d+", case)[-1])
    assert golden()["lut_cityscapes"][beyond] not in (*range(SPACE.num_classes), THEIR_IGNORE)
    label = np.full((6, 8), 7, np.uint8)  # road
    label[0, :3], label[1, :2] = beyond, 255
    transform = TrainingTransform(size=(8, 6), crop=None, resampling="pillow_bilinear")
    dataset = dataset_of(np.zeros((6, 8, 3), np.uint8), label, description.name, transform, tmp_path)
    ours = dataset.sample(0, PythonGenerator(0)).label
    assert ours is not None
    np.testing.assert_array_equal(ours.numpy(), np.where(label == 7, 0, IGNORE_LABEL))
    assert {beyond, 255} <= description.known_ids()  # and nothing warns about them
