"""Locks that reach only their own machine: who runs there is seen by its touching the file.

Two machines are two host names here, and their locks are granted without being taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from utils import distributed, folder_lock, runs
from utils.distributed import World
from utils.errors import RunStopped, UserError
from utils.folder_lock import FolderLock

REPOSITORY = Path(folder_lock.__file__).resolve().parents[1]
ELSEWHERE = {"host": "node-b", "pid": 7}

START_ON = """
import socket, sys
from pathlib import Path
from utils import folder_lock
host, path = sys.argv[1:]
socket.gethostname = lambda: host
folder_lock.BEAT_S = 0.2
folder_lock.FolderLock._lock = staticmethod(lambda descriptor: True)
lock = folder_lock.FolderLock(Path(path))
lock.acquire()
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a lock file that is not there yet."""
    return tmp_path / ".lock"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats of 0.1 s, watched for 0.6 s."""
    monkeypatch.setattr(folder_lock, "BEAT_S", 0.1)
    monkeypatch.setattr(folder_lock, "WATCH_S", 0.6)


def start_on(host: str, path: Path) -> subprocess.Popen:
    """A process of that machine that takes the lock, says so and stays."""
    return subprocess.Popen(
        [sys.executable, "-c", START_ON, host, str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def watch_is(monkeypatch: pytest.MonkeyPatch, watch: Callable[[Path], object]) -> None:
    """The watch does this with the file, and ends."""
    monkeypatch.setattr(FolderLock, "_watch", lambda self, seen, age: watch(self.path))


def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_is(monkeypatch, lambda path: pytest.fail("it waits"))


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def take(path: Path) -> None:
    lock = FolderLock(path)
    lock.acquire()
    try:
        assert json.loads(path.read_text())["pid"] == os.getpid()
    finally:
        lock.release()


def open_run(folder: Path) -> contextlib.AbstractContextManager[runs.Run]:
    """A run folder."""
    world = World(0, 1, 0, torch.device("cpu"))
    return runs.open_run(folder, {}, world=world, keep=1, free_to_change=frozenset(), tensorboard=False)


def test_a_run_of_another_machine_whose_lock_is_not_seen_is_left_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "WATCH_S", 20.0)
    with start_on("node-b", path) as other:
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(UserError, match=f"in use by process {other.pid} on node-b; wait for it"):
            take(path)
        assert json.loads(path.read_text())["pid"] == other.pid
        other.stdin.close()


def test_a_run_that_was_killed_on_another_machine_is_followed_after_a_wait(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(json.dumps(ELSEWHERE))
    begin = time.monotonic()
    take(path)
    assert 0.6 <= time.monotonic() - begin < 5
    waiting, taking = (record.getMessage() for record in caplog.records)
    assert waiting.startswith(f"{path} names process 7 on node-b and was touched ")
    assert " s ago; watching up to " in waiting
    assert taking == "taking over the run folder of process 7 on node-b"


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_a_deleted_or_released_lock_ends_the_wait(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(folder_lock, "WATCH_S", 60.0)
    path.write_text(json.dumps(ELSEWHERE))
    timer = threading.Timer(0.3, change, [path])
    timer.start()
    begin = time.monotonic()
    take(path)
    timer.join()
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize(
    "owner",
    [
        {"host": socket.gethostname(), "pid": 1},  # the lock decides here
        {"host": "node-b", "pid": 7, "slurm_job": "5", "slurm_restarts": "0"},  # Slurm has ended it
        {"pid": 7},
    ],
)
def test_nobody_waits_where_the_lock_or_slurm_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch, owner: dict[str, object]
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    no_watch(monkeypatch)
    path.write_text(json.dumps(owner))
    assert folder_lock.seen_elsewhere(path) is None
    take(path)


def test_nobody_waits_for_a_run_that_ended_cleanly_or_long_ago(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_watch(monkeypatch)
    with start_on("node-b", path) as other:
        assert other.stdout.readline() == "taken\n"
        other.kill()
    long_ago = time.time() - folder_lock.RECENT_S - 1
    os.utime(path, (long_ago, long_ago))
    take(path)  # and gives it back
    assert path.read_text() == ""
    monkeypatch.setattr(socket, "gethostname", lambda: "node-c")
    take(path)


def test_a_lock_that_is_seen_refuses_without_a_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_watch(monkeypatch)
    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(FolderLock, "_lock", staticmethod(lambda descriptor: False))
    with pytest.raises(UserError, match="in use by process 7 on node-b"):
        FolderLock(path).acquire()


def test_a_start_that_is_refused_is_no_beat(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(json.dumps(ELSEWHERE))
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(FolderLock, "_lock", staticmethod(lambda descriptor: False))
    with pytest.raises(UserError):
        take(path)
    assert path.stat().st_mtime_ns == before
    owner, seconds = folder_lock.seen_elsewhere(path)
    assert (owner, seconds < 60) == (ELSEWHERE, True)


def test_the_beats_end_with_the_lock(path: Path) -> None:
    lock = FolderLock(path)
    for _ in range(2):
        lock.acquire()
        assert sum("_beat" in thread.name for thread in threading.enumerate()) == 1
        lock.release()
    assert not any("_beat" in thread.name for thread in threading.enumerate())


def test_no_beat_goes_to_a_descriptor_that_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, still_open = threading.Event(), []

    def touch(descriptor: int) -> None:
        begun.set()
        time.sleep(0.3)
        still_open.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "utime", touch)
    lock = FolderLock(path)
    lock.acquire()
    assert begun.wait(10)
    lock.release()
    assert still_open == [path.stat().st_ino]


@pytest.mark.parametrize("host", ["a\nb\x1b[31m", {"a": 1}, ["a"], None, ""])
def test_an_odd_host_is_not_repeated(path: Path, monkeypatch: pytest.MonkeyPatch, host: object) -> None:
    path.write_text(json.dumps({"host": host, "pid": 7}))
    monkeypatch.setattr(FolderLock, "_lock", staticmethod(lambda descriptor: False))
    with pytest.raises(UserError) as refused:
        FolderLock(path).acquire()
    assert str(refused.value).isprintable()
    assert "{" not in str(refused.value)


def test_a_text_that_cannot_be_written_gives_the_lock_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, text: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    before = open_descriptors()
    with pytest.raises(OSError, match="No space left"):
        FolderLock(path).acquire()
    assert open_descriptors() == before


def test_a_wait_that_other_ranks_would_not_outlast_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "WATCH_S", 60.0)
    monkeypatch.setattr(distributed, "patience_s", lambda: 119.0)
    path = tmp_path / runs.LOCK_FILE
    path.write_text(json.dumps(ELSEWHERE))
    looks: list[Path] = []
    monkeypatch.setattr(folder_lock, "_look", looks.append)
    line = (
        r"touched \d+ s ago; .* takes 60 s, and --timeout-seconds of 120 or more, not 119; .* delete the file"
    )
    with pytest.raises(UserError, match=line), open_run(tmp_path):
        pass
    assert not looks
    assert path.read_text() == json.dumps(ELSEWHERE)


def test_ranks_that_are_patient_let_it_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "patience_s", lambda: 2 * folder_lock.WATCH_S)
    (tmp_path / runs.LOCK_FILE).write_text(json.dumps(ELSEWHERE))
    with open_run(tmp_path) as run:
        assert run.is_main


@pytest.mark.parametrize("wrong_by", [-3600.0, 3600.0])
def test_the_age_of_a_touch_is_told_by_the_file_systems_clock(
    path: Path, monkeypatch: pytest.MonkeyPatch, wrong_by: float
) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + wrong_by)
    path.write_text(json.dumps(ELSEWHERE))
    watched: list[Path] = []
    watch_is(monkeypatch, watched.append)
    take(path)
    assert watched == [path]
    path.write_text(json.dumps(ELSEWHERE))
    long_ago = right() - folder_lock.RECENT_S - 1
    os.utime(path, (long_ago, long_ago))
    take(path)
    assert watched == [path]
    assert list(path.parent.iterdir()) == [path]


def test_without_room_for_another_file_this_machines_clock_tells_the_age(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    path.write_text(json.dumps(ELSEWHERE))
    watched: list[Path] = []
    watch_is(monkeypatch, watched.append)
    take(path)
    assert watched == [path]


def test_a_stop_signal_ends_the_watch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "WATCH_S", 60.0)
    monkeypatch.setattr("utils.stopping.requested", lambda: "SIGTERM")
    path.write_text(json.dumps(ELSEWHERE))
    before, descriptors = path.stat().st_mtime_ns, open_descriptors()
    begin = time.monotonic()
    with pytest.raises(RunStopped, match=r"SIGTERM before anything was begun; .* names process 7 on node-b"):
        take(path)
    assert time.monotonic() - begin < 30
    assert (path.read_text(), path.stat().st_mtime_ns) == (json.dumps(ELSEWHERE), before)
    assert open_descriptors() == descriptors


@pytest.mark.parametrize(
    "change", [lambda path: os.utime(path), lambda path: path.write_text('{"host": "node-c", "pid": 8}')]
)
def test_a_touch_at_the_end_of_the_watch_refuses(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    path.write_text(json.dumps(ELSEWHERE))
    earlier = time.time() - 10
    os.utime(path, (earlier, earlier))
    watch_is(monkeypatch, change)
    before = open_descriptors()
    with pytest.raises(UserError, match=r"is in use by process [78] on node-[bc]"):
        take(path)
    assert open_descriptors() == before


def test_a_file_that_cannot_be_looked_at_is_not_taken_over(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(path: Path) -> None:
        raise OSError(5, "Input/output error")

    path.write_text(json.dumps(ELSEWHERE))
    monkeypatch.setattr(folder_lock, "_look", lost)
    with pytest.raises(OSError, match="Input/output"):
        take(path)
    assert path.read_text() == json.dumps(ELSEWHERE)


def test_a_machine_without_room_for_a_thread_holds_the_lock_without_beats(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = open_descriptors()
    lock = FolderLock(path)
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", start)
        lock.acquire()
    assert "can't start new thread" in caplog.text
    with pytest.raises(UserError, match="in use by process"):
        FolderLock(path).acquire()
    lock.release()
    assert open_descriptors() == before
    take(path)
