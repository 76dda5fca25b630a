"""RIPU's data items from files: images, labels, annotation masks; label tables (datasets.npz, .json)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL
import pytest
from golden_files import NO_CASES, has_golden, load_json, load_npz
from json_cases import json_cases
from PIL import Image

from data_loaders.decoding import map_label, read_image, read_raw_label, write_label_png
from data_loaders.description import load_description
from data_loaders.samples import planar
from data_loaders.transforms import TrainingTransform
from networks.normalization import torchvision_normalization
from utils.class_spaces import IGNORE_LABEL, class_space

ARCHIVE, RECIPES = "datasets.npz", "datasets.json"
PILLOW_OF_THE_GOLDENS = "13"
CASES = json_cases("ripu", RECIPES)
OUR_NAME = {"gtav": "gta5"}
SPACES = {19: "cityscapes19", 16: "synthia16"}
SKY = 10
KEPT_SIZE = ("active", "test")  # modes in which labels and masks are not resized


@dataclass(frozen=True)
class Drawn:
    """A case's image and raw label as drawn, and the annotation mask where it has one."""

    image: np.ndarray
    raw: np.ndarray
    instances: np.ndarray | None = None
    mask: np.ndarray | None = None


def draw(recipe: dict[str, Any]) -> Drawn:
    """The inputs of a case, in the README's order of draws."""
    rng, size = np.random.default_rng(recipe["seed"]), (recipe["H"], recipe["W"])
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if recipe["dataset"] == "gtav":
        return Drawn(image, rng.integers(0, 40, size, dtype=np.uint8))
    if recipe["dataset"] == "synthia":
        return Drawn(image, rng.integers(0, 23, size), instances=rng.integers(0, 3000, size))
    raw = rng.integers(0, 34, size, dtype=np.uint8)
    raw[rng.random(size) < 0.02] = IGNORE_LABEL
    mask = rng.integers(0, recipe["num_classes"], size).astype(np.uint8)
    mask[rng.random(size) < 0.7] = IGNORE_LABEL
    return Drawn(image, raw, mask=mask)


def read_back(case: str, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image, train ids and annotation mask of a case, through files and our readers."""
    recipe = load_json("ripu", RECIPES)[case]
    drawn = draw(recipe)
    assert drawn.image.sum(dtype=np.int64) == recipe["image_sum"]
    assert drawn.raw.sum(dtype=np.int64) == recipe["raw_sum"]
    Image.fromarray(drawn.image).save(folder / "image.png")
    if drawn.instances is None:
        write_label_png(folder / "label.png", drawn.raw)
    else:
        bgr = np.stack([np.zeros_like(drawn.raw), drawn.instances, drawn.raw], axis=-1)
        cv2.imwrite(str(folder / "label.png"), bgr.astype(np.uint16))
    description = load_description(OUR_NAME.get(recipe["dataset"], recipe["dataset"]))
    raw = read_raw_label(folder / "label.png", description.label_encoding)
    label = map_label(raw, description.label_table(SPACES[recipe["num_classes"]]))
    if drawn.mask is None:
        return read_image(folder / "image.png"), label, None
    write_label_png(folder / "mask.png", drawn.mask)
    return read_image(folder / "image.png"), label, read_raw_label(folder / "mask.png", "index")


def resized(case: str, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and label at the configured size, the label at its own size in modes that keep it."""
    recipe = load_json("ripu", RECIPES)[case]
    transform = TrainingTransform(size=tuple(recipe["size_wh"]), crop=None)
    image, small = transform(image, label, np.random.default_rng(0))
    return image, label if recipe.get("mode") in KEPT_SIZE else small


@pytest.mark.parametrize("case", CASES)
def test_the_network_sees_the_image_of_the_reference(case: str, tmp_path: Path) -> None:
    image, label, _ = read_back(case, tmp_path)
    pixels = planar(resized(case, image, label)[0])
    normalized = torchvision_normalization()(pixels[None])[0].numpy()
    same_pillow = PIL.__version__.partition(".")[0] == PILLOW_OF_THE_GOLDENS
    tolerance = 1e-6 if same_pillow else 1.01 / 255 / 0.224  # another Pillow rounds few pixels otherwise
    np.testing.assert_allclose(normalized, load_npz("ripu", ARCHIVE)[f"{case}/img"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_labels_and_masks_equal_the_reference(case: str, tmp_path: Path) -> None:
    golden = load_npz("ripu", ARCHIVE)
    image, label, mask = read_back(case, tmp_path)
    np.testing.assert_array_equal(resized(case, image, label)[1], golden[f"{case}/label"])
    if f"{case}/origin_label" in golden:
        np.testing.assert_array_equal(label, golden[f"{case}/origin_label"])
    assert (mask is not None) == (f"{case}/mask" in golden)
    if mask is not None:
        if (
            load_json("ripu", RECIPES)[case]["mode"] == "test"
        ):  # the reference's test items show no annotation
            mask = np.full_like(mask, IGNORE_LABEL)
        np.testing.assert_array_equal(resized(case, image, mask)[1], golden[f"{case}/mask"])


def _tables(palettes: bool) -> list[str]:
    if not has_golden("ripu", ARCHIVE):
        return ["missing-goldens"]
    names = [key.removeprefix("table/") for key in load_npz("ripu", ARCHIVE) if key.startswith("table/")]
    return [name for name in names if name.startswith("palette_") == palettes] or [NO_CASES]


@pytest.mark.parametrize("name", _tables(palettes=False))
def test_all_256_ids_become_the_train_ids_of_the_reference(name: str) -> None:
    expected = load_npz("ripu", ARCHIVE)[f"table/{name}"]
    dataset, _, num_classes = name.rpartition("_")
    description = load_description(OUR_NAME.get(dataset, dataset))
    np.testing.assert_array_equal(description.label_table(SPACES[int(num_classes)]), expected)


@pytest.mark.parametrize("name", _tables(palettes=True))
def test_colours_are_those_of_the_reference_but_for_its_sky(name: str) -> None:
    expected = load_npz("ripu", ARCHIVE)[f"table/{name}"]
    colours = np.array(class_space(SPACES[int(name.rpartition("_")[2])]).palette)
    others = np.arange(len(colours)) != SKY
    np.testing.assert_array_equal(colours[others], expected[others])
