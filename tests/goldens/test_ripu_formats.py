"""The annotation files of the RIPU release (formats/): read, rebuilt from picks, and written again alike."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import golden_path, load_json
from PIL import Image

from selection import published_masks
from selection.oracles import GroundTruthOracle
from selection.rounds import ImageQuery, RoundInfo, RoundQueries
from selection.store import AnnotationStore, BoughtLabels

NAME = "city/image_leftImg8bit.png"
STATES = ("initial", "after_round")


def published_folder(root: Path, state: str) -> Path:
    """The golden files of one state, named as in the originals' OUTPUT_DIR."""
    files = {"mask": published_masks.mask_path(root, NAME)}
    files["indicator"] = published_masks.indicator_path(root, NAME)
    for (kind, path), ending in zip(files.items(), ("png", "pth"), strict=True):
        path.parent.mkdir(parents=True)
        shutil.copyfile(golden_path("ripu", f"formats/{kind}_{state}.{ending}"), path)
    return root


def ground_truth(seed: int, size: tuple[int, int], num_classes: int) -> np.ndarray:
    """The recipe of section 2 of the goldens' README: blocks of 7x7 pixels, a tenth of them ignored."""
    generator = np.random.default_rng(seed)
    blocks = (-(-size[0] // 7), -(-size[1] // 7))
    label = generator.integers(0, num_classes, blocks).astype(np.uint8)
    label[generator.random(blocks) < 0.1] = 255
    return label.repeat(7, 0).repeat(7, 1)[: size[0], : size[1]]


def bought_round(root: Path) -> BoughtLabels:
    """The golden's picks, answered from its ground truth, through the files of a round."""
    case = load_json("ripu", "formats/formats.json")
    size, radius = (case["H"], case["W"]), case["k"]
    picks = np.array(case["picks"], np.uint16)
    query = ImageQuery(NAME, size, picks, np.zeros(0, np.uint8))
    query = ImageQuery(NAME, size, picks, np.zeros(len(query.pixels(radius)), np.uint8))
    info = RoundInfo(
        number=0,
        iteration=0,
        method="ripu",
        setting="region",
        label_radius=radius,
        exclusion_radius=2 * radius,
        budget=f"{100 * case['ratio']}%",
        rounds=case["budget_rounds"],
        class_space="golden",  # C is the file's
        image_list="",
        images=1,
        seed=case["seed"],
    )
    truth = ground_truth(case["seed"], size, case["num_classes"])
    store = AnnotationStore(root)
    folder = store.round(0)
    folder.begin(info)
    folder.write_part([query])
    folder.write_queries(folder.assemble([NAME]))
    queries = folder.queries()
    assert isinstance(queries, RoundQueries)
    folder.write_labels(GroundTruthOracle(lambda name: truth).answer_round(queries))
    return store.load(1)


def stored(root: Path) -> tuple[str, np.ndarray, dict[str, torch.Tensor]]:
    """Pillow mode and values of the mask, and the indicator, as they are in the files."""
    indicator = torch.load(published_masks.indicator_path(root, NAME), weights_only=True)
    with Image.open(published_masks.mask_path(root, NAME)) as picture:
        return picture.mode, np.array(picture), indicator


def assert_same_files(root: Path, expected: Path) -> None:
    mode, mask, indicator = stored(root)
    expected_mode, expected_mask, expected_indicator = stored(expected)
    assert mode == expected_mode
    assert mask.dtype == expected_mask.dtype
    np.testing.assert_array_equal(mask, expected_mask)
    assert list(indicator) == list(expected_indicator)
    for key, values in expected_indicator.items():
        assert indicator[key].dtype == values.dtype
        assert torch.equal(indicator[key], values)


@pytest.mark.parametrize("state", STATES)
def test_annotation_files_are_read(state: str, tmp_path: Path) -> None:
    root = published_folder(tmp_path, state)
    num_classes = load_json("ripu", "formats/formats.json")["num_classes"]
    found = published_masks.read(root, NAME, num_classes)
    _, mask, indicator = stored(root)
    np.testing.assert_array_equal(found.mask, mask)
    for values, key in ((found.active, "active"), (found.selected, "selected")):
        np.testing.assert_array_equal(values, np.broadcast_to(indicator[key].numpy(), mask.shape))


def test_a_stored_round_has_the_maps_of_the_release(tmp_path: Path) -> None:
    expected = published_folder(tmp_path / "golden", "after_round")
    bought = bought_round(tmp_path / "queries")
    _, mask, indicator = stored(expected)
    np.testing.assert_array_equal(bought.mask(NAME), mask)
    np.testing.assert_array_equal(bought.blocked(NAME), indicator["active"].numpy())
    np.testing.assert_array_equal(bought.selected(NAME), indicator["selected"].numpy())


@pytest.mark.parametrize("state", STATES)
def test_annotation_files_are_written_as_the_release_writes_them(state: str, tmp_path: Path) -> None:
    expected = published_folder(tmp_path / "golden", state)
    size = stored(expected)[1].shape
    bought = BoughtLabels() if state == "initial" else bought_round(tmp_path / "queries")
    published_masks.export_store(bought, [NAME], tmp_path / "ours", size_of=lambda name: size)
    assert_same_files(tmp_path / "ours", expected)


def test_a_run_of_the_release_is_continued_from_its_folders(tmp_path: Path) -> None:
    expected = published_folder(tmp_path / "golden", "after_round")
    num_classes = load_json("ripu", "formats/formats.json")["num_classes"]
    store = AnnotationStore(tmp_path / "queries")
    store.import_annotations(published_masks.import_folder(expected, [NAME], num_classes))
    published_masks.export_store(store.load(0), [NAME], tmp_path / "ours")
    assert_same_files(tmp_path / "ours", expected)
