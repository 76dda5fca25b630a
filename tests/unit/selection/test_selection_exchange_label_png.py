"""Label pictures, and every mistake in them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_exchange import exported, read

from selection.oracles import GroundTruthOracle
from tests.toy_annotation import (
    truth_of,
)


def label_of(out: Path) -> Path:
    """The one label picture in a folder."""
    (path,) = out.glob("*/labels/*.png")
    return path


def test_label_pictures_of_programs_without_palette_are_read(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "png")
    path = label_of(tmp_path)
    Image.fromarray(np.array(Image.open(path))).save(path)
    assert Image.open(path).mode == "L"
    answers, report = read(tmp_path, queries)
    report.refuse_problems()
    np.testing.assert_array_equal(
        answers.combined(), GroundTruthOracle(truth_of(queries)).answer_round(queries)
    )


def test_open_pixels_of_a_label_picture_are_gaps(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "png")
    path, crop = label_of(tmp_path), package.tasks[0].crop
    values = np.array(Image.open(path))
    (top, left, _, _), _ = crop.boxes()
    values[top * crop.scale : (top + 1) * crop.scale, left * crop.scale : (left + 2) * crop.scale] = 254
    Image.fromarray(values).save(path)
    answers, report = read(tmp_path, queries)
    assert "2 of 18 queried pixels have no label" in report.gaps[0]
    assert answers.combined()[:3].tolist() == [254, 254, truth_of(queries)(crop.image)[19, 21]]


def test_suggestion_pictures_show_classes_in_the_regions_alone(tmp_path: Path) -> None:
    _, package = exported(tmp_path, "png", done=False)
    (path,) = tmp_path.glob("*/suggestions/*.png")
    crop = package.tasks[0].crop
    values = np.array(Image.open(path))
    expected = np.full(crop.size, 254)
    for region, (top, left, bottom, right) in zip(crop.regions, crop.boxes(), strict=True):
        expected[top:bottom, left:right] = region.suggestion
    np.testing.assert_array_equal(values, crop.enlarge(expected))
    assert Image.open(path).getpalette()[: 3 * 2] == [128, 64, 128, 244, 35, 232]
    assert (tmp_path / "annotator/classes.txt").read_text().splitlines()[13] == "13\tcar\t0,0,142"


def png_header(width: int, height: int) -> bytes:
    """The beginning of a grey PNG that has no pixels: whoever decodes it fails."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + empty


def spoil_palette(path: Path) -> None:
    picture = Image.open(path)
    colors = picture.getpalette()
    picture.putpalette(colors[3:] + colors[:3])
    picture.save(path)


def save_as(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Opens a picture, changes it, and saves it in its place."""

    def spoil(path: Path) -> None:
        with Image.open(path) as picture:
            picture.load()
            changed = change(picture)
        changed.save(path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (save_as(lambda picture: picture.convert("RGB")), "it is a colour picture (mode RGB), not ids"),
        (save_as(lambda picture: picture.resize((5, 6))), "it has 5x6 pixels, the exported picture"),
        (lambda path: Image.new("1", (20000, 20000)).save(path), "cannot be decoded"),
        (
            lambda path: path.write_bytes(png_header(9000, 9000)),
            "it has 9000x9000 pixels, the exported picture",
        ),
        (save_as(lambda picture: Image.new("L", picture.size, 77)), "its values [77] are no train ids"),
        (spoil_palette, "has changed the palette"),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "cannot be decoded"),
        (lambda path: path.rename(path.with_name("b.png")), "b.png: no crop of this package has that name"),
    ],
)
def test_a_wrong_label_picture_is_a_problem(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    queries, _ = exported(tmp_path, "png")
    spoil(label_of(tmp_path))
    _, report = read(tmp_path, queries)
    assert len(report.problems) == 1
    assert message in report.problems[0]
