"""A full disk is one clear line, damages nothing, and the same command goes on once there is space."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

import generate_plabel
from tests.forked_runs import FullDisk, assert_same, fill, run_forked
from tests.reliability.tiny_runs import KINDS, command, finished_state, write_data
from utils import snapshots
from utils.errors import UserError

SAVE = "utils.snapshots:SnapshotFolder.write"
ITERATION = "trainers.base:Trainer.run_iteration"
FULL = "No space left on device"
KIND = "source"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs read."""
    return write_data(tmp_path_factory.mktemp("data"))


def errors(text: str) -> list[str]:
    assert "Traceback" not in text
    assert "Logging error" not in text
    return [line for line in text.splitlines() if line.startswith("error")]


@pytest.mark.parametrize(
    ("full_from", "named", "saved"),
    [((SAVE, 2), "iteration_0000004.pth", 2), ((ITERATION, 1), "metrics.jsonl", None)],
    ids=["snapshot", "logging"],
)
def test_training_on_a_full_disk(
    data: Path,
    small_disk: Path,
    tmp_path: Path,
    full_from: tuple[str, int],
    named: str,
    saved: int | None,
) -> None:
    words, script = command(KIND, data, small_disk / "run", "--tensorboard"), KINDS[KIND].script
    assert run_forked(script, command(KIND, data, tmp_path / "whole")) == [0]
    full = FullDisk(small_disk, *full_from)
    assert run_forked(script, words, changes=[full], errors=tmp_path / "errors") == [2]
    (error,) = errors((tmp_path / "errors").read_text())
    assert f"{named}: {FULL}" in error
    newest = snapshots.SnapshotFolder(small_disk / "run", keep=1).latest()
    assert (None if newest is None else newest[1]["iteration"]) == saved
    assert not list((small_disk / "run").glob(".*.tmp"))
    (small_disk / "filler").unlink()
    assert run_forked(script, words) == [0]
    assert_same(finished_state(small_disk / "run"), finished_state(tmp_path / "whole"))
    logged = (small_disk / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(logged) == len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())


def test_a_start_on_a_full_disk(data: Path, small_disk: Path, tmp_path: Path) -> None:
    fill(small_disk / "filler")
    words = command(KIND, data, small_disk / "run")
    assert run_forked(KINDS[KIND].script, words, errors=tmp_path / "errors") == [2]
    (error,) = errors((tmp_path / "errors").read_text())
    assert "cannot" in error
    assert FULL in error


def test_pseudo_labels_on_a_full_disk(
    data: Path, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--restore-from", str(data / "stage_one"), "--data-root", str(data), "--device", "cpu"]
    assert generate_plabel.main([*words, "--pseudo-label-dir", str(tmp_path / "whole")]) == 0
    here = [*words, "--pseudo-label-dir", str(small_disk / "labels")]
    fill(small_disk / "filler", spare=3 * 4096)
    capsys.readouterr()
    assert generate_plabel.main(here) == 2
    (error,) = errors(capsys.readouterr().err)
    assert FULL in error
    assert str(small_disk / "labels") in error
    (small_disk / "filler").unlink()
    assert generate_plabel.main(here) == 0
    whole = {path.relative_to(tmp_path / "whole"): path for path in (tmp_path / "whole").rglob("*.png")}
    assert whole
    for name, path in whole.items():
        assert (small_disk / "labels" / name).read_bytes() == path.read_bytes()


def test_a_snapshot_that_outgrows_a_limit_leaves_the_one_before(tmp_path: Path) -> None:
    """What the system answers on a full disk or quota, for users who may not mount one."""
    folder = snapshots.SnapshotFolder(tmp_path, keep=2)
    state = {"format_version": 1, "network": {}, "iteration": 1}
    folder.write(state, 1)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            folder.write({**state, "text": "x" * 100_000}, 2)
        except UserError as error:
            os._exit(0 if "iteration_0000002.pth: File too large" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.latest() == (tmp_path / "iteration_0000001.pth", state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_0000001.pth", "last"]
