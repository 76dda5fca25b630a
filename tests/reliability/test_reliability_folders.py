"""Two runs on one folder, and a run folder that is moved."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked_runs import Signal, assert_same, run_forked
from tests.reliability.tiny_runs import command, finished_state, run, write_data
from utils.folder_lock import FolderLock
from utils.runs import LOCK_FILE

KILL = Signal("trainers.base:Trainer.run_iteration", call=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs read."""
    return write_data(tmp_path_factory.mktemp("data"))


def test_a_second_run_on_a_folder_is_refused(data: Path, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path / "run" / LOCK_FILE)
    lock.path.parent.mkdir()
    lock.acquire()
    words = command("source", data, tmp_path / "run")
    assert run_forked("train_source", words, processes=2, errors=tmp_path / "errors") == [2, 2]
    (error,) = [line for line in (tmp_path / "errors").read_text().splitlines() if line.startswith("error")]
    assert "is in use by process" in error
    assert [path.name for path in lock.path.parent.iterdir()] == [LOCK_FILE]
    lock.release()
    assert run_forked("train_source", words) == [0]


def test_a_second_run_on_a_machine_that_does_not_see_the_lock_is_refused(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "run" / LOCK_FILE
    file.parent.mkdir()
    file.write_text(json.dumps({"host": "another-machine", "pid": 7}))
    words = command("source", data, file.parent)
    with touching(file):
        codes = run_forked("train_source", words, processes=2, errors=tmp_path / "errors")
    assert codes == [2, 2]
    assert "is in use by process 7 on another-machine; wait for it" in (tmp_path / "errors").read_text()
    assert [path.name for path in file.parent.iterdir()] == [LOCK_FILE]


def test_a_start_on_another_machine_that_is_told_to_stop_leaves_the_folder_alone(
    data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run" / LOCK_FILE
    file.parent.mkdir()
    file.write_text(json.dumps({"host": "another-machine", "pid": 7}))
    stop = Signal("utils.folder_lock:FolderLock._watch", before=True, number=signal.SIGTERM)
    words = command("source", data, file.parent)
    assert run_forked("train_source", words, changes=[stop], errors=tmp_path / "errors") == [1]
    assert "stopped: SIGTERM before anything was begun; " in (tmp_path / "errors").read_text()
    assert [path.name for path in file.parent.iterdir()] == [LOCK_FILE]
    assert json.loads(file.read_text())["pid"] == 7


@contextlib.contextmanager
def touching(file: Path) -> Iterator[None]:
    """Inside, the file is touched every second."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(1.0):
            os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("kind", ["rectified", "ripu", "dida"])
def test_a_run_folder_that_was_moved_continues(kind: str, data: Path, tmp_path: Path) -> None:
    script = {"rectified": "train_ft", "ripu": "train_al", "dida": "train_st"}[kind]
    assert run_forked(script, command(kind, data, tmp_path / "run"), changes=[KILL]) == [-9]
    elsewhere = tmp_path / "other disk" / "moved"
    elsewhere.parent.mkdir()
    shutil.move(tmp_path / "run", elsewhere)
    assert run(kind, data, elsewhere) == 0
    assert run(kind, data, tmp_path / "whole") == 0
    assert_same(finished_state(elsewhere), finished_state(tmp_path / "whole"))
