"""Run folders: lock, recorded arguments, refusals that change nothing, marks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from utils import distributed, runs
from utils.distributed import World
from utils.errors import UserError
from utils.folder_lock import FolderLock

REPOSITORY = Path(runs.__file__).resolve().parents[1]
ARGUMENTS = {"learning_rate": 2e-4, "crop_size": [64, 32], "num_workers": 2, "num_steps_stop": 10}

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from utils.folder_lock import FolderLock
FolderLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def open_run(
    folder: Path,
    *,
    rank: int = 0,
    resume: str = "auto",
    facts: Mapping[str, Any] | None = None,
    **changes: object,
) -> AbstractContextManager:
    return runs.open_run(
        folder,
        {**ARGUMENTS, **changes},
        world=World(rank=rank, size=1, local_rank=rank, device=torch.device("cpu")),
        keep=2,
        free_to_change=frozenset({"num_workers"}),
        used_at_start=frozenset({"restore_from"}),
        resume=resume,
        facts=facts,
        command_line="train.py --flag",
        tensorboard=False,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != runs.LOCK_FILE}


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path / runs.LOCK_FILE)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


class TestRecord:
    def test_arguments_versions_and_starts_are_recorded(self, tmp_path: Path) -> None:
        with open_run(tmp_path / "runs/a") as run:
            assert run.settings == ARGUMENTS
            assert run.is_done() is None
        with open_run(tmp_path / "runs/a", num_workers=8):
            pass
        record = json.loads((tmp_path / "runs/a/arguments.json").read_text())
        assert record["arguments"] == {**ARGUMENTS, "num_workers": 8}
        assert record["command_line"] == "train.py --flag"
        first, second = record["starts"]
        assert first["world_size"] == 1
        assert {"torch", "numpy", "cv2", "Pillow", "python"} <= set(first["versions"])
        assert second["changed"] == {"num_workers": [2, 8]}

    def test_the_log_is_continued(self, tmp_path: Path) -> None:
        for _ in range(2):
            with open_run(tmp_path):
                pass
        assert (tmp_path / "log.txt").read_text().count("run folder") == 2

    def test_other_arguments_are_refused_one_by_one_and_nothing_changes(self, tmp_path: Path) -> None:
        with open_run(tmp_path):
            pass
        before = contents(tmp_path)
        with (
            pytest.raises(
                UserError, match=r"--learning-rate 0\.0002 -> 0\.1, --crop-size 64,32 -> 8,8;"
            ) as raised,
            open_run(tmp_path, learning_rate=0.1, crop_size=(8, 8), num_workers=0),
        ):
            pass
        assert raised.value.everywhere
        assert contents(tmp_path) == before
        with open_run(tmp_path):
            pass

    def test_a_setting_that_follows_from_an_option_is_refused_by_the_options_name(
        self, tmp_path: Path
    ) -> None:
        with open_run(tmp_path, bank_from="fill", instance_bank="fill"):
            pass
        with (
            pytest.raises(UserError) as caught,
            open_run(tmp_path, bank_from="files", instance_bank="banks/a"),
        ):
            pass
        assert "(folder -> now): --instance-bank fill -> banks/a; give" in str(caught.value)

    def test_facts_are_recorded_with_the_start_that_found_them(self, tmp_path: Path) -> None:
        for threshold in (0.0, 0.9):
            with open_run(tmp_path, facts={"pseudo_labels": {"threshold": threshold}}):
                pass
        starts = json.loads((tmp_path / "arguments.json").read_text())["starts"]
        assert [start["facts"]["pseudo_labels"]["threshold"] for start in starts] == [0.0, 0.9]

    def test_what_only_starts_a_run_may_change_once_there_is_a_snapshot(self, tmp_path: Path) -> None:
        with open_run(tmp_path, restore_from="runs/a"):
            pass
        with (
            pytest.raises(UserError, match="--restore-from runs/a -> b"),
            open_run(tmp_path, restore_from="b"),
        ):
            pass
        (tmp_path / "iteration_0000001.pth").touch()
        with open_run(tmp_path, restore_from="b"):
            pass

    def test_a_later_stop_is_welcome_and_an_earlier_one_is_not(self, tmp_path: Path) -> None:
        with open_run(tmp_path):
            pass
        with open_run(tmp_path, num_steps_stop=20):
            pass
        with (
            pytest.raises(UserError, match="--num-steps-stop 20 -> 15"),
            open_run(tmp_path, num_steps_stop=15),
        ):
            pass

    def test_arguments_of_another_program_version_do_not_matter(self, tmp_path: Path) -> None:
        with open_run(tmp_path, old_flag=1):
            pass
        with open_run(tmp_path, new_flag=2):
            pass

    def test_resume_never_refuses_a_used_folder(self, tmp_path: Path) -> None:
        with open_run(tmp_path / "a", resume="never"):
            pass
        with pytest.raises(UserError, match="already holds a run"), open_run(tmp_path / "a", resume="never"):
            pass

    @pytest.mark.parametrize("text", ["", "{}", "[1]", '{"arguments": 3, "starts": []}'])
    def test_a_damaged_record_is_named(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "arguments.json").write_text(text)
        with pytest.raises(UserError, match=r"arguments\.json is not a record"), open_run(tmp_path):
            pass

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="--snapshot-dir"), open_run(tmp_path / "file/run"):
            pass


class TestOtherRanks:
    def test_they_write_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distributed, "broadcast_object", lambda value: (None, None))
        with open_run(tmp_path, rank=1) as run:
            run.log.scalars(1, {"loss": 1.0})
            run.mark(runs.DONE, "finished")
            run.resume_at(0)
            assert run.is_done() is not None
        assert list(tmp_path.iterdir()) == []

    def test_they_learn_what_rank_0_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distributed, "broadcast_object", lambda value: ("refused", None))
        with pytest.raises(UserError, match="refused"), open_run(tmp_path, rank=1):
            pass


class TestMarks:
    def test_done_is_told_at_the_next_start(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            run.mark(runs.DONE, "mIoU 45.5", iteration=10)
            assert run.is_done()["text"] == "mIoU 45.5"
        with open_run(tmp_path) as run:
            assert run.is_done()["iteration"] == 10

    def test_a_later_stop_makes_a_finished_run_unfinished(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            run.mark(runs.DONE, "mIoU 45.5")
        with open_run(tmp_path, num_steps_stop=11) as run:
            assert run.is_done() is None

    def test_a_mark_replaces_the_ones_before(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            run.mark(runs.WAITING_FOR_LABELS, "round 2")
            run.mark(runs.PREEMPTED, "SIGTERM")
            assert [name for name in runs.MARKS if (tmp_path / name).exists()] == [runs.PREEMPTED]
            run.clear_marks()
            assert not any((tmp_path / name).exists() for name in runs.MARKS)

    def test_preempted_ends_with_the_next_start(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            run.mark(runs.PREEMPTED, "SIGTERM")
        with open_run(tmp_path):
            assert not (tmp_path / runs.PREEMPTED).exists()

    def test_resuming_forgets_later_metrics(self, tmp_path: Path) -> None:
        with open_run(tmp_path) as run:
            run.log.scalars(5, {"loss": 1.0})
            run.log.scalars(10, {"loss": 1.0})
            run.resume_at(5)
        assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


class TestLock:
    def test_a_second_run_is_kept_out_and_told_who_is_in(
        self, tmp_path: Path, holder: subprocess.Popen
    ) -> None:
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), open_run(tmp_path):
            pass
        assert contents(tmp_path) == {}

    def test_the_same_process_is_kept_out_too(self, tmp_path: Path) -> None:
        with open_run(tmp_path):
            with pytest.raises(UserError, match=f"in use by process {os.getpid()}"), open_run(tmp_path):
                pass
            lock = tmp_path / runs.LOCK_FILE
            assert json.loads(lock.read_text())["pid"] == os.getpid()

    def test_a_killed_run_leaves_the_folder_free(self, tmp_path: Path, holder: subprocess.Popen) -> None:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with open_run(tmp_path):
            pass

    def test_an_error_inside_gives_the_folder_back(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), open_run(tmp_path):
            raise RuntimeError
        with open_run(tmp_path):
            pass

    def test_loader_processes_do_not_keep_the_lock_of_a_killed_run(self, tmp_path: Path) -> None:
        lock = tmp_path / ".lock"
        script = f"""
import os, time
from pathlib import Path
from utils.folder_lock import FolderLock
FolderLock(Path({str(lock)!r})).acquire()
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), 9)
"""
        run = subprocess.Popen(
            [sys.executable, "-c", script], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
        )
        child = int(run.stdout.readline())
        try:
            run.wait()
            again = FolderLock(lock)
            again.acquire()
            again.release()
        finally:
            os.kill(child, signal.SIGKILL)
            run.stdout.close()

    @pytest.mark.parametrize(
        ("pid", "host", "free"), [(None, None, False), (2**22 + 1, None, True), (1, "x", False)]
    )
    def test_without_locks_in_the_file_system_the_text_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: int | None, host: str | None, free: bool
    ) -> None:
        monkeypatch.setattr(FolderLock, "_lock", staticmethod(lambda descriptor: None))
        file = tmp_path / ".lock"
        owner = {"pid": pid or os.getppid(), "host": host or os.uname().nodename}
        file.write_text(json.dumps(owner))
        lock = FolderLock(file)
        if free:
            lock.acquire()
            lock.release()
            return
        with pytest.raises(UserError, match=r"if that process is gone, delete .*\.lock"):
            lock.acquire()
        assert json.loads(file.read_text()) == owner

    @pytest.mark.parametrize(
        ("job", "restarts", "free"), [("7", "1", True), ("7", "0", False), ("8", "1", False)]
    )
    def test_without_locks_a_requeued_slurm_job_takes_its_folder_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, restarts: str, free: bool
    ) -> None:
        monkeypatch.setattr(FolderLock, "_lock", staticmethod(lambda descriptor: None))
        file = tmp_path / ".lock"
        file.write_text(json.dumps({"pid": 1, "host": "x", "slurm_job": "7", "slurm_restarts": "0"}))
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        lock = FolderLock(file)
        if not free:
            with pytest.raises(UserError, match="in use by process 1 on x"):
                lock.acquire()
            return
        lock.acquire()
        assert json.loads(file.read_text())["slurm_restarts"] == "1"
        lock.release()
