"""generate_plabel.py from the command line to a folder that train_ft.py accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import generate_plabel
from data_loaders.description import load_description
from data_loaders.discovery import find_files
from networks import NetworkSpec, build
from tests.distributed.launching import run_processes
from tests.toy_cityscapes import draw_cityscapes, small_network, write_snapshot
from trainers.label_checks import check_pseudo_labels
from trainers.labelling import LOCK_FILE, MANIFEST


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
        if path.is_file() and path.name not in (MANIFEST, LOCK_FILE)
    }


def test_labels_lie_where_stage_two_looks_and_pass_its_check(
    data: Path, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_plabel.main(arguments(data, snapshot.parent)) == 0
    folder = snapshot.parent / "pseudo_labels" / "cityscapes_train"
    files = find_files(load_description("cityscapes"), split="train", data_root=data, labels="never")
    manifest = check_pseudo_labels(folder, files, "cityscapes19").manifest
    assert manifest["snapshot"] == str(snapshot)
    assert manifest["iteration"] == 7
    printed = capsys.readouterr().out
    assert "road" in printed
    assert str(folder) in printed


def test_original_option_names_are_understood(data: Path, snapshot: Path, tmp_path: Path) -> None:
    words = ("--set", "train", "--threshold", 0.3, "--data-dir", data / "cityscapes")
    assert generate_plabel.main(arguments(data, snapshot, *words)) == 0
    folder = snapshot.parent / "pseudo_labels" / "cityscapes_train_t0.3"
    assert json.loads((folder / MANIFEST).read_text())["threshold"] == 0.3


def test_original_input_size_is_the_base_size_and_the_two_names_cannot_contradict(
    data: Path, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments(data, snapshot, "--input-size-target", "48,24")
    assert generate_plabel.parse_args(words).base_size == (48, 24)
    assert generate_plabel.parse_args([*words, "--base-size", "48x24"]).base_size == (48, 24)
    assert generate_plabel.main([*words, "--base-size", "64,32"]) == 2
    assert "contradicts --base-size" in capsys.readouterr().err
    assert generate_plabel.parse_args(arguments(data, snapshot)).base_size is None


def test_uncertainty_of_a_network_with_one_head_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"dilations": [1, 2]}
    network = build(NetworkSpec("deeplab_oracle", "resnet18_quarter", 19, "cityscapes19", options))
    snapshot = write_snapshot(tmp_path / "run" / "iteration_0000001.pth", network)
    assert generate_plabel.main(arguments(data, snapshot, "--extras", "uncertainty")) == 2
    assert "this network has one" in capsys.readouterr().err
    assert not (snapshot.parent / "pseudo_labels").exists()


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
