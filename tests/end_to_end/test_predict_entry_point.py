"""predict.py on images and folders of any kind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import predict
from tests.distributed.launching import run_processes
from tests.toy_cityscapes import small_network, write_snapshot
from trainers import inference
from utils.class_spaces import class_space


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "runs" / "ft" / "iteration_0000007.pth", small_network())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of different sizes and formats, one in a sub-folder, and a text file."""
    folder = tmp_path / "photos"
    (folder / "trip").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 60)), ("b.png", (33, 47)), ("trip/c.png", (32, 64))):
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (*size, 3), np.uint8))
    (folder / "notes.txt").write_text("no image")
    return folder


def arguments(snapshot: Path, output: Path, *words: object) -> list[str]:
    common = ("--restore-from", snapshot, "--output-dir", output, "--device", "cpu")
    return [str(word) for word in (*words, *common)]


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*.png")}


def test_folder_keeps_relative_names_and_sizes(snapshot: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert predict.main(arguments(snapshot, output, photos)) == 0
    expected = {"a", "b", "trip/c"}
    assert written(output) == {f"{name}.png" for name in expected} | {
        f"{name}_color.png" for name in expected
    }
    assert read(output / "a.png").shape == (40, 60)
    assert read(output / "b.png").shape == (33, 47)
    assert read(output / "trip" / "c.png").max() < 19


def test_single_image_with_all_kinds(snapshot: Path, photos: Path, tmp_path: Path) -> None:
    words = (photos / "a.jpg", "--write", *predict.KINDS)
    assert predict.main(arguments(snapshot, tmp_path / "out", *words)) == 0
    assert written(tmp_path / "out") == {"a.png", "a_color.png", "a_overlay.png", "a_confidence.png"}
    assert read(tmp_path / "out" / "a_overlay.png").shape == (40, 60, 3)
    assert read(tmp_path / "out" / "a_confidence.png").shape == (40, 60)


def test_server_ids_are_the_data_sets_own(snapshot: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "a.jpg"
    plain, server = tmp_path / "plain", tmp_path / "server"
    assert predict.main(arguments(snapshot, plain, image, "--write", "labels")) == 0
    assert (
        predict.main(arguments(snapshot, server, image, "--write", "labels", "--server-ids", "cityscapes"))
        == 0
    )
    ids = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])
    label = read(plain / "a.png")
    with Image.open(server / "a.png") as picture:
        assert picture.mode == "P"  # the numbers are the ids, viewers show the classes' colours
        np.testing.assert_array_equal(np.asarray(picture), ids[label])
        palette = class_space("cityscapes19").palette
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.array(palette, np.uint8)[label])


@pytest.mark.parametrize(("kinds", "warned"), [(["color", "overlay"], True), (["color", "labels"], False)])
def test_server_ids_without_label_maps_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kinds: list[str], warned: bool
) -> None:
    words = [*arguments(tmp_path, tmp_path / "out", tmp_path), "--server-ids", "cityscapes", "--write"]
    predict.parse_args([*words, *kinds])
    assert ("--server-ids has no effect: --write color overlay writes no labels" in caplog.text) is warned


def test_each_kind_in_its_own_folder_has_the_names_of_the_images(
    snapshot: Path, photos: Path, tmp_path: Path
) -> None:
    words = (photos, "--write", *predict.KINDS, "--server-ids", "cityscapes", "--folder-per-kind")
    assert predict.main(arguments(snapshot, tmp_path / "out", *words)) == 0
    names = ("a.png", "b.png", "trip/c.png")
    assert written(tmp_path / "out") == {f"{kind}/{name}" for kind in predict.KINDS for name in names}
    beside = arguments(snapshot, tmp_path / "beside", photos, "--write", "color")
    assert predict.main(beside) == 0
    for name in names:
        other = tmp_path / "beside" / name.replace(".png", "_color.png")
        assert (tmp_path / "out" / "color" / name).read_bytes() == other.read_bytes()


def test_protocol_line_names_aug_test_and_windows(
    snapshot: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        photos / "trip",
        "--protocol",
        "daformer",
        "--aug-test",
        "--window",
        "32,32",
        "--stride",
        "32,16",
    )
    assert predict.main(arguments(snapshot, tmp_path / "out", *words)) == 0
    assert (
        "protocol daformer aug-test (64x32 x 1+0.5+0.75+1.25+1.5+1.75, flip, windows 32x32 every 32x16)"
        in capsys.readouterr().out
    )
    assert read(tmp_path / "out" / "c.png").shape == (32, 64)


def test_protocol_of_fixed_output_size_still_gives_the_images_size(
    snapshot: Path, photos: Path, tmp_path: Path
) -> None:
    words = (photos / "b.png", "--protocol", "mrnet-cityscapes", "--base-size", "64,32")
    assert predict.main(arguments(snapshot, tmp_path / "out", *words)) == 0
    assert read(tmp_path / "out" / "b.png").shape == (33, 47)


def test_image_is_squeezed_only_into_a_size_that_was_asked_for(
    snapshot: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    resize = inference.resize_image

    def record(image: np.ndarray, size: tuple[int, int], resampling: str) -> np.ndarray:
        seen.append(size)
        return resize(image, size, resampling)

    monkeypatch.setattr(inference, "resize_image", record)
    asked = {
        "remembered": (),
        "base": ("--base-size", "64,32"),
        "protocol": ("--protocol", "mrnet"),
    }
    for name, words in asked.items():
        command = arguments(snapshot, tmp_path / name, photos / "a.jpg", "--num-workers", 0, *words)
        assert predict.main(command) == 0
    assert seen == [(55, 37), (69, 46), (64, 32), (80, 40), (64, 32), (80, 40)]  # a.jpg is 60x40


def test_two_processes_write_the_same_files(snapshot: Path, photos: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert predict.main(arguments(snapshot, one, photos)) == 0
    run_processes(2, ["predict.py", *arguments(snapshot, two, photos)])
    assert written(one) == written(two)
    for name in written(one):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_input_images_are_never_overwritten(
    snapshot: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (photos / "b.png").read_bytes()
    assert predict.main(arguments(snapshot, photos, photos)) == 2
    assert "is an input image" in capsys.readouterr().err
    assert (photos / "b.png").read_bytes() == before


def test_outputs_inside_the_input_folder_are_not_labelled_again(snapshot: Path, photos: Path) -> None:
    output = photos / "predictions"
    for _ in range(2):
        assert predict.main(arguments(snapshot, output, photos, "--write", "labels")) == 0
    assert written(output) == {"a.png", "b.png", "trip/c.png"}


def test_two_images_of_one_output_are_refused(
    snapshot: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(photos / "a.png"), np.zeros((8, 8, 3), np.uint8))
    assert predict.main(arguments(snapshot, tmp_path / "out", photos)) == 2
    assert "would both become" in capsys.readouterr().err


def test_folder_without_images_and_ambiguous_server_ids_are_refused(
    snapshot: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert predict.main(arguments(snapshot, tmp_path / "out", tmp_path / "empty")) == 2
    assert "no image" in capsys.readouterr().err
    words = (photos, "--server-ids", "camvid")
    assert predict.main(arguments(snapshot, tmp_path / "out", *words)) == 2
    assert "error" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
