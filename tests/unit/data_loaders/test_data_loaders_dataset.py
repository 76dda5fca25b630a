"""Where a dataset's labels come from, and what it says about files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_loaders.aspect_crops import AspectCropTransform
from data_loaders.dataset import SegmentationDataset, pseudo_label_path
from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.streams import SampleStream
from data_loaders.transforms import TrainingTransform
from utils.errors import UserError

TABLE = load_description("cityscapes").label_table("cityscapes19")
IMAGE = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def keep_all(image: np.ndarray, label: np.ndarray | None, generator: object = None) -> tuple:
    """A transform that leaves everything as it is."""
    return image, label


def file_list(root: Path, count: int = 2, *, labelled: bool = True) -> FileList:
    """Images aachen/<n>.png with labels of raw id 7 + n."""
    items = []
    for number in range(count):
        name = f"aachen/{number}.png"
        (root / "images/aachen").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / name), IMAGE[..., ::-1])
        if labelled:
            write_label_png(root / "labels" / name, np.full((8, 12), 7 + number, np.uint8))
        items.append(Item(name, root / "images" / name, root / "labels" / name if labelled else None))
    return FileList(load_description("cityscapes"), root, "", "train", tuple(items))


def pseudo_labels(root: Path, values: list[int]) -> Path:
    """A folder with one constant pseudo label per value."""
    for number, value in enumerate(values):
        write_label_png(root / "pseudo" / f"aachen/{number}.png", np.full((8, 12), value, np.uint8))
    return root / "pseudo"


def test_a_sample_holds_the_picture_its_train_ids_and_its_size(tmp_path: Path) -> None:
    dataset = SegmentationDataset(
        file_list(tmp_path), label_table=TABLE, transform=TrainingTransform(size=(6, 4), crop=None)
    )
    sample = dataset.sample(1, np.random.default_rng(0))
    assert sample.image.shape == (3, 4, 6)
    assert sample.label is not None
    assert sample.label.shape == (4, 6)
    assert sample.label.unique().tolist() == [TABLE[8]]
    assert (sample.name, sample.size) == ("aachen/1.png", (8, 12))


def test_pixels_are_red_green_blue(tmp_path: Path) -> None:
    sample = SegmentationDataset(file_list(tmp_path), transform=keep_all).sample(0)
    np.testing.assert_array_equal(sample.image.numpy(), IMAGE.transpose(2, 0, 1))


def test_without_a_table_label_files_are_never_opened(tmp_path: Path) -> None:
    files = file_list(tmp_path)
    for item in files.items:
        assert item.label is not None
        item.label.write_text("opening this would fail")
    assert SegmentationDataset(files, transform=keep_all).sample(0).label is None


def test_pseudo_labels_are_used_as_stored(tmp_path: Path) -> None:
    dataset = SegmentationDataset(
        file_list(tmp_path, labelled=False),
        pseudo_label_root=pseudo_labels(tmp_path, [18, 255]),
        num_classes=19,
        transform=keep_all,
    )
    labels = [dataset.sample(index).label for index in range(2)]
    assert [label.unique().tolist() for label in labels if label is not None] == [[18], [255]]


def test_a_pseudo_label_beyond_the_classes_is_refused(tmp_path: Path) -> None:
    dataset = SegmentationDataset(
        file_list(tmp_path),
        pseudo_label_root=pseudo_labels(tmp_path, [8, 9]),
        num_classes=9,
        transform=keep_all,
    )
    dataset.sample(0)
    with pytest.raises(UserError, match=r"label values \[9\] in .*1\.png are not train ids 0\.\.8 or 255"):
        dataset.sample(1)


def test_missing_pseudo_labels_are_counted_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pseudo lacks 2 of 3 labels, first aachen/1\.png"):
        SegmentationDataset(
            file_list(tmp_path, 3),
            pseudo_label_root=pseudo_labels(tmp_path, [0]),
            num_classes=19,
            transform=keep_all,
        )


def test_a_pseudo_label_is_a_png_whatever_the_image_is() -> None:
    assert pseudo_label_path(Path("p"), "a/b_1.5.jpg") == Path("p/a/b_1.5.png")


def test_any_reader_can_give_the_labels(tmp_path: Path) -> None:
    dataset = SegmentationDataset(
        file_list(tmp_path), transform=keep_all, label_reader=lambda item: np.full((8, 12), 3, np.uint8)
    )
    label = dataset.sample(0).label
    assert label is not None
    assert label.unique().tolist() == [3]


def test_an_image_without_a_label_file_is_named(tmp_path: Path) -> None:
    dataset = SegmentationDataset(file_list(tmp_path, labelled=False), label_table=TABLE, transform=keep_all)
    with pytest.raises(UserError, match=r"aachen/0\.png has no label file"):
        dataset.sample(0)


def test_a_damaged_image_is_named_by_the_stream(tmp_path: Path) -> None:
    files = file_list(tmp_path, 1)
    files.items[0].image.write_bytes(files.items[0].image.read_bytes()[:60])
    transform = TrainingTransform(size=(12, 8), crop=None)
    source = SampleStream(
        SegmentationDataset(files, transform=transform), seed=0, name="target", global_batch=1, num_workers=1
    )
    with pytest.raises(UserError, match=r"0\.png") as caught:
        source.next()
    assert "\n" not in str(caught.value)
    source.close()


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image found for split 'train'"):
        SegmentationDataset(file_list(tmp_path, 0), transform=keep_all)


def test_loading_and_finishing_are_what_a_sample_is_made_of(tmp_path: Path) -> None:
    transform = TrainingTransform(size=(6, 4), crop=None)
    dataset = SegmentationDataset(file_list(tmp_path), label_table=TABLE, transform=transform)
    loaded = dataset.load(1)
    assert (loaded.item, loaded.size) == (dataset.items[1], (8, 12))
    np.testing.assert_array_equal(loaded.image, IMAGE)
    finished = dataset.finish(loaded, *transform(loaded.image, loaded.label, np.random.default_rng(0)))
    sample = dataset.sample(1, np.random.default_rng(0))
    assert finished.image.equal(sample.image)
    assert finished.label is not None
    assert finished.label.equal(sample.label)
    assert (finished.name, finished.size, finished.content) == (sample.name, sample.size, None)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_small_image_is_padded_at_the_bottom_and_at_the_right(tmp_path: Path, labelled: bool) -> None:
    dataset = SegmentationDataset(
        file_list(tmp_path, labelled=labelled),
        label_table=TABLE if labelled else None,
        transform=keep_all,
        pad_to=(10, 9),
    )
    sample = dataset.sample(0)
    assert sample.image.shape == (3, 10, 12)  # it is wide enough
    assert sample.content == (8, 12)
    np.testing.assert_array_equal(sample.image[:, :8].numpy(), IMAGE.transpose(2, 0, 1))
    assert not sample.image[:, 8:].any()
    if labelled:
        assert sample.label is not None
        assert sample.label.shape == (10, 12)
        assert sample.label[:8].unique().tolist() == [TABLE[7]]
        assert sample.label[8:].unique().tolist() == [255]


def test_an_image_of_the_right_size_is_not_padded(tmp_path: Path) -> None:
    assert (
        SegmentationDataset(file_list(tmp_path), transform=keep_all, pad_to=(8, 12)).sample(0).content is None
    )


def test_crops_refuse_a_label_of_another_picture(tmp_path: Path) -> None:
    files = file_list(tmp_path)
    assert files.items[0].label is not None
    write_label_png(files.items[0].label, np.full((12, 12), 7, np.uint8))
    transform = AspectCropTransform(limit=(12, 8), crop=(4, 4))
    dataset = SegmentationDataset(files, label_table=TABLE, transform=transform)
    with pytest.raises(UserError, match=r"images/aachen/0.png is 12x8, but its label .*/0.png is 12x12"):
        dataset.sample(0, np.random.default_rng(0))
    dataset.sample(1, np.random.default_rng(0))


def test_a_label_of_the_images_proportions_is_resized_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = file_list(tmp_path)
    assert files.items[0].label is not None
    half = np.arange(24, dtype=np.uint8).reshape(4, 6) % 2 + 7
    write_label_png(files.items[0].label, half)
    transform = AspectCropTransform(limit=(12, 8), crop=(8, 12), mirror=False)
    dataset = SegmentationDataset(files, label_table=TABLE, transform=transform)
    for _ in range(2):
        sample = dataset.sample(0, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.label, TABLE[half].repeat(2, 0).repeat(2, 1))
    assert [record.message.count("is 12x8, but its label") for record in caplog.records] == [1]
