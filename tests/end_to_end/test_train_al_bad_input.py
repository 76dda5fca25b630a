"""Mistakes in active learning that a user can repair: one line that names them and the remedy, exit code 2,
before anything is trained or written."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import train_al
import train_source
from tests.official_formats import write_cityscapes, write_gta5, write_synthia
from utils.runs import ARGUMENTS_FILE, DONE

SIZE = (64, 48)
WORDS = shlex.split(
    "--backbone resnet18_quarter --head-channels 8 --input-size 64,48 --input-size-target 64,48 "
    "--batch-size 2 --num-steps 10 --num-steps-stop 2 --select-iterations 1 --budget 10% --num-workers 0 "
    "--save-every 10 --device cpu --query-pictures 0 --no-tensorboard --source-order shuffled"
)
RANDOM = ["--network", "deeplab_v3plus", "--backbone-weights", "none"]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that is as it should be, and a finished run of it."""
    root = tmp_path_factory.mktemp("drawn")
    write_gta5(root, 6, SIZE)
    write_cityscapes(root, 3, SIZE)
    write_cityscapes(root, 1, SIZE, split="val")
    assert train_al.main(command(root, "--snapshot-dir", root / "finished")) == 0
    return root


@pytest.fixture
def data(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def command(data: Path, *words: object, weights: list[str] = RANDOM) -> list[str]:
    """A tiny run; later words win."""
    return [*WORDS, *weights, "--data-root", str(data), "--snapshot-dir", "run", *map(str, words)]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs train_al.py, which must refuse; checks what all refusals have in common, and the line."""

    def run(words: list[str], *expected: str) -> str:
        before = content_of(tmp_path)
        capsys.readouterr()
        assert train_al.main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error")]
        assert errors == lines[-1:], lines
        for text in expected:
            assert text in errors[0]
        assert content_of(tmp_path) == before
        return errors[0]

    return run


def content_of(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder with their content, and all folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        ("0%", ["'0%'", "buys nothing"]),
        ("0px", ["'0px'", "buys nothing"]),
        ("101%", ["'101%'", "at most 100%"]),
        ("5 bananas", ["'5 bananas'", "no known unit", "2.2%", "40px"]),
        ("many%", ["'many%'", "number"]),
        ("1.5px", ["'1.5px'", "whole number"]),
        ("3images", ["3images", "whole images", "2.2%"]),
        ("4000px", ["4000px", "64x48", "give less"]),
    ],
)
def test_budget(refused: Refused, data: Path, budget: str, expected: list[str]) -> None:
    refused(command(data, "--budget", budget), "--budget", *expected)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--radius 64", ["--radius 64", "64x48"]),
        ("--setting pixel --budget 40px --radius 64", ["--radius 64", "64x48"]),
        ("--radius -1", ["--radius", "-1"]),
        ("--select-iterations 2", ["--select-iterations 2", "--num-steps-stop 2", "select earlier"]),
        ("--select-iterations 1,7", ["--select-iterations 1,7", "round at 7", "stop later"]),
        ("--select-iterations 1,0", ["--select-iterations", "ascending", "1,0"]),
        ("--select-iterations 1,1", ["--select-iterations", "each once", "1,1"]),
        ("--select-iterations x", ["--select-iterations", "'x'"]),
        ("--source-free", ["--source-free", "--restore-from", "train_source.py"]),
        ("--method dwaca --setting pixel", ["--method dwaca", "--setting region"]),
        ("--class-weights-from source", ["--class-weights-from source", "--method dwaca"]),
        ("--method dwaca --score entropy", ["--score entropy", "--method ripu"]),
        ("--method mada", ["--method", "mada"]),
        ("--annotations-from nowhere", ["nowhere has no gtMask/train", "OUTPUT_DIR"]),
        ("--annotations-from data", ["data has no gtMask/train", "OUTPUT_DIR"]),
    ],
)
def test_options(refused: Refused, data: Path, words: str, expected: list[str]) -> None:
    refused(command(data, *words.split()), *expected)


def test_default_rounds_of_a_run_that_stops_earlier(refused: Refused, data: Path) -> None:
    words = command(data)
    place = words.index("--select-iterations")
    refused(words[:place] + words[place + 2 :], "--select-iterations 10000", "--num-steps-stop 2")


class TestLabels:
    def test_oracle_without_label_files(self, refused: Refused, data: Path) -> None:
        shutil.rmtree(data / "cityscapes" / "gtFine" / "train")
        refused(command(data), "cityscapes, split train", "no label", "gtFine/train")

    def test_oracle_without_one_label_file(self, refused: Refused, data: Path) -> None:
        labels = data / "cityscapes" / "gtFine" / "train" / "aachen"
        (labels / "aachen_000001_000019_gtFine_labelIds.png").unlink()
        refused(command(data), "cityscapes, split train", "aachen_000001_000019")

    def test_class_weights_without_validation_labels(self, refused: Refused, data: Path) -> None:
        shutil.rmtree(data / "cityscapes" / "gtFine" / "val")
        words = command(data, "--method", "dwaca")
        refused(words, "--class-weights-from validation", "--evaluation-root", "labelled, source or none")

    def test_synthia_labels_of_8_bits(self, refused: Refused, data: Path) -> None:
        write_synthia(data, 4, SIZE)
        for path in (data / "synthia" / "GT" / "LABELS").iterdir():
            label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint8)
            assert cv2.imwrite(str(path), label)
        refused(command(data, "--source", "synthia", "--classes", "synthia16"), "0000000.png", "16")

    def test_class_that_no_source_image_holds(self, refused: Refused, data: Path) -> None:
        for path in (data / "gta5" / "labels").iterdir():
            with Image.open(path) as picture:
                ids, palette = np.array(picture), picture.getpalette()
            label = Image.fromarray(np.where(ids == 31, 7, ids).astype(np.uint8))  # trains become road
            label.putpalette(palette)
            label.save(path)
        refused(command(data, "--source-order", "class-balanced"), "train", "class")


class TestRunFolder:
    @pytest.fixture
    def run(self, data: Path) -> Path:
        """A run folder to continue or to start in."""
        return data / "finished"

    def test_file_in_the_place_of_the_queries(self, refused: Refused, data: Path) -> None:
        Path("run").mkdir()
        Path("run/queries").write_text("my notes")
        refused(command(data), "run/queries", "--snapshot-dir")

    def test_annotations_of_another_run(self, refused: Refused, data: Path, run: Path) -> None:
        shutil.copytree(run / "queries", Path("run/queries"))
        refused(
            command(data, "--seed", 3), "run/queries/round_00", "seed is 0 there and 3 here", "another run"
        )
        words = command(data, "--budget", "5%", "--radius", 2)
        refused(words, "budget is '10%' there and '5%' here", "label_radius is 1 there and 2 here")

    def test_annotations_of_other_images(self, refused: Refused, data: Path, run: Path) -> None:
        shutil.copytree(run / "queries", Path("run/queries"))
        for path in (data / "cityscapes").rglob("train/aachen/*_000002_*"):
            path.unlink()
        refused(command(data), "run/queries/round_00", "images is 3 there and 2 here")

    def test_damaged_round(self, refused: Refused, data: Path, run: Path) -> None:
        (run / "queries" / "round_00" / "round.json").write_text("{")
        (run / DONE).unlink()
        refused(command(data, "--snapshot-dir", run), "round_00/round.json", "damaged")

    def test_of_another_method(self, refused: Refused, data: Path, run: Path) -> None:
        words = command(data, "--method", "dwaca", "--class-weights-from", "none", "--snapshot-dir", run)
        refused(words, "--method ripu -> dwaca", "another --snapshot-dir")

    def test_snapshot_of_another_script(
        self, refused: Refused, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [word for word in WORDS if word not in ("--select-iterations", "1", "--budget", "10%")]
        place = words.index("--query-pictures")
        words = [
            *words[:place],
            *words[place + 2 :],
            *RANDOM,
            "--data-root",
            str(data),
            "--crop-size",
            "32,32",
        ]
        assert train_source.main([*words, "--num-steps-stop", "1", "--snapshot-dir", "run"]) == 0
        refused(command(data), "run", "the script train_source.py -> train_al.py", "--snapshot-dir")
        Path("run", ARGUMENTS_FILE).unlink()
        Path("run", DONE).unlink()
        capsys.readouterr()
        assert train_al.main(command(data)) == 2
        assert "is a snapshot of method source, this run is ripu" in capsys.readouterr().err

    def test_original_annotations_come_too_late(
        self, data: Path, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = command(data, "--write-masks", "--snapshot-dir", "masks")
        assert train_al.main(words) == 0
        shutil.copytree(run / "queries", Path("run/queries"))
        assert train_al.main(command(data, "--annotations-from", "masks/queries")) == 2
        assert "selected without the annotations to import" in capsys.readouterr().err
