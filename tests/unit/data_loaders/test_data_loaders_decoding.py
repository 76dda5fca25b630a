"""Images and label files: what is read, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from data_loaders.decoding import (
    map_label,
    read_image,
    read_raw_label,
    unknown_table,
    unknown_values,
    write_label_png,
)
from utils.errors import UserError

IDS = np.array([[0, 7, 33], [255, 1, 2]], np.uint8)


def test_images_are_rgb(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[..., 0] = 200  # red
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


def test_grey_images_get_three_channels(tmp_path: Path) -> None:
    Image.fromarray(IDS).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), IDS[..., None].repeat(3, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_refused_with_its_name(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"cut.{suffix} is truncated"):
        read_image(path)


def photograph(thumbnail: bytes = b"") -> bytes:
    """A noisy JPEG, with an EXIF block that asks for a turn by 90 degrees and holds a thumbnail."""
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = thumbnail
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="JPEG", exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_an_orientation_entry_does_not_turn_an_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    picture = Image.open(io.BytesIO(photograph()))
    picture.save(path, exif=picture.getexif(), quality=95)
    expected = np.asarray(Image.open(path))
    assert expected.shape == read_image(path).shape == (48, 64, 3)
    assert np.abs(read_image(path).astype(int) - expected).mean() < 1


def test_whatever_follows_the_end_of_a_picture_does_not_matter(tmp_path: Path) -> None:
    picture = Image.open(io.BytesIO(photograph()))
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        picture.save(path)
        expected = read_image(path)
        path.write_bytes(path.read_bytes() + bytes(5000))
        np.testing.assert_array_equal(read_image(path), expected)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture(tmp_path: Path) -> None:
    whole = photograph(thumbnail=b"\xff\xd8 a small picture \xff\xd9")
    (tmp_path / "whole.jpg").write_bytes(whole)
    assert read_image(tmp_path / "whole.jpg").shape == (48, 64, 3)
    for left in (len(whole) - 200, 400, 30):
        (tmp_path / "cut.jpg").write_bytes(whole[:left])
        with pytest.raises(UserError, match=r"cut.jpg is truncated"):
            read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"no image at all", "cannot be decoded"), (None, "No such file")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_image(path)


@pytest.mark.parametrize("encoding", ["index", "palette"])
@pytest.mark.parametrize("palette", [None, [(128, 64, 128), (0, 0, 0), (1, 2, 3)]])
def test_written_labels_are_read_as_indices_never_as_colors(
    tmp_path: Path, encoding: str, palette: list[tuple[int, int, int]] | None
) -> None:
    path = tmp_path / "folder" / "label.png"
    write_label_png(path, IDS, palette)
    assert Image.open(path).mode == ("L" if palette is None else "P")
    np.testing.assert_array_equal(read_raw_label(path, encoding), IDS)
    assert [file.name for file in path.parent.iterdir()] == ["label.png"]


def test_sixteen_bit_labels_give_the_red_channel(tmp_path: Path) -> None:
    classes = np.array([[1, 22], [300, 0]], np.uint16)
    instances = np.full_like(classes, 700)
    bgr = np.stack([np.zeros_like(classes), instances, classes], axis=-1)
    cv2.imwrite(str(tmp_path / "s.png"), bgr)
    np.testing.assert_array_equal(
        read_raw_label(tmp_path / "s.png", "rgb16_first_channel"), np.array([[1, 22], [255, 0]], np.uint8)
    )


def test_an_eight_bit_copy_of_a_sixteen_bit_label_is_refused(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "s.png"), np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(UserError, match=r"3 channel\(s\) of uint8, but SYNTHIA"):
        read_raw_label(tmp_path / "s.png", "rgb16_first_channel")


def test_sixteen_bit_grey_ids_above_255_become_255(tmp_path: Path) -> None:
    Image.fromarray(np.array([[7, 26001]], np.uint16)).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read_raw_label(tmp_path / "i.png", "index"), np.array([[7, 255]], np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_first_channel_of_an_annotation(tmp_path: Path, channels: int) -> None:
    pixels = np.full((*IDS.shape, channels), 9, np.uint8)
    pixels[..., 0] = IDS
    Image.fromarray(pixels.squeeze()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_raw_label(tmp_path / "a.png", "first_channel"), IDS)


def test_a_color_picture_is_not_read_as_ids(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "x_color.png")
    with pytest.raises(UserError, match=r"x_color.png is a colour picture \(mode RGB\)"):
        read_raw_label(tmp_path / "x_color.png", "index")


@pytest.mark.parametrize("encoding", ["index", "rgb16_first_channel", "first_channel"])
def test_a_truncated_label_is_refused_with_its_name(tmp_path: Path, encoding: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut.png"):
        read_raw_label(tmp_path / "cut.png", encoding)


def test_an_unknown_encoding_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rgb16_first_channel"):
        read_raw_label(tmp_path / "x.png", "rgb")


@given(arrays(np.uint8, (5, 7)), arrays(np.uint8, (256,)))
def test_mapping_is_a_table_lookup(raw: np.ndarray, table: np.ndarray) -> None:
    np.testing.assert_array_equal(map_label(raw, table), table[raw])


@given(arrays(np.uint8, (5, 7), elements=st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_unknown_values_are_counted(label: np.ndarray, known: set[int]) -> None:
    values, counts = np.unique(label, return_counts=True)
    expected = {v: n for v, n in zip(values.tolist(), counts.tolist(), strict=True) if v not in known}
    for view in (label, label[:, ::-1]):
        assert unknown_values(view, unknown_table(known)) == expected


@given(st.integers(1, 40), st.integers(1, 40))
def test_any_size_survives_writing(tmp_path_factory: pytest.TempPathFactory, height: int, width: int) -> None:
    path = tmp_path_factory.mktemp("label") / "l.png"
    ids = np.arange(height * width).reshape(height, width).astype(np.uint8)
    write_label_png(path, ids)
    np.testing.assert_array_equal(read_raw_label(path, "index"), ids)
