"""DIDA's label tables, converted labels and statistics files (label_conversion.npz, label_conversion.json).

Cityscapes train ids come from the label id maps, which the originals' polygons are rendered to as well.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from golden_files import load_json, load_npz
from matching_cases import matching_cases
from PIL import Image

from data_loaders.decoding import map_label, read_raw_label, write_label_png
from data_loaders.description import load_description
from prepare_data import main

ARCHIVE, TEXTS = "label_conversion.npz", "label_conversion.json"
TABLES = {
    "gta_lut": "gta5",
    "synthia_lut": "synthia",
    "cityscapes_labelIds_to_trainIds_lut": "cityscapes",
}
MARK = "_labelTrainIds"


@dataclass(frozen=True)
class Converted:
    """Our name of one of the golden's data sets, and how its file names differ from the converted labels'."""

    name: str
    raw_mark: str  # of raw labels, in place of the converted ones' mark
    image: tuple[str, str]  # folders of labels and of images


SETS = {
    "gta": Converted("gta5", "", ("labels/", "images/")),
    "synthia": Converted("synthia", "", ("GT/LABELS/", "RGB/")),
    "cityscapes": Converted("cityscapes", "_labelIds", ("gtFine/", "leftImg8bit/")),
}


def golden() -> dict[str, np.ndarray]:
    """The archive."""
    return load_npz("dida", ARCHIVE)


@pytest.fixture(autouse=True)
def _are_here() -> None:
    """Skips or fails before a placeholder is taken for a case."""
    golden()
    load_json("dida", TEXTS)


@pytest.mark.parametrize("field", matching_cases("dida", ARCHIVE, r"(.+_lut)"))
def test_all_256_ids_become_the_train_ids_of_the_reference(field: str) -> None:
    table = load_description(TABLES[field]).label_table("cityscapes19")
    np.testing.assert_array_equal(table, golden()[field])


def stored(name: str, kind: str) -> list[np.ndarray]:
    """The golden's label maps of a data set: "train_ids", or the raw "ids" ("label_ids" of Cityscapes)."""
    files = golden()
    if name != "cityscapes":
        return list(files[f"{name}_{kind}"])
    prefix = f"cityscapes_{'label_ids' if kind == 'ids' else kind}_"
    return [files[f"{prefix}{number}"] for number in range(sum(key.startswith(prefix) for key in files))]


def write_raw(path: Path, ids: np.ndarray, name: str) -> None:
    """A raw label file as the data set ships it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "synthia":
        bgr = np.zeros((*ids.shape, 3), np.uint16)
        bgr[..., 2], bgr[..., 1] = ids, 7  # red: class, green: instance
        assert cv2.imwrite(str(path), bgr)
    else:
        palette = [(number, 0, 0) for number in range(256)] if name == "gta" else None
        write_label_png(path, ids.astype(np.uint8), palette)


@pytest.mark.parametrize("name", matching_cases("dida", ARCHIVE, r"(.+?)_train_ids(?:_\d+)?"))
def test_label_files_are_converted_as_in_the_reference(name: str, tmp_path: Path) -> None:
    description = load_description(SETS[name].name)
    table = description.label_table("cityscapes19")
    raw, expected = stored(name, "ids"), stored(name, "train_ids")
    assert len(raw) == len(expected) > 0
    for ids, train_ids in zip(raw, expected, strict=True):
        write_raw(tmp_path / "label.png", ids, name)
        read = map_label(read_raw_label(tmp_path / "label.png", description.label_encoding), table)
        np.testing.assert_array_equal(read, train_ids)


def label_files(name: str) -> list[str]:
    """The golden's paths of converted labels, in the order of the stored maps."""
    texts = load_json("dida", TEXTS)
    if f"{name}/files" in texts:
        return texts[f"{name}/files"]
    return [path.replace("_polygons.json", f"{MARK}.png") for path in texts[f"{name}/order"]]


def draw(name: str, folder: Path, *, raw: bool) -> None:
    """The golden's data set below `folder`: images of nothing, with raw or with converted labels."""
    kind, converted = "ids" if raw else "train_ids", SETS[name]
    for path, ids in zip(label_files(name), stored(name, kind), strict=True):
        image = folder / path.replace(*converted.image).replace(f"_gtFine{MARK}", "_leftImg8bit").replace(
            MARK, ""
        )
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*ids.shape, 3), np.uint8)).save(image)
        if raw:
            write_raw(folder / path.replace(MARK, converted.raw_mark), ids, name)
        else:
            write_label_png(folder / path, ids)


@pytest.mark.parametrize("labels", ["converted", "raw", "both"])
@pytest.mark.parametrize("name", matching_cases("dida", TEXTS, r"(.+)/sample_class_stats\.json"))
def test_the_statistics_files_have_the_text_of_the_reference(
    name: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("raw", "converted"):
        if labels in (kind, "both"):
            draw(name, tmp_path, raw=kind == "raw")
    monkeypatch.chdir(tmp_path)
    root = label_files(name)[0].partition("/")[0]
    assert main(["statistics", SETS[name].name, "--root", root, "--num-workers", "0"]) == 0
    texts = {
        key.partition("/")[2]: text
        for key, text in load_json("dida", TEXTS).items()
        if key.startswith(f"{name}/")
    }
    compared = [key for key in texts if key.startswith("sample") and key.endswith(".json")]
    assert len(compared) == 3
    for key in compared:
        expected = texts[key] if labels == "converted" else texts[key].replace(MARK, SETS[name].raw_mark)
        found = Path(root, key).read_text()
        if name == "cityscapes":  # the original takes its files in the order of the folder
            assert unordered(json.loads(found)) == unordered(json.loads(expected))
        else:
            assert found == expected


def unordered(content: object) -> object:
    """Lists as sorted texts; dicts compare without order anyway."""
    if isinstance(content, list):
        return sorted(json.dumps(entry, sort_keys=True) for entry in content)
    if isinstance(content, dict):
        return {key: unordered(value) for key, value in content.items()}
    return content
