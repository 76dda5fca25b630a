"""Locks that reach only their own machine: who runs there is seen by its touching the file.

Two machines are two host names here, and their locks are granted without being taken.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import folder_lock
from utils.errors import UserError
from utils.folder_lock import FolderLock

REPOSITORY = Path(folder_lock.__file__).resolve().parents[1]
ELSEWHERE = {"host": "node-b", "pid": 7}

START_ON = """
import socket, sys, time
from pathlib import Path
from utils import folder_lock
host, path, beat, start = sys.argv[1:]
socket.gethostname = lambda: host
folder_lock.BEAT_S, folder_lock.WATCH_S = float(beat), 20.0
folder_lock.FolderLock._lock = staticmethod(lambda descriptor: True)
lock = folder_lock.FolderLock(Path(path))
time.sleep(max(0, float(start) - time.time()))
try:
    lock.acquire()
except folder_lock.UserError as refused:
    print(refused, flush=True)
else:
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


def start_on(host: str, path: Path, *, beat: float = 0.2, start: float = 0.0) -> subprocess.Popen:
    """A process of that machine that takes the lock at this time, says what came of it and stays."""
    return subprocess.Popen(
        [sys.executable, "-c", START_ON, host, str(path), str(beat), str(start)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def no_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    def watch(self: FolderLock, owner: object) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(FolderLock, "_watch", watch)


def take(path: Path) -> None:
    lock = FolderLock(path)
    lock.acquire()
    try:
        assert json.loads(path.read_text())["pid"] == os.getpid()
    finally:
        lock.release()


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


def test_of_starts_at_the_same_moment_on_several_machines_one_gets_the_folder(path: Path) -> None:
    start = time.time() + 1.5
    others = [start_on(f"node-{i}", path, start=start) for i in range(5)]
    try:
        answers = [other.stdout.readline() for other in others]
    finally:
        for other in others:
            other.communicate("")
    assert answers.count("taken\n") == 1
    assert sum("is in use by process" in answer for answer in answers) == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_run_that_was_killed_on_another_machine_is_followed_after_a_wait(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(json.dumps(ELSEWHERE))
    begin = time.monotonic()
    take(path)
    assert 0.6 <= time.monotonic() - begin < 5
    waiting, taking = (record.getMessage() for record in caplog.records)
    assert waiting.startswith(f"run folder {path.parent} was in use by process 7 on node-b just now; waiting")
    assert f"delete {path} to go on at once" in waiting
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
    lately = time.time() - folder_lock.RECENT_S - 1
    os.utime(path, (lately, lately))
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
        lock.release()
    assert "folder lock" not in {thread.name for thread in threading.enumerate()}


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


def test_a_claim_left_by_a_killed_start_is_cleared(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "CLAIM_S", 0.2)
    claim = path.with_name(".lock.claim")
    claim.touch()
    take(path)
    assert not claim.exists()


def test_starts_that_follow_each_other_do_not_clear_each_others_claims(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_lock, "CLAIM_S", 1.0)
    claim = path.with_name(".lock.claim")
    ended, cleared = threading.Event(), []

    def others() -> None:
        """One start after the other, together longer than a claim may last."""
        for _ in range(6):
            claim.touch()
            ended.wait(0.25)
            cleared.append(not claim.exists())
            claim.with_name("next").touch()
            claim.with_name("next").replace(claim)
        claim.unlink()

    thread = threading.Thread(target=others)
    claim.touch()
    thread.start()
    take(path)
    thread.join()
    assert cleared == [False] * 6


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
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No space left"):
        FolderLock(path).acquire()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
