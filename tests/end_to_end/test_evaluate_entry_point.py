"""evaluate.py from the command line to table, JSON, CSV and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import evaluate
from data_loaders.decoding import map_label, read_raw_label, write_label_png
from data_loaders.description import load_description
from tests.distributed.launching import run_processes
from tests.toy_cityscapes import SIZE, draw_cityscapes, small_network, write_snapshot
from trainers.protocols import protocol_named
from utils.class_spaces import class_space


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with five labelled validation images, a number that two processes do not divide."""
    draw_cityscapes(tmp_path / "data" / "cityscapes", "val", 5)
    return tmp_path / "data"


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "runs" / "a" / "iteration_0000007.pth", small_network())


def arguments(data: Path, *words: object) -> list[str]:
    return [*map(str, words), "--data-root", str(data), "--device", "cpu"]


def test_several_inputs_become_columns_of_one_table(
    data: Path, snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_snapshot(tmp_path / "b.pth", small_network(seed=1))
    found = tmp_path / "out" / "scores.json"
    table = tmp_path / "out" / "scores.csv"
    words = (snapshot, other, "--json", found, "--csv", table, "--protocol", "common")
    assert evaluate.main(arguments(data, *words)) == 0
    printed = capsys.readouterr().out
    for text in (
        "protocol",
        "common (64x32)",
        "road",
        "bicycle",
        "mIoU",
        "mIoU (16 classes)",
        "mIoU (13 classes)",
    ):
        assert text in printed
    values = json.loads(found.read_text())
    assert [run["run"] for run in values["runs"]] == [str(snapshot), str(other)]
    assert values["images"] == 5
    assert values["runs"][0]["iteration"] == 7
    assert values["runs"][0]["protocol"]["name"] == "common"
    assert sum(map(sum, values["runs"][0]["confusion"])) == sum(map(sum, values["runs"][1]["confusion"])) > 0
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["mIoU"]) for row in rows] == [run["mIoU"] for run in values["runs"]]


def test_run_folder_means_its_last_and_remembers_the_training_size(
    data: Path, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(arguments(data, snapshot.parent, "--protocol", "mrnet")) == 0
    assert "mrnet (64x32 x 1+1.25, flip)" in capsys.readouterr().out


def test_aug_test_and_windows_change_any_protocol_and_stand_in_the_table(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sliding = protocol_named("daformer").with_window((32, 32), (16, 32))
    remembered = {"protocol": sliding.to_dict(), "input_size_target": list(SIZE)}
    path = write_snapshot(tmp_path / "own.pth", small_network(), evaluation=remembered)
    found = tmp_path / "scores.json"
    asked = {
        "daformer (64x32, windows 32x32 every 16x32)": (),
        "daformer (64x32, windows 32x32 every 32x32)": ("--stride", "32,32"),
        "daformer (64x32, windows 48x24 every 32x16)": ("--window", "48,24"),
        "common aug-test (64x32 x 1+0.5+0.75+1.25+1.5+1.75, flip)": ("--protocol", "common", "--aug-test"),
    }
    scored = set()
    for line, words in asked.items():
        assert evaluate.main(arguments(data, path, *words, "--json", found)) == 0
        assert line in capsys.readouterr().out
        run = json.loads(found.read_text())["runs"][0]
        scored.add(str(run["confusion"]))
    assert len(scored) == len(asked)
    assert len(run["protocol"]["scales"]) == 6


def test_two_processes_print_the_same_table(
    data: Path, snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = ([snapshot, "--protocol", "mrnet", "--json", tmp_path / f"{n}.json"] for n in (1, 2))
    assert evaluate.main(arguments(data, *one)) == 0
    result = run_processes(2, ["evaluate.py", *arguments(data, *two)])
    assert result.stdout == capsys.readouterr().out
    runs = [json.loads((tmp_path / f"{n}.json").read_text())["runs"] for n in (1, 2)]
    assert runs[0] == runs[1]


def test_original_checkpoint_with_module_prefix_and_options_file_works(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    from networks import NetworkSpec, build

    options = {"norm_style": "gn", "use_se": True}
    network = build(NetworkSpec("deeplab_two_head", "resnet101_caffe", 9, "robotcar9", options))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "published" / "GTA5_25000.pth"
    path.parent.mkdir()
    torch.save(state, path)
    (path.parent / "opts.yaml").write_text("model: DeepLab\nnorm_style: gn\nuse_se: true\nnum_classes: 9\n")
    del network, state
    words = ("--restore-from", path, "--classes", "robotcar9", "--protocol", "common")
    assert evaluate.main(arguments(data, *words)) == 0
    printed = capsys.readouterr().out
    assert str(path) in printed
    assert "two-wheel" in printed


def test_label_folder_is_scored_beside_a_network(
    data: Path, snapshot: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import predict

    labels = tmp_path / "labels"
    images = data / "cityscapes" / "leftImg8bit" / "val"
    protocol = ["--protocol", "common", "--device", "cpu"]
    assert (
        predict.main([str(images), "--restore-from", str(snapshot), "--output-dir", str(labels), *protocol])
        == 0
    )
    found = tmp_path / "scores.json"
    words = (snapshot, "--label-folder", labels, "--protocol", "common", "--json", found)
    assert evaluate.main(arguments(data, *words)) == 0
    assert "label PNGs" in capsys.readouterr().out
    network, folder = json.loads(found.read_text())["runs"]
    assert network["confusion"] == folder["confusion"]


def test_label_folder_of_finer_classes_is_scored_on_the_coarse_ones(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load_description("cityscapes").label_table("cityscapes19")
    for path in (data / "cityscapes" / "gtFine").rglob("*_labelIds.png"):
        name = path.name.replace("gtFine_labelIds", "leftImg8bit")
        write_label_png(tmp_path / "labels" / name, map_label(read_raw_label(path, "index"), table))
    words = ("--label-folder", tmp_path / "labels", "--classes", "idd7")
    found = tmp_path / "scores.json"
    merged = (*words, "--label-classes", "cityscapes19", "--json", found)
    assert evaluate.main(arguments(data, *merged, "--pictures", 1, "--pictures-dir", tmp_path / "p")) == 0
    assert json.loads(found.read_text())["runs"][0]["mIoU"] == 100
    assert len(list((tmp_path / "p").rglob("*.png"))) == 1
    assert evaluate.main(arguments(data, *words)) == 2  # ids of 19 classes are none of 7
    assert evaluate.main(arguments(data, "--restore-from", tmp_path, "--label-classes", "idd7")) == 2
    assert "--label-classes says what a --label-folder holds" in capsys.readouterr().err


def test_worst_images_are_drawn(data: Path, snapshot: Path, tmp_path: Path) -> None:
    words = (snapshot, "--pictures", 2, "--pictures-dir", tmp_path / "pictures", "--protocol", "common")
    assert evaluate.main(arguments(data, *words)) == 0
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 2


def test_scores_in_the_classes_asked_for(
    data: Path, snapshot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate.main(arguments(data, snapshot, "--classes", "idd7", "--protocol", "common")) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in class_space("idd7").class_names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to score"),
        (("missing.pth",), "missing.pth"),
        (("--label-folder", "{data}", "--target", "cityscape"), "cityscapes"),
        (("{snapshot}", "--split", "vall"), "no split 'vall'"),
        (("{snapshot}", "--protocol", "mrnet-cityscape"), "--protocol"),
        (("{snapshot}", "--classes", "idd8"), "idd7"),
        (("{snapshot}", "--weights", "teacher"), "teacher"),
        (("{text}",), "text"),
        (("{snapshot}", "--protocol", "mrnet-cityscapes"), "use --protocol mrnet"),
        (("{snapshot}", "--stride", "32,32"), "add --window W,H"),
        (("{snapshot}", "--window", "32,32", "--stride", "33,8"), "leaves gaps"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    data: Path,
    snapshot: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    text = tmp_path / "text.pth"
    text.write_text("no weights here")
    if "mrnet-cityscapes" in words:  # its fixed output size, without its costly input size
        words = (*words, "--base-size", "64,32")
    filled = [word.format(data=data, snapshot=snapshot, text=text) for word in words]
    assert evaluate.main(arguments(data, *filled)) == 2
    captured = capsys.readouterr()
    error = [line for line in captured.err.splitlines() if line.startswith("error")]
    assert len(error) == 1
    assert message in error[0]
    assert captured.out == ""
