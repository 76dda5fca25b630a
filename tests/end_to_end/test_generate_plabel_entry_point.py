"""generate_plabel.py from the command line to a folder that train_ft.py accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import generate_plabel
from data_loaders.description import load_description
from data_loaders.discovery import find_files
from tests.distributed.launching import run_processes
from tests.toy_cityscapes import draw_cityscapes, small_network, write_snapshot
from trainers.labelling import MANIFEST, check_pseudo_labels


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with five training images and no label anywhere."""
    draw_cityscapes(tmp_path / "data" / "cityscapes", "train", 5, labelled=False)
    return tmp_path / "data"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "runs" / "ms" / "iteration_0000007.pth", small_network())


def arguments(data: Path, snapshot: Path, *words: object) -> list[str]:
    common = ["--restore-from", snapshot, "--data-root", data, "--device", "cpu", "--protocol", "mrnet"]
    return [str(word) for word in (*common, *words)]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST
    }


def test_labels_lie_where_stage_two_looks_and_pass_its_check(
    data: Path, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_plabel.main(arguments(data, snapshot.parent)) == 0
    folder = snapshot.parent / "pseudo_labels" / "cityscapes_train"
    files = find_files(load_description("cityscapes"), split="train", data_root=data, labels="never")
    found, manifest = check_pseudo_labels(folder, files, "cityscapes19")
    assert found == folder
    assert manifest["snapshot"] == str(snapshot)
    assert manifest["iteration"] == 7
    printed = capsys.readouterr().out
    assert "road" in printed
    assert str(folder) in printed


def test_original_option_names_are_understood(data: Path, snapshot: Path, tmp_path: Path) -> None:
    words = ("--set", "train", "--threshold", 0.3, "--data-dir", data / "cityscapes")
    assert generate_plabel.main(arguments(data, snapshot, *words)) == 0
    folder = snapshot.parent / "pseudo_labels" / "cityscapes_train_t0.30"
    assert json.loads((folder / MANIFEST).read_text())["threshold"] == 0.3


def test_one_and_two_processes_write_the_same_files(data: Path, snapshot: Path, tmp_path: Path) -> None:
    words = arguments(data, snapshot, "--threshold", 0.3, "--extras", "color", "confidence", "uncertainty")
    one, two = tmp_path / "one", tmp_path / "two"
    assert generate_plabel.main([*words, "--pseudo-label-dir", str(one)]) == 0
    run_processes(2, ["generate_plabel.py", *words, "--pseudo-label-dir", str(two)])
    assert files_of(one) == files_of(two)
    assert len(files_of(one)) == 4 * 5
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (one, two)]
    for manifest in manifests:
        manifest.pop("command_line")
    assert manifests[0] == manifests[1]


def test_second_call_keeps_everything_and_another_threshold_is_refused(
    data: Path, snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(data, snapshot, "--pseudo-label-dir", tmp_path / "labels")
    assert generate_plabel.main(words) == 0
    before = files_of(tmp_path / "labels")
    assert generate_plabel.main(words) == 0
    assert generate_plabel.main([*words, "--threshold", "0.9"]) == 2
    assert "choose another --pseudo-label-dir" in capsys.readouterr().err
    assert files_of(tmp_path / "labels") == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--threshold", "3.6"), "--threshold"),
        (("--threshold", "1"), "--threshold"),
        (("--target", "citiscapes"), "did you mean cityscapes"),
        (("--set", "trian"), "trian"),
        (("--classes", "idd7"), "idd7"),
        (("--target-list", "{list}"), "berlin"),
        (("--weights", "teacher"), "teacher"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_no_folder(
    data: Path,
    snapshot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text("berlin/berlin_000000_000019_leftImg8bit.png\n")
    assert generate_plabel.main(arguments(data, snapshot, *(word.format(list=listed) for word in words))) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert message in error[0]
    assert not (snapshot.parent / "pseudo_labels").exists()
