"""The originals' annotation folders: written from bought labels, read back, refused when they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_rounds import CLASSES, NAMES, SIZES, fill_store, toy_classes, whole_queries

from selection import published_masks
from selection.store import AnnotationStore
from utils.errors import UserError

NAME = "aachen/aachen_000000_000019_leftImg8bit.png"
MASK = "gtMask/train/aachen/aachen_000000_000019_gtFine_labelIds.png"
INDICATOR = "gtIndicator/train/aachen/aachen_000000_000019_indicator.pth"


def annotate(root: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Writes the files of one drawn image."""
    generator = np.random.default_rng(0)
    selected = generator.random((12, 17)) < 0.3
    active = selected | (generator.random((12, 17)) < 0.3)
    mask = np.where(selected, generator.choice([0, 7, 18, 255], (12, 17)), 255).astype(np.uint8)
    published_masks.write(root, NAME, mask, active, selected)
    return mask, active, selected


def test_files_are_where_and_what_the_originals_write(tmp_path: Path) -> None:
    mask, active, selected = annotate(tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == [INDICATOR, MASK]
    with Image.open(tmp_path / MASK) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.array(picture), mask)
    indicator = torch.load(tmp_path / INDICATOR, weights_only=True)
    assert list(indicator) == ["active", "selected"]
    for key, values in (("active", active), ("selected", selected)):
        assert indicator[key].dtype == torch.bool
        np.testing.assert_array_equal(indicator[key].numpy(), values)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = annotate(tmp_path)
    found = published_masks.read(tmp_path, NAME, CLASSES)
    assert found.name == NAME
    for read, values in zip((found.mask, found.active, found.selected), written, strict=True):
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values)


def test_a_fresh_indicator_becomes_maps_of_false(tmp_path: Path) -> None:
    mask = np.full((5, 6), 255, np.uint8)
    published_masks.write(tmp_path, NAME, mask, None, None)
    indicator = torch.load(tmp_path / INDICATOR, weights_only=True)
    assert [values.tolist() for values in indicator.values()] == [[False], [False]]
    found = published_masks.read(tmp_path, NAME, CLASSES)
    np.testing.assert_array_equal(found.mask, mask)
    for values in (found.active, found.selected):
        np.testing.assert_array_equal(values, np.zeros((5, 6), bool))


@pytest.mark.parametrize(
    ("name", "mask", "indicator"),
    [
        ("a/b_leftImg8bit.png", "a/b_gtFine_labelIds.png", "a/b_indicator.pth"),
        ("a/frame.0.jpg", "a/frame.0_gtFine_labelIds.png", "a/frame.0_indicator.pth"),
        ("plain.png", "plain_gtFine_labelIds.png", "plain_indicator.pth"),
    ],
)
def test_names_without_the_cityscapes_ending_keep_their_stem(name: str, mask: str, indicator: str) -> None:
    root = Path("x")
    assert published_masks.mask_path(root, name) == root / "gtMask" / "train" / mask
    assert published_masks.indicator_path(root, name) == root / "gtIndicator" / "train" / indicator


@pytest.mark.parametrize("file", [MASK, INDICATOR])
@pytest.mark.parametrize("content", ["cut off", "empty", "text"])
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str) -> None:
    annotate(tmp_path)
    path = tmp_path / file
    kept = path.read_bytes()
    path.write_bytes({"cut off": kept[: len(kept) // 2], "empty": b"", "text": b"no such thing"}[content])
    with pytest.raises(UserError, match=rf"{path.name} is damaged \(.*copy it again from the original run"):
        published_masks.read(tmp_path, NAME, CLASSES)


@pytest.mark.parametrize("file", [MASK, INDICATOR])
def test_missing_files_are_named(tmp_path: Path, file: str) -> None:
    annotate(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(
        UserError, match=rf"{(tmp_path / file).name} is missing; the folder is of another image"
    ):
        published_masks.read(tmp_path, NAME, CLASSES)


@pytest.mark.parametrize("key", ["active", "selected"])
@pytest.mark.parametrize("values", [torch.zeros(12, 16, dtype=torch.bool), torch.ones(1, dtype=torch.bool)])
def test_an_indicator_of_another_size_is_refused(tmp_path: Path, key: str, values: torch.Tensor) -> None:
    annotate(tmp_path)
    path = tmp_path / INDICATOR
    torch.save({**torch.load(path, weights_only=True), key: values}, path)
    with pytest.raises(UserError, match=r"has shape \(.*\) but its mask has \(12, 17\)"):
        published_masks.read(tmp_path, NAME, CLASSES)


@pytest.mark.parametrize(
    "content", [{"active": torch.zeros(1, dtype=torch.bool)}, [1], {"active": 1, "selected": 2}]
)
def test_an_indicator_without_both_maps_is_refused(tmp_path: Path, content: object) -> None:
    annotate(tmp_path)
    torch.save(content, tmp_path / INDICATOR)
    with pytest.raises(UserError, match=r"holds no bool maps 'active' and 'selected'"):
        published_masks.read(tmp_path, NAME, CLASSES)


def test_an_indicator_that_would_run_code_is_refused(tmp_path: Path) -> None:
    annotate(tmp_path)
    torch.save({"active": Path("x"), "selected": Path("x")}, tmp_path / INDICATOR)
    with pytest.raises(UserError, match=r"_indicator\.pth is damaged"):
        published_masks.read(tmp_path, NAME, CLASSES)


def test_classes_of_another_run_are_refused(tmp_path: Path) -> None:
    annotate(tmp_path)
    with pytest.raises(UserError, match=r"has values \[18\], which are not train ids 0\.\.15 or 255"):
        published_masks.read(tmp_path, NAME, 16)


def test_a_colour_mask_is_refused(tmp_path: Path) -> None:
    annotate(tmp_path)
    Image.new("RGB", (17, 12)).save(tmp_path / MASK)
    with pytest.raises(UserError, match=r"has Pillow mode RGB, not 8-bit ids"):
        published_masks.read(tmp_path, NAME, CLASSES)


def test_labels_outside_the_selected_pixels_are_refused(tmp_path: Path) -> None:
    mask, active, selected = annotate(tmp_path)
    mask[tuple(np.argwhere(~selected)[:2].T)] = 3
    published_masks.write(tmp_path, NAME, mask, active, selected)
    with pytest.raises(UserError, match=r"labels 2 pixels that .* does not mark as selected"):
        published_masks.read(tmp_path, NAME, CLASSES)


def test_bought_labels_go_out_and_come_back_as_a_continued_run(tmp_path: Path) -> None:
    store, continued = AnnotationStore(tmp_path / "queries"), AnnotationStore(tmp_path / "continued")
    fill_store(store, 2)
    bought = store.load(2)
    assert published_masks.export_store(bought, NAMES, tmp_path / "out") == len(NAMES)
    continued.import_annotations(published_masks.import_folder(tmp_path / "out", NAMES, CLASSES))
    imported = continued.load(0)
    for name, size in zip(NAMES, SIZES, strict=True):
        assert imported.size_of(name) == size
        np.testing.assert_array_equal(imported.mask(name), bought.mask(name))
        np.testing.assert_array_equal(imported.blocked(name), bought.blocked(name))
        np.testing.assert_array_equal(imported.selected(name), bought.selected(name))


def test_images_never_queried_are_exported_fresh_or_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bought = AnnotationStore(tmp_path / "queries").load(0)
    assert published_masks.export_store(bought, [NAME], tmp_path / "none") == 0
    assert f"1 images were never queried and are left out, such as {NAME}" in caplog.text
    assert published_masks.export_store(bought, [NAME], tmp_path, size_of=lambda name: (3, 4)) == 1
    found = published_masks.read(tmp_path, NAME, CLASSES)
    np.testing.assert_array_equal(found.mask, np.full((3, 4), 255))
    assert not found.active.any()


def test_a_folder_without_annotations_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no gtMask/train; name the OUTPUT_DIR of a RIPU or DWACA run"):
        published_masks.import_folder(tmp_path, [NAME], CLASSES)


def test_a_half_copied_folder_imports_nothing(tmp_path: Path) -> None:
    annotate(tmp_path)
    store = AnnotationStore(tmp_path / "queries")
    with pytest.raises(UserError, match=r"other_gtFine_labelIds\.png is missing"):
        store.import_annotations(published_masks.import_folder(tmp_path, [NAME, "other.png"], CLASSES))
    assert not (tmp_path / "queries").exists()


def test_whole_images_are_exported_and_read_back(tmp_path: Path) -> None:
    store, queries = AnnotationStore(tmp_path / "queries"), whole_queries()
    store.round(0).begin(queries.info)
    store.round(0).write_queries(queries)
    store.round(0).write_labels(toy_classes(queries))
    bought = store.load(1)
    assert published_masks.export_store(bought, NAMES, tmp_path) == 2  # the third was not asked about
    for query in queries.images:
        found = published_masks.read(tmp_path, query.name, CLASSES)
        np.testing.assert_array_equal(found.mask, bought.mask(query.name))
        assert found.active.all()
        assert found.selected.all()
