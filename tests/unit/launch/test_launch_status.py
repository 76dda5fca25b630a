"""The states of runs as their folders show them."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from launch import status
from tests.distributed.launching import REPOSITORY
from tests.toy_training import run_in
from utils import folder_lock
from utils.errors import RunStopped
from utils.folder_lock import FolderLock, holder
from utils.runs import DONE, LOCK_FILE, PREEMPTED, WAITING_FOR_LABELS


def write_run(folder: Path, *, log: str = "", last: int = 30, **settings: Any) -> Path:
    """A folder with log lines of every tenth iteration, two iterations a second, and a snapshot at 20."""
    folder.mkdir(parents=True)
    arguments = {"script": "train_ms.py", "num_steps_stop": 100, **settings}
    start = {"host": "node1", "world_size": 4, "time": "2026-01-01 00:00:00"}
    (folder / "arguments.json").write_text(json.dumps({"arguments": arguments, "starts": [start, start]}))
    lines = [{"iteration": i, "time/seconds": 5.0, "loss": 1.0} for i in range(10, last + 1, 10)]
    lines.insert(1, {"iteration": 10, "val/miou": 41.25})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"iteration": 40, "ti')  # being written
    (folder / "log.txt").write_text(log)
    (folder / "iteration_0000020.pth").touch()
    (folder / LOCK_FILE).touch()
    return folder


def mark(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(json.dumps({"text": text}))


def test_a_run_whose_folder_is_locked_is_running(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    lock = FolderLock(folder / LOCK_FILE)
    lock.acquire()
    found = status.read_status(folder)
    lock.release()
    assert (found.state, found.iteration, found.stop, found.snapshot) == ("running", 30, 100, 20)
    assert (found.rate, found.left_s, found.miou, found.starts) == (2.0, 35.0, 41.25, 2)
    assert status.read_status(folder).state == "died"


def test_the_lock_of_another_process_is_seen_and_stays(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from utils.folder_lock import FolderLock\n"
        "FolderLock(Path(sys.argv[1])).acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    path = tmp_path / LOCK_FILE
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "locked\n"
        for _ in range(2):
            assert holder(path)["pid"] == process.pid
        process.stdin.close()
    assert holder(path) is None
    assert holder(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("name", "state"), [(DONE, "done"), (PREEMPTED, "preempted"), (WAITING_FOR_LABELS, "waiting")]
)
def test_marks_say_how_a_run_ended(tmp_path: Path, name: str, state: str) -> None:
    folder = write_run(tmp_path / "run")
    mark(folder, name, "iteration 30, SIGTERM")
    found = status.read_status(folder)
    assert (found.state, found.why, found.left_s) == (state, "iteration 30, SIGTERM", None)


def test_the_error_that_ended_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunStopped), run_in(tmp_path / "run"):
        raise RunStopped("loss/seg is not finite\nat iteration 7")
    found = status.read_status(tmp_path / "run")
    assert found.state == "died"
    assert found.why == "RunStopped: loss/seg is not finite at iteration 7"


def test_an_error_of_an_earlier_start_is_not_told(tmp_path: Path) -> None:
    log = "t ERROR ended by UserError: old\nt INFO run folder x, 1 process(es) on cpu\nt INFO iter 1/2\n"
    found = status.read_status(write_run(tmp_path / "run", log=log))
    assert found.why.startswith("without a word")


def test_runs_are_searched_below_a_root_and_damage_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = write_run(tmp_path / "a" / "one")
    mark(done, DONE, "iteration 100")
    write_run(tmp_path / "two words")
    damaged = write_run(tmp_path / "damaged")
    (damaged / "arguments.json").write_text("[" * 100_000)
    shutil.copytree(done, done / "queries" / "inside")  # not looked into
    assert status.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "30/100" in lines[1]
    assert "unreadable" in lines[2]
    assert status.main(["--json", "--state", "died", "--state", "done", str(tmp_path), str(done)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["state"] for entry in found] == ["done", "died"]
    assert found[0]["processes"] == 4


@pytest.mark.parametrize("text", ["[1]", "{}", '{"pid": "1"}', "[" * 4000, '{"pid": 1e999}', "\\xff"])
def test_a_lock_file_with_anything_in_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    folder = write_run(tmp_path / "run")
    (folder / LOCK_FILE).write_text(text)
    monkeypatch.setattr(folder_lock, "_is_locked", lambda descriptor: None)  # the text decides
    assert status.read_status(folder).state == "died"
    lock = FolderLock(folder / LOCK_FILE)
    lock.acquire()
    lock.release()
    (folder / LOCK_FILE).unlink()
    (folder / LOCK_FILE).mkdir()
    assert status.read_status(folder).state == "died"


def test_numbers_without_a_size_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", num_steps_stop=float("inf"))
    with (folder / "metrics.jsonl").open("w") as file:
        file.write('{"iteration": 10, "time/seconds": Infinity}\n{"iteration": 1' + "0" * 400 + "}\n")
    found = status.read_status(folder)
    assert (found.iteration, found.stop, found.rate) == (20, None, None)
    assert status.format_table([found])


def test_folders_without_rights_are_passed_over() -> None:
    program = (
        "import os, sys; from pathlib import Path; from launch import status\n"
        "os.geteuid() == 0 and os.seteuid(65534)\n"
        "print([str(run) for run in status.find_runs([Path(sys.argv[1])])])\n"
        "for name in 'closed', 'closed/below':\n"
        "    try: status.find_runs([Path(sys.argv[1]) / name])\n"
        "    except status.UserError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        open_run = write_run(root / "open")
        for folder, rights in (("closed", 0), ("listed", 0o444)):
            write_run(root / folder)
            (root / folder).chmod(rights)
        done = subprocess.run(
            [sys.executable, "-c", program, name], cwd=REPOSITORY, capture_output=True, text=True
        )
        for folder in ("closed", "listed"):
            (root / folder).chmod(0o755)
    found, closed, below = done.stdout.splitlines()
    assert found == str([str(open_run)])
    assert "no run below" in closed
    assert "cannot be read" in below


def run_elsewhere(folder: Path, **owner: Any) -> Path:
    """A run whose lock is not seen; its file names a process of another machine and was touched just now."""
    write_run(folder)
    (folder / LOCK_FILE).write_text(json.dumps({"host": "node-b", "pid": 7, **owner}))
    return folder


def test_a_run_of_another_machine_whose_lock_is_not_seen_may_be_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_elsewhere(tmp_path / "run")
    found = status.read_status(folder)
    assert (found.state, found.host, found.left_s) == ("running?", "node-b", 35.0)
    assert found.why.startswith(".lock names process 7 on node-b and was touched 0:00:0")
    assert found.why.endswith("it runs there, or was just killed or copied")
    assert status.main(["--state", "running?", str(tmp_path)]) == 0
    assert "running?" in capsys.readouterr().out
    earlier = time.time() - folder_lock.RECENT_S - 1
    os.utime(folder / LOCK_FILE, (earlier, earlier))
    assert status.read_status(folder).state == "died"


def test_a_run_that_left_its_mark_but_not_its_lock_is_preempted(tmp_path: Path) -> None:
    folder = run_elsewhere(tmp_path / "run")
    mark(folder, PREEMPTED, "iteration 30, SIGTERM")
    assert status.read_status(folder).state == "preempted"


def test_a_killed_run_of_this_machine_died_at_once(tmp_path: Path) -> None:
    folder = run_elsewhere(tmp_path / "run", host=socket.gethostname())
    assert status.read_status(folder).state == "died"


NASTY = "red \x1b[31m\nsecond\r line\x9b1m\u202e\ud800 end"


@pytest.mark.parametrize("name", [DONE, PREEMPTED, WAITING_FOR_LABELS, "log.txt", "arguments.json", "place"])
def test_every_run_is_one_line_whatever_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = write_run(tmp_path / ("a\x1b[31m\nb" if name == "place" else "run"), script=NASTY)
    if name == "log.txt":
        (folder / name).write_text("t ERROR ended by Error: \x1b[31m red\n")
    elif name == "arguments.json":
        (folder / name).write_text(json.dumps({"arguments": {"script": NASTY}, "starts": [{"host": NASTY}]}))
    elif name != "place":
        mark(folder, name, NASTY)
    assert status.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)
    assert status.read_status(folder).script == "red [31m second line 1m end"


@pytest.mark.parametrize("text", [{"a": 1}, ["a"], 7, None])
def test_values_of_other_kinds_are_left_out(tmp_path: Path, text: object) -> None:
    folder = write_run(tmp_path / "run", script=text)
    start = {"host": text, "world_size": {"a": 1}}
    (folder / "arguments.json").write_text(
        json.dumps({"arguments": {"num_steps_stop": 0, "script": text}, "starts": [start]})
    )
    (folder / DONE).write_text(json.dumps({"text": text}))
    found = status.read_status(folder)
    assert (found.host, found.processes, found.script, found.why) == (None, None, None, "")
    assert "? on ?" in status.format_table([found])
    assert " 30/0 " in status.format_table([found])


def test_a_score_of_nothing_is_a_score(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("w") as file:
        file.write('{"iteration": 10, "val/miou": 30.0}\n{"iteration": 20, "val/miou": 0.0}\n')
        file.write('{"iteration": 30, "val/miou": "high"}\n')
    found = status.read_status(folder)
    assert found.miou == 0
    assert " 0.00 " in status.format_table([found])


def test_long_logs_are_read_from_their_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", last=0)
    line = json.dumps({"iteration": 7, "time/seconds": 1.0, "loss": 0.5}) + "\n"
    with (folder / "metrics.jsonl").open("w") as file:
        file.write(line * 20_000)
        file.write('{"iteration": 4321, "time/seconds": 1.0}\n{"iteration": 5000, "time/sec')
    parsed = []
    real = json.loads
    monkeypatch.setattr(status.json, "loads", lambda text: parsed.append(text) or real(text))
    assert status.read_status(folder).iteration == 4321
    assert len(parsed) < 5 * status.RATE_LINES


def test_the_newest_score_is_found_far_before_the_newest_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", last=0)
    line = json.dumps({"iteration": 7, "time/seconds": 1.0}) + "\n"
    with (folder / "metrics.jsonl").open("w") as file:
        file.write('{"iteration": 5, "val/miou": 1.5}\n{"iteration": 6, "val/miou": 2.5}\n' + line * 500)
    assert status.read_status(folder).miou == 2.5


def test_an_entry_that_cannot_be_asked_does_not_hide_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = write_run(tmp_path / "here")
    (tmp_path / "lost").mkdir()
    real = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path.name == "lost":
            raise OSError(116, "Stale file handle")
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert status.find_runs([tmp_path]) == [here]


def test_a_folder_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 2
    assert "no run below" in capsys.readouterr().err
    assert status.main([str(tmp_path / "absent")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_it_imports_no_torch() -> None:
    program = "import sys, launch.status; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, env=environment).returncode == 0
