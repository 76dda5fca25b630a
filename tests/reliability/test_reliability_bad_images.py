"""A corrupt training file in the middle of an epoch: the run stops and names it, or skips and counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import fill_bank
from tests import toy_self_training
from tests.forked_runs import Signal, assert_same, run_forked
from tests.reliability.tiny_runs import KINDS, command, finished_state, run, write_data

SOURCE_IMAGE = "gta5/images/00002.png"
SOURCE_LABEL = "gta5/labels/00002.png"
TARGET_IMAGE = "cityscapes/leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png"
PSEUDO_LABEL = "stage_one/pseudo_labels/cityscapes_train/aachen/aachen_000001_000019_leftImg8bit.png"
STREAMS = [
    ("source", "source", SOURCE_IMAGE),
    ("mrnet", "source", SOURCE_LABEL),
    ("mrnet", "target", TARGET_IMAGE),
    ("rectified", "source", PSEUDO_LABEL),
    ("rectified", "target", TARGET_IMAGE),
    ("ripu", "source", SOURCE_IMAGE),
    ("daformer", "source", SOURCE_LABEL),
    ("dida", "target", TARGET_IMAGE),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs read, undamaged."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(good: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    shutil.copytree(good, tmp_path / "data")
    return tmp_path / "data"


def damage(path: Path) -> Path:
    """The second half of a file becomes zeros, as after a crash of the file system; its size stays."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    return path


def counts(folder: Path, stream: str) -> list[float]:
    """Draws that were replaced so far, by log line."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line.get(f"data/skipped_{stream}", 0.0) for line in lines if "lr/segmentation" in line]


@pytest.mark.parametrize(("kind", "stream", "file"), STREAMS)
def test_every_stream_stops_at_a_corrupt_file_or_skips_it(
    kind: str, stream: str, file: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damage(data / file)
    workers = ["--num-workers", str(STREAMS.index((kind, stream, file)) % 2)]
    stop = ["--num-steps-stop", "5", "--evaluate-every", "0"]
    select = ["--select-iterations", "4"] if KINDS[kind].script == "train_al" else []
    words = [*workers, *stop, *select, "--batch-size", "4"]
    assert run(kind, data, tmp_path / "run", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert str(path) in errors[0]
    assert "Traceback" not in errors[0]
    assert run(kind, data, tmp_path / "run", *words, "--skip-bad-images") == 0
    assert counts(tmp_path / "run", stream)[-1] >= 1
    warnings = (tmp_path / "run" / "log.txt").read_text().count(f"stream {stream}: ")
    assert warnings == 1


def test_processes_and_kills_do_not_change_what_is_skipped(data: Path, tmp_path: Path) -> None:
    damage(data / SOURCE_IMAGE)
    damage(data / TARGET_IMAGE)
    words = ["--skip-bad-images", "--droprate", "0"]  # workers: test_data_loaders_streams
    alone = command("mrnet", data, tmp_path / "alone", *words)
    assert run_forked("train_ms", alone) == [0]
    killed = command("mrnet", data, tmp_path / "killed", *words)
    kill = Signal("trainers.base:Trainer.run_iteration", call=4)
    assert run_forked("train_ms", killed, changes=[kill]) == [-9]
    assert run_forked("train_ms", killed) == [0]
    state = finished_state(tmp_path / "alone")
    assert_same(finished_state(tmp_path / "killed"), state)
    assert state["skipped"]["source"]["draws"] >= 1
    assert state["skipped"]["target"]["draws"] >= 2
    together = command("mrnet", data, tmp_path / "together", *words)
    assert run_forked("train_ms", together, processes=2) == [0, 0]
    assert finished_state(tmp_path / "together")["skipped"] == state["skipped"]
    for stream in ("source", "target"):
        assert counts(tmp_path / "together", stream) == counts(tmp_path / "alone", stream)
        assert counts(tmp_path / "killed", stream) == counts(tmp_path / "alone", stream)


def test_a_dead_disk_stops_the_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data / "gta5" / "images").iterdir():
        path.write_bytes(b"")
    assert run("source", data, tmp_path / "run", "--skip-bad-images") == 2
    assert "look whether the disk is there" in capsys.readouterr().err


def test_filling_a_bank_skips_too(good: Path, data: Path, tmp_path: Path) -> None:
    assert run("daformer", good, tmp_path / "run", "--num-steps-stop", "1") == 0
    damage(data / SOURCE_IMAGE)
    words = toy_self_training.bank_command(data, tmp_path / "run", tmp_path / "bank")
    assert fill_bank.main(words) == 2
    assert fill_bank.main([*words, "--skip-bad-images"]) == 0
