"""Killed at any write call of a snapshot: the snapshot before it, or the new one, loads whole."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forked_runs import assert_same
from tests.reliability.tiny_runs import run, write_data
from utils.snapshots import SnapshotFolder, resolve

OLD, NEW = 10, 20  # iterations


class Calls:
    """Counts calls of the system that change the disk; this process dies in the middle of one of them.

    Attributes:
        fatal: the how manyth, from 1; 0: none.
    """

    def __init__(self, fatal: int = 0) -> None:
        self.fatal = fatal
        self.count = 0

    def next(self) -> bool:
        """Counts one; whether it is the fatal one."""
        self.count += 1
        return self.count == self.fatal

    def or_die(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, before whose fatal call the process dies."""

        def counting(*args: Any, **options: Any) -> Any:
            if self.next():
                die()
            return function(*args, **options)

        return counting

    def watch(self) -> None:
        """From here on, in this process: writes, flushes, renames and removals."""
        calls = self

        class Watched(io.FileIO):
            """An unbuffered file, so that every write is one of the system; the fatal one is cut short."""

            def write(self, content: Any) -> int:
                if calls.next():
                    super().write(memoryview(content).cast("B")[: memoryview(content).nbytes // 2])
                    die()
                return super().write(content)

        plain = Path.open

        def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            return Watched(path, "wb") if mode == "wb" else plain(path, mode, *args, **options)

        Path.open = opened
        Path.replace = calls.or_die(Path.replace)
        Path.unlink = calls.or_die(Path.unlink)
        os.fsync = calls.or_die(os.fsync)


def die() -> None:
    """kill -9 of this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def write_in_a_process(folder: Path, state: dict[str, Any], fatal: int) -> int:
    """Writes the snapshot of iteration `NEW` in a fork, which dies at one of its calls.

    Returns:
        The number of calls, -9 if it died.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        calls = Calls(fatal)
        calls.watch()
        SnapshotFolder(folder, keep=1).write(state, NEW)
        os.write(writer, str(calls.count).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        count = answers.read()
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else int(count)


def assert_killed_anywhere_is_harmless(
    folder: Path, old: dict[str, Any], new: dict[str, Any], calls: Iterator[int] | None = None
) -> None:
    """For each of these calls (None: all): the folder continues from the old or from the new state."""
    SnapshotFolder(folder, keep=1).write(old, OLD)
    count = write_in_a_process(folder, new, 0)
    assert SnapshotFolder(folder, keep=1).latest()[0].name == f"iteration_{NEW:07d}.pth"
    found = set()
    for fatal in range(1, count + 1) if calls is None else calls:
        for path in folder.iterdir():
            path.unlink()
        SnapshotFolder(folder, keep=1).write(old, OLD)
        assert write_in_a_process(folder, new, fatal) == -signal.SIGKILL, fatal
        path, state = SnapshotFolder(folder, keep=1).latest()
        assert resolve(folder) == path
        assert_same(state, new if path.name == f"iteration_{NEW:07d}.pth" else old)
        found.add(path.name)
        SnapshotFolder(folder, keep=1).write(new, NEW + 1)
        assert {path.name for path in folder.iterdir()} == {f"iteration_{NEW + 1:07d}.pth", "last"}
    assert len(found) == 2  # some calls came before the new one was in place, some after


def small_state(value: float) -> dict[str, Any]:
    """A snapshot of two tensors."""
    weights = {"weight": torch.full((40, 40), value), "bias": torch.full((40,), value)}
    return {"format_version": 1, "network": {}, "weights": weights, "iteration": int(value)}


def test_a_kill_at_every_write_call_of_a_snapshot(tmp_path: Path) -> None:
    assert_killed_anywhere_is_harmless(tmp_path, small_state(1.0), small_state(2.0))


@pytest.mark.long
def test_a_kill_at_every_write_call_of_a_runs_snapshot(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    assert run("mrnet", data, tmp_path / "run") == 0
    states = [torch.load(tmp_path / "run" / f"iteration_{i:07d}.pth", weights_only=True) for i in (2, 4)]
    (tmp_path / "snapshots").mkdir()
    assert_killed_anywhere_is_harmless(tmp_path / "snapshots", *states)
