"""DIDA's samples before augmentation: size, pixels, which crop, padding, mirror (preprocessing.npz)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import row_cases

from data_loaders.aspect_crops import AspectCropTransform, fitted_size
from data_loaders.dataset import LoadedItem, SegmentationDataset
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.samples import Batch, collate, planar
from networks.normalization import torchvision_normalization
from utils.class_spaces import IGNORE_LABEL

ARCHIVE, SIZES = "preprocessing.npz", "rescale_table_w_h_maxw_maxh_neww_newh"
LARGEST_SHARE = 0.75  # specification, section 8


def golden() -> dict[str, np.ndarray]:
    """The archive."""
    return load_npz("dida", ARCHIVE)


class OffsetGenerator:
    """Answers with the recorded offsets of the crops and counts them; never mirrors unless told to."""

    def __init__(self, offsets: np.ndarray, chance: float = 0.9) -> None:
        self.offsets: Iterator[int] = iter(offsets.ravel().tolist())
        self.chance = chance
        self.asked = 0

    def random(self) -> float:
        """Decides about the mirror."""
        return self.chance

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """The next offset."""
        value = next(self.offsets)
        assert endpoint
        assert low == 0 <= value <= high
        self.asked += 1
        return value


@pytest.mark.parametrize("row", row_cases("dida", ARCHIVE, SIZES))
def test_an_image_gets_the_size_of_the_reference(row: int) -> None:
    width, height, limit_width, limit_height, *expected = golden()[SIZES][row].tolist()
    assert fitted_size((width, height), (limit_width, limit_height)) == tuple(expected)


def resized() -> tuple[np.ndarray, np.ndarray]:
    """The golden's picture (RGB) and label after our resize."""
    files = golden()
    transform = AspectCropTransform(limit=tuple(files["img_scale"].tolist()), crop=(1, 1))
    image, label = transform.prepare(np.ascontiguousarray(files["image_bgr"][..., ::-1]), files["label"])
    assert label is not None
    return image, label


def test_pixels_and_labels_are_resized_as_in_the_reference() -> None:
    image, label = resized()
    expected = golden()["resized_image"][..., ::-1].astype(int)
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() <= 1  # OpenCV versions round few pixels differently
    np.testing.assert_array_equal(label, golden()["resized_label"])


def test_the_network_sees_the_normalised_pixels_of_the_reference() -> None:
    pixels = planar(np.ascontiguousarray(golden()["resized_image"][..., ::-1]))
    normalized = torchvision_normalization()(pixels[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(normalized, golden()["normalised_rgb"], rtol=0, atol=1e-5)


def cropped(result: np.ndarray, offsets: np.ndarray, share: float | None) -> tuple[np.ndarray, int]:
    """Our crop of the golden's label for these candidate offsets, and how many candidates were drawn."""
    label = golden()["crop_label"]
    transform = AspectCropTransform(limit=(1, 1), crop=result.shape, largest_share=share)
    generator = OffsetGenerator(offsets)
    _, crop = transform.draw(np.zeros((*label.shape, 3), np.uint8), label, generator)
    assert crop is not None
    return crop, generator.asked // 2


@pytest.mark.parametrize("case", row_cases("dida", ARCHIVE, "crop_offsets_h_w"))
def test_the_crop_of_the_reference_is_taken(case: int) -> None:
    files = golden()
    crop, draws = cropped(files["crop_result"][case], files["crop_offsets_h_w"][case], LARGEST_SHARE)
    assert draws == files["crop_draws_used"][case]
    np.testing.assert_array_equal(crop, files["crop_result"][case])


def test_a_target_crop_is_taken_as_it_is() -> None:
    """Its first candidate is not recorded alone: it is that of one of the cases."""
    files = golden()
    found = []
    for offsets in files["crop_offsets_h_w"]:
        crop, draws = cropped(files["crop_target_result"], offsets, None)
        assert draws == files["crop_target_draws"]
        found.append(np.array_equal(crop, files["crop_target_result"]))
    assert any(found)


def padded_batch() -> Batch:
    """The golden's small image, cut out of its padding and padded again by a dataset."""
    files = golden()
    image = files["small_padded_image"]
    inside = (image != 0).any(axis=-1)
    content = (int(inside.any(axis=1).sum()), int(inside.any(axis=0).sum()))
    normalization = torchvision_normalization()
    scale = 1 / normalization(torch.ones(1, 3, 1, 1)).sub(normalization(torch.zeros(1, 3, 1, 1)))
    pixels = image * scale.reshape(3).numpy() + normalization.neutral_color().reshape(3).numpy()
    small = pixels[: content[0], : content[1]].round().astype(np.uint8)
    label = files["small_padded_label"][: content[0], : content[1]]
    item = Item("small.png", Path("small.png"), None)
    dataset = SegmentationDataset(
        FileList(load_description("cityscapes"), Path(), "", "train", (item,)),
        transform=AspectCropTransform(limit=content[::-1], crop=image.shape[:2]),
        pad_to=image.shape[:2],
    )
    transformed = dataset.transform(small, label, OffsetGenerator(np.zeros(2, int)))
    return collate([dataset.finish(LoadedItem(item, small, label, content), *transformed)])


def test_a_small_image_is_padded_as_in_the_reference() -> None:
    batch, normalization = padded_batch(), torchvision_normalization()
    assert batch.content is not None
    assert batch.label is not None
    rows, columns = batch.content[0].tolist()
    image = normalization.neutral_color().expand(1, 3, *batch.image.shape[-2:]).clone()
    image[..., :rows, :columns] = batch.image[..., :rows, :columns].to(image.dtype)
    normalized = normalization(image)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(normalized, golden()["small_padded_image"], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(batch.label[0].numpy(), golden()["small_padded_label"])
    assert (batch.label[0, rows:] == IGNORE_LABEL).all()


def test_mirroring_turns_left_and_right_around_as_in_the_reference() -> None:
    label = golden()["label"]
    transform = AspectCropTransform(limit=(1, 1), crop=label.shape)
    image = np.repeat(label[..., None], 3, axis=-1)
    mirrored, mirrored_label = transform.draw(image, label, OffsetGenerator(np.zeros(2, int), chance=0.49))
    np.testing.assert_array_equal(mirrored_label, golden()["flipped_label"])
    np.testing.assert_array_equal(mirrored[..., 2], golden()["flipped_label"])
