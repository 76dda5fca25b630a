"""Mistakes with MADA that a user can repair: one line that names them and the remedy, exit code 2, before
anything is described, trained or written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train_al
from selection.anchor_files import write_centroids, write_list, write_vectors
from tests.toy_cityscapes import write_snapshot
from tests.toy_mada_runs import (
    ANCHORS,
    CHANNELS,
    CLASSES,
    IMAGES,
    QUIET,
    SIZE,
    SOURCE_IMAGES,
    command,
    draw_data,
    lively_network,
    warmed_up,
)
from utils.class_spaces import class_space

NAMES = [f"aachen/aachen_{number:06d}_000019_leftImg8bit.png" for number in range(IMAGES)]
SHAPE = (ANCHORS, CLASSES, CHANNELS)
SELECT = ["--stop-after", "selection"]
GAME = """
name = "game"
class_space = "synthia16"
label_ids = "train"
label_encoding = "index"
splits = ["train"]
folders = ["gta5"]
[[layouts]]
name = "own"
image = "images/{name}.png"
label = "labels/{name}.png"
"""
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To copy: a good data root, a warmed-up network, a run that has selected, good lists and files."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_data(folder / "data")
    start = warmed_up(folder / "warm_up.pth")
    assert train_al.main(command(folder / "data", start, folder / "selected", *QUIET, *SELECT)) == 0
    write_list(folder / "list.txt", NAMES[1:3])
    write_centroids(folder / "anchors.pkl", some_vectors(ANCHORS))
    write_vectors(folder / "vectors.pkl", some_vectors(SOURCE_IMAGES))
    return folder


@pytest.fixture
def data(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data root in a copy of that folder, which is the working folder and may be damaged."""
    folder = shutil.copytree(drawn, tmp_path / "here")
    monkeypatch.chdir(folder)
    return Path(folder, "data")


@pytest.fixture
def refused(data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Refused:
    """Runs train_al.py, which must refuse; checks what all refusals have in common, and the line."""
    caplog.set_level("INFO")

    def run(
        words: str | list[object],
        *expected: str,
        folder: str = "run",
        start: str | None = "warm_up.pth",
    ) -> str:
        given = words.split() if isinstance(words, str) else words
        before = content_of(data.parent)
        capsys.readouterr()
        caplog.clear()
        restored = None if start is None else Path(start)
        assert train_al.main(command(data, restored, folder, *QUIET, *given)) == 2
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error")]
        assert errors == lines[-1:], lines
        assert "describing" not in caplog.text
        for text in expected:
            assert text in errors[0], errors[0]
        assert content_of(data.parent) == before
        return errors[0]

    return run


def some_vectors(count: int, shape: tuple[int, ...] = SHAPE[1:]) -> np.ndarray:
    return np.random.default_rng(0).random((count, *shape)).astype(np.float32)


def content_of(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder with their content, and all folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("19.9%", ["--budget 19.9% of 5 images is less than one image", "1images"]),
        ("0images", ["--budget '0images' buys nothing"]),
        ("1.5images", ["--budget '1.5images'", "whole number"]),
        ("6images", ["--budget 6images is more than the 5 images"]),
        ("101%", ["--budget '101%'", "at most 100%"]),
        ("40px", ["--budget 40px buys pixels", "5%", "148images"]),
        ("5 bananas", ["--budget '5 bananas'", "no known unit"]),
        (
            "4images --labelled-list list.txt",
            ["--budget 4images buys 4", "only 3 of 5", "list.txt", "smaller"],
        ),
    ],
)
def test_budget(refused: Refused, budget: str, expected: list[str]) -> None:
    number, *more = budget.split(" --")
    refused(["--budget", number, *" --".join(["", *more]).split()], *expected)


class TestNumberOfAnchors:
    def test_more_than_source_images(self, refused: Refused) -> None:
        refused("--num-anchors 9", "--num-anchors 9 is more than the 8 source images in ", "give at most 8")

    def test_more_than_target_images(self, refused: Refused) -> None:
        refused("--num-anchors 6", "--num-anchors 6 is more than the 5 target images in ", "give at most 5")
        words = "--start-at target-anchors --stop-after target-anchors --num-anchors 6"
        refused(words, "--num-anchors 6 is more than the 5 target images")

    def test_more_than_vectors(self, refused: Refused, data: Path) -> None:
        write_vectors(data.parent / "few.pkl", some_vectors(2))
        refused(
            "--source-vectors few.pkl --num-anchors 3",
            "--num-anchors 3 is more than the 2 vectors in few.pkl",
        )


class TestAbsentClasses:
    def test_that_no_source_label_stands_for(self, refused: Refused, data: Path) -> None:
        for path in (data / "gta5" / "labels").iterdir():
            assert cv2.imwrite(str(path), np.zeros(SIZE[::-1], np.uint8))
        Path("game.toml").write_text(GAME)
        line = refused(
            "--source game.toml --classes cityscapes19", "no label of game stands for terrain, truck"
        )
        assert "truck, train, which would be rows of zeros" in line
        assert "take --classes without them, or --allow-absent-classes" in line

    def test_that_the_network_never_predicts(
        self, data: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        start = warmed_up(Path("blind.pth"), never=class_space("cityscapes19").class_names.index("train"))
        words = command(data, start, "run", *QUIET, *SELECT)
        capsys.readouterr()
        assert train_al.main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert [line for line in said if line.startswith("error")] == said[-1:]
        for text in ("none of the 8 source images shows train on 10 pixels", "--allow-absent-classes"):
            assert text in said[-1]
        vectors = Path("run/anchors/source_vectors/vectors.npy")
        before = (vectors.read_bytes(), vectors.stat().st_mtime_ns)
        caplog.clear()
        with caplog.at_level("INFO"):
            assert train_al.main([*words, "--allow-absent-classes"]) == 0
        assert "describing source images" not in caplog.text
        assert "shows train on 10 pixels or more that are also predicted" in caplog.text
        assert (vectors.read_bytes(), vectors.stat().st_mtime_ns) == before


@pytest.mark.parametrize("option", ["--image-list", "--labelled-list"])
class TestLists:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (f"{NAMES[0]}\n\n{NAMES[1]}\n", ["list.txt, line 2 is blank", "remove"]),
            (
                f"{NAMES[0]}\nulm/ulm_000009_000019_leftImg8bit.png\n",
                ["line 2", "ulm_000009", "none of the 5"],
            ),
            (f"{NAMES[1]}\n{NAMES[0]}\n{NAMES[1]}\n", [NAMES[1], "twice", "lines 1 and 3"]),
            ("", ["list.txt is empty"]),
            ("\n\n", ["list.txt is empty"]),
            (b"\xff\xfe\x00\x80", ["list.txt is not text"]),
        ],
    )
    def test_content(self, refused: Refused, option: str, content: str | bytes, expected: list[str]) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        Path("list.txt").write_bytes(raw)
        refused([option, "list.txt"], *expected)

    def test_missing(self, refused: Refused, option: str) -> None:
        refused([option, "nowhere.txt"], option, "nowhere.txt does not exist")

    def test_changed_for_a_run_that_goes_on(self, refused: Refused, data: Path, option: str) -> None:
        call = command(data, Path("warm_up.pth"), "going", *QUIET, *SELECT, option, "list.txt")
        assert train_al.main(call) == 0
        write_list(Path("list.txt"), NAMES[2:4])
        for words in ([*SELECT, option, "list.txt"], [option, "list.txt"]):
            refused(words, f"{option} list.txt names other images than going began with", folder="going")
        refused(
            [],
            "without --image-list or --labelled-list the run asks about other images",
            "--snapshot-dir",
            folder="going",
        )


class Harmful:
    """A pickle of it calls a function when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was_here"),))


def damage(path: Path, kind: str) -> None:
    """Writes a file that is none of anchors and vectors."""
    if kind == "text":
        path.write_text(f"{NAMES[0]}\n")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut off":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "another kind":
        torch.save([1, 2, 3], path)
    else:
        torch.save(Harmful(), path, _use_new_zipfile_serialization=kind == "code")


REFUSED_FILES = {
    "text": ["are damaged"],
    "empty": ["are damaged"],
    "cut off": ["are damaged"],
    "another kind": ["are no float array, but a list"],
    "code": ["are refused", "could run any code"],
    "code in the legacy container": ["are refused", "could run any code"],
}


class TestFiles:
    @pytest.mark.parametrize("kind", REFUSED_FILES)
    @pytest.mark.parametrize("option", ["--source-anchors", "--source-vectors", "--target-anchors"])
    def test_content(self, refused: Refused, option: str, kind: str) -> None:
        file = "vectors.pkl" if option == "--source-vectors" else "anchors.pkl"
        damage(Path(file), kind)
        refused([option, file], file, *REFUSED_FILES[kind])
        assert not Path("was_here").exists()

    @pytest.mark.parametrize("option", ["--source-anchors", "--source-vectors", "--target-anchors"])
    def test_missing(self, refused: Refused, option: str) -> None:
        refused([option, "nowhere.pkl"], option, "nowhere.pkl does not exist")

    @pytest.mark.parametrize("option", ["--source-anchors", "--target-anchors"])
    @pytest.mark.parametrize("shape", [(3, 19, 8), (2, 16, 8), (2, 19, 256)])
    def test_anchors_of_other_number_or_network(
        self, refused: Refused, option: str, shape: tuple[int, int, int]
    ) -> None:
        write_centroids(Path("anchors.pkl"), some_vectors(shape[0], shape[1:]))
        refused([option, "anchors.pkl"], "anchors.pkl have shape", "not (2, 19, 8)", "give anchors of this")

    @pytest.mark.parametrize("shape", [(8, 16, 8), (8, 19, 256)])
    def test_vectors_of_another_network(self, refused: Refused, shape: tuple[int, int, int]) -> None:
        write_vectors(Path("vectors.pkl"), some_vectors(shape[0], shape[1:]))
        refused("--source-vectors vectors.pkl", "vectors.pkl have shape", str(shape), "not (images, 19, 8)")

    def test_not_finite(self, refused: Refused) -> None:
        broken = some_vectors(SOURCE_IMAGES)
        broken[1, 2, 3] = np.nan
        write_vectors(Path("vectors.pkl"), broken)
        write_centroids(Path("anchors.pkl"), broken[:ANCHORS])
        refused("--source-vectors vectors.pkl", "vectors.pkl hold values that are not finite")
        for option in ("--source-anchors", "--target-anchors"):
            refused([option, "anchors.pkl"], "anchors.pkl hold values that are not finite")

    def test_both_of_the_source(self, refused: Refused) -> None:
        words = "--source-anchors anchors.pkl --source-vectors vectors.pkl"
        refused(words, "--source-anchors anchors.pkl contradicts --source-vectors vectors.pkl", "keep one")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--start-at target-anchors", ["--start-at target-anchors needs --image-list"]),
        (
            "--start-at target-anchors --image-list list.txt --stop-after stage-1",
            ["--stop-after stage-1 comes before --start-at target-anchors"],
        ),
        ("--start-at stage-2", ["--start-at", "stage-2"]),
        ("--stop-after nothing", ["--stop-after", "nothing"]),
        (
            "--image-list list.txt --labelled-list list.txt",
            ["contradicts --labelled-list list.txt", "give one"],
        ),
        ("--stage-steps 2", ["--stage-steps"]),
        ("--stage-steps 0,2", ["--stage-steps", "at least 1"]),
        ("--num-steps-stop 5", ["--num-steps-stop 5", "4 steps of both stages"]),
        ("--crop-size none", ["--crop-size none", "896,512"]),
        ("--scale-range none", ["--scale-range none", "1,1"]),
        ("--source-free", ["--source-free", "--method ripu"]),
        ("--setting region", ["--setting region", "whole images"]),
        ("--annotations-from data", ["--annotations-from data", "--image-list"]),
        ("--batch-size 1", ["--batch-size 1", "mada_v3plus needs two", "give --batch-size 2"]),
        ("--batch-size 1 --batch-norm frozen", ["--batch-norm frozen", "needs two"]),
        ("--accumulation 2", ["--batch-size 2", "--accumulation 2", "give --batch-size 4"]),
        ("--lambda-alignment -1", ["--lambda-alignment", "-1"]),
        ("--anchor-momentum 1.5", ["--anchor-momentum", "1.5"]),
        ("--num-anchors 0", ["--num-anchors", "0"]),
        ("--score impurity", ["--score", "impurity"]),
        ("--method ripu", ["--stage-steps 2,2 belongs to --method mada"]),
    ],
)
def test_options(refused: Refused, words: str, expected: list[str]) -> None:
    refused(words, *expected)


class TestOptionsOfOtherMethods:
    @pytest.mark.parametrize(
        "words", ["--image-list list.txt", "--source-anchors anchors.pkl", "--stop-after selection"]
    )
    def test_that_steer_are_refused(self, data: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        other = ["--method", "ripu", "--backbone-weights", "none", "--data-root", str(data), *words.split()]
        assert train_al.main([*other, "--snapshot-dir", "run", "--device", "cpu"]) == 2
        assert f"error: {words} belongs to --method mada; leave it out" in capsys.readouterr().err
        assert not Path("run").exists()

    def test_that_say_nothing_to_mada_are_warned_about(
        self, data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = ["--radius", "2", "--select-iterations", "1", "--image-list", "list.txt", "--score", "random"]
        assert train_al.main(command(data, Path("warm_up.pth"), "run", *QUIET, *SELECT, *words)) == 0
        said = caplog.text
        for option in ("--radius", "--select-iterations"):
            assert f"warning: {option} has no effect with --method mada" in said
        assert "warning: --score has no effect: --image-list says which images" in said


class TestNetwork:
    def test_nothing_to_start_from(self, refused: Refused) -> None:
        expected = ("needs --restore-from", "from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl")
        refused([], *expected, "train_ms.py", start=None)

    def test_missing_file(self, refused: Refused) -> None:
        refused([], "nowhere.pth", start="nowhere.pth")

    def test_of_other_classes(self, refused: Refused) -> None:
        warmed_up(Path("16.pth"), 16, "synthia16")
        refused([], "16.pth", "num_classes 16", "19", start="16.pth")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("--network deeplab_v3plus", "architecture mada_v3plus"),
            ("--backbone mobilenet_v2", "backbone resnet18_quarter"),
            ("--head-channels 16", "head_channels 8"),
            ("--classes synthia16", "num_classes 19"),
        ],
    )
    def test_of_other_options(self, refused: Refused, words: str, expected: str) -> None:
        refused(words, "warm_up.pth", expected)

    def test_whose_output_is_not_finite(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        network = lively_network()
        with torch.no_grad():
            network.decoder.last_conv[-1].weight.fill_(3e38)  # finite itself
        start = write_snapshot(Path("broken.pth"), network)
        assert train_al.main(command(data, start, "run", *QUIET, *SELECT)) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error: the network's features or output for 00001.png are not finite")


class TestLabels:
    def test_none_for_the_oracle(self, refused: Refused, data: Path) -> None:
        shutil.rmtree(data / "cityscapes" / "gtFine" / "train")
        refused([], "5 of the 5 target images have no label in ", "data/cityscapes", "--oracle people")

    def test_one_is_missing(self, refused: Refused, data: Path) -> None:
        label_of(data, NAMES[4]).unlink()
        refused([], "1 of the 5 target images have no label", NAMES[4], "--oracle people")

    def test_of_a_listed_image_is_missing(self, refused: Refused, data: Path) -> None:
        label_of(data, NAMES[2]).unlink()
        expected = ("1 of the images of --image-list list.txt have no label", NAMES[2], "--oracle people")
        refused("--image-list list.txt", *expected)

    @pytest.mark.parametrize("words", ["", "--image-list list.txt"])
    def test_of_another_size_than_the_images(self, refused: Refused, data: Path, words: str) -> None:
        for name in NAMES:
            path = label_of(data, name)
            label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert cv2.imwrite(str(path), label[::2, ::2])
        line = refused(words, "is 32x24, its image 64x48", "--target-root")
        assert ("aachen_000001" if words else "aachen_000000") in line

    def test_one_of_another_size_is_found_by_the_oracle(
        self, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = label_of(data, NAMES[2])
        assert cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[::2, ::2])
        words = command(data, Path("warm_up.pth"), "run", *QUIET, "--image-list", "list.txt")
        assert train_al.main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("error")
        assert NAMES[2].removesuffix("_leftImg8bit.png") in said[-1]


def label_of(data: Path, name: str) -> Path:
    return data / "cityscapes" / "gtFine" / "train" / name.replace("leftImg8bit", "gtFine_labelIds")


class TestRunFolder:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("--budget 20%", "--budget 40% -> 20%"),
            ("--num-anchors 3", "--num-anchors 2 -> 3"),
            ("--stage-steps 2,3", "--stage-steps 2,2 -> 2,3"),
            ("--learning-rate 0.1", "--learning-rate 0.001 -> 0.1"),
            ("--score random", "--score published -> random"),
            ("--lambda-alignment 0.5", "--lambda-alignment 0.7 -> 0.5"),
            ("--batch-rule mean", "--batch-rule last -> mean"),
            ("--stage-2-from last", "--stage-2-from best -> last"),
            ("--seed 3", "--seed 0 -> 3"),
            ("--oracle people", "--oracle truth -> people"),
        ],
    )
    def test_of_other_settings(self, refused: Refused, words: str, expected: str) -> None:
        refused(words, "run folder selected was started with other arguments", expected, folder="selected")

    def test_without_its_record(self, refused: Refused) -> None:
        shutil.copytree("selected/queries", "run/queries")
        refused("--budget 20%", "run/queries/round_00", "budget is '40%' there and '20%' here", "another run")

    def test_of_another_method(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--method", "ripu", "--backbone-weights", "none", "--data-root", str(data)]
        before = content_of(data.parent)
        assert train_al.main([*words, "--snapshot-dir", "selected", "--device", "cpu"]) == 2
        assert "--method mada -> ripu" in capsys.readouterr().err
        assert content_of(data.parent) == before

    def test_file_in_the_place_of_the_queries(self, refused: Refused) -> None:
        Path("run").mkdir()
        Path("run/queries").write_text("my notes")
        refused([], "run/queries", "--snapshot-dir")

    def test_damaged_round(self, refused: Refused) -> None:
        Path("selected/queries/round_00/round.json").write_text("{")
        refused([], "round_00/round.json", "damaged", folder="selected")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
    def test_read_only(self, refused: Refused) -> None:
        Path("locked").mkdir(mode=0o555)
        refused([], "locked/run", "cannot be written", folder="locked/run")
