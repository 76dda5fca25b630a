"""The subcommands of prepare_data.py, called as a user does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import prepare_data
from data_loaders.decoding import write_label_png
from data_loaders.statistics import counted_class_space, read_label_info
from prepare_data import main


@pytest.fixture
def gta(tmp_path: Path) -> Path:
    """A data root with four GTA5 pairs."""
    for i in range(4):
        (tmp_path / "gta5/images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / f"gta5/images/{i:05d}.png")
        write_label_png(tmp_path / f"gta5/labels/{i:05d}.png", np.array([[7, 26], [0, 33]], np.uint8))
    return tmp_path


def test_find_lists_what_is_there(gta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", str(gta)]) == 0
    assert "gta5      train  4 of 24966  4       official" in capsys.readouterr().out


def test_find_without_a_match_ends_with_2_and_the_patterns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["find", str(tmp_path), "--dataset", "acdc"]) == 2
    assert "acdc: no rgb_anon/{group}/{split}/{name}_rgb_anon.png" in capsys.readouterr().out


def test_check_passes_a_sound_copy_and_writes_the_list(gta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "gta5", "--data-root", str(gta), "--num-workers", "0"]
    assert main([*arguments, "--write-list", str(gta / "lists/good.txt")]) == 0
    assert (gta / "lists/good.txt").read_text().split() == [f"{i:05d}.png" for i in range(4)]
    assert "bicycle" in capsys.readouterr().out
    assert main([*arguments, "--list", str(gta / "lists/good.txt")]) == 0


def test_check_refuses_an_unwritable_list_before_it_decodes(
    gta: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_data, "check_files", None)
    (gta / "file").write_text("")
    for place in (gta / "file/good.txt", gta):
        assert main(["check", "gta5", "--data-root", str(gta), "--write-list", str(place)]) == 2
    assert capsys.readouterr().err.count("error: cannot write") == 2


def test_check_reports_everything_before_it_fails(gta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gta / "gta5/labels/00000.png").unlink()
    (gta / "gta5/images/00001.png").write_bytes(b"")
    assert main(["check", "gta5", "--data-root", str(gta), "--num-workers", "0"]) == 2
    output = capsys.readouterr()
    assert "00000.png: no label" in output.out
    assert "00001.png is empty" in output.out
    assert output.err.count("error: ") == 1
    assert "2 of 4 pairs are incomplete or unreadable" in output.err


def test_statistics_writes_the_originals_files_and_their_class_space(
    gta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "statistics",
        "gta5",
        "--data-root",
        str(gta),
        "--num-workers",
        "0",
        "--output",
        str(gta / "s"),
    ]
    assert main(arguments) == 0
    assert "  0 road                             4  33.333%       4" in capsys.readouterr().out
    names = {"sample_class_stats.json", "sample_class_stats_dict.json", "samples_with_class.json"}
    assert {path.name for path in (gta / "s").iterdir()} == names | {
        "sample_class_space.json",
        "gtav_label_info.p",
    }
    assert read_label_info(gta / "s/gtav_label_info.p").file_to_label["00003.png"] == [0, 13, 18]


def test_statistics_compares_with_files_made_elsewhere(gta: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["statistics", "gta5", "--data-root", str(gta), "--num-workers", "0"]
    assert main(arguments) == 0
    made = [str(gta / "gta5/gtav_label_info.p"), str(gta / "gta5/sample_class_stats_dict.json")]
    again = [*arguments, "--output", str(gta / "again"), "--compare", *made]
    capsys.readouterr()
    assert main(again) == 0
    assert capsys.readouterr().out.count("4 images, the same classes as here") == 2
    write_label_png(gta / "gta5/labels/00001.png", np.array([[7, 7], [0, 33]], np.uint8))
    (gta / "gta5/labels/00002.png").unlink()
    (gta / "gta5/images/00002.png").unlink()
    assert main(again) == 0
    output = capsys.readouterr().out
    assert "1 differ (first 00001: [0, 13, 18] there, [0, 18] here), 1 only there, 0 only here" in output
    assert "first 00001: {0: 1, 13: 1, 18: 1} there, {0: 2, 18: 1} here" in output


def test_statistics_of_other_classes_do_not_replace_those_of_the_data_set(gta: Path) -> None:
    arguments = ["statistics", "gta5", "--data-root", str(gta), "--num-workers", "0"]
    assert main(arguments) == 0
    own = (gta / "gta5/sample_class_stats.json").read_text()
    assert main([*arguments, "--classes", "idd7"]) == 0
    assert (gta / "gta5/sample_class_stats.json").read_text() == own
    assert counted_class_space(gta / "gta5") == "cityscapes19"
    assert counted_class_space(gta / "gta5/class_statistics_idd7") == "idd7"


def test_statistics_of_a_read_only_copy_can_be_kept_elsewhere(
    gta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gta / "gta5/sample_class_space.json").mkdir()  # cannot be written, even by an administrator
    arguments = ["statistics", "gta5", "--data-root", str(gta), "--num-workers", "0"]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert "cannot write" in output.err
    assert "--output DIR here and --class-statistics DIR in training" in output.err
    assert output.out == ""
    assert main([*arguments, "--output", str(gta / "elsewhere")]) == 0


def test_statistics_refuses_a_hostile_table_before_it_counts(
    gta: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gta / "evil_label_info.p").write_bytes(b"cos\nsystem\n(S'echo'\ntR.")
    arguments = ["statistics", "gta5", "--data-root", str(gta), "--num-workers", "0"]
    assert main([*arguments, "--compare", str(gta / "evil_label_info.p")]) == 2
    output = capsys.readouterr()
    assert "it asks for os.system" in output.err
    assert output.out == ""


def test_weights_says_what_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    output = capsys.readouterr().out
    assert "resnet101-63fe2227.pth" in output
    assert "github.com/layumi/Seg_Uncertainty" in output


def test_weights_check_names_an_imagenet_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "r.pth")
    assert main(["weights", "check", str(tmp_path / "r.pth")]) == 0
    assert "ResNet ImageNet file with torchvision's keys, complete for resnet18;" in capsys.readouterr().out


def test_weights_check_refuses_half_an_imagenet_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halves = {
        "caffe": {"Scale.conv1.weight": torch.zeros(64, 3, 7, 7)},
        "resnet": {
            name: value
            for name, value in models.resnet18(weights=None).state_dict().items()
            if not name.startswith("layer3.")
        },
    }
    for name, state in halves.items():
        torch.save(state, tmp_path / f"{name}.pth")
        assert main(["weights", "check", str(tmp_path / f"{name}.pth")]) == 2
    errors = capsys.readouterr().err
    assert "does not fit resnet101_caffe" in errors
    assert "does not fit resnet18: 25 entries are missing, first layer3.0.conv1.weight" in errors


def test_weights_check_refuses_what_is_no_weights_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pth").write_text("hello")
    assert main(["weights", "check", str(tmp_path / "x.pth")]) == 2
    assert main(["weights", "check"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_demo_draws_sets_that_find_and_check_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--size", "64,32", "--train", "2", "--val", "1", "--num-workers", "1"]
    assert main(["demo", str(tmp_path), *size]) == 0
    found = capsys.readouterr().out
    assert all(f"{name} " in found for name in ("cityscapes", "gta5", "synthia"))
    for name in ("cityscapes", "gta5", "synthia"):
        assert main(["check", name, "--data-root", str(tmp_path), "--num-workers", "0", "--strict"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "gta"], "did you mean gta5"),
        (["check", "gta5", "--split", "night"], "it has train"),
        (["find", "/nowhere"], "/nowhere is no folder"),
        (["check", "gta5", "--data-rot", "x"], "unknown option --data-rot"),
        ([], "COMMAND"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
