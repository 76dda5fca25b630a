"""A run that was killed, stopped or lost its newest snapshot ends with the bits of the run that was not."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import train_ms
from tests.distributed.launching import REPOSITORY, command_line, environment, run_processes
from tests.official_formats import write_cityscapes, write_gta5
from utils import snapshots
from utils.runs import DONE, PREEMPTED

ITERATIONS = 12
SIZE = (64, 48)
WORDS = (
    "--backbone resnet18_quarter --backbone-weights none --head-channels 8 --bottleneck-channels 8 "
    "--droprate 0.5 --class-balance --often-balance --only-hard-label 50 "
    "--lambda-kl-target 0.1 --target-terms-start 3 "
    "--input-size 64,48 --input-size-target 64,48 --crop-size 48,32 --batch-size 2 --num-workers 1 "
    f"--learning-rate 0.001 --warm-up 4 --num-steps 20 --num-steps-stop {ITERATIONS} --ema-decay 0.9 "
    "--log-every 1 --save-every 2 --keep-snapshots 20 --device cpu --no-tensorboard"
).split()  # dropout, class memory, teacher, discriminators, a loader process per domain: all that has a state


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five source images and three target images; the target has no label anywhere."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 5, SIZE)
    write_cityscapes(root, 3, SIZE, labelled=False)
    return root


def words(data: Path, folder: Path) -> list[str]:
    return [*WORDS, "--data-root", str(data), "--snapshot-dir", str(folder)]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of one process; it saves every iteration, which must change nothing."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert train_ms.main([*words(data, folder), "--save-every", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("together") / "run"
    run_processes(2, ["train_ms.py", *words(data, folder), "--save-every", "1"])
    return folder


@contextmanager
def started(n: int, arguments: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """train_ms.py in n processes; nothing of it is left at the end."""
    program = ["train_ms.py", *arguments]
    command = command_line(n, program) if n > 1 else [sys.executable, *program]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()  # torchrun passes it on: killed itself, it would leave its processes behind
        process.communicate()


def wait_for_iteration(folder: Path, iteration: int, process: subprocess.Popen[bytes]) -> None:
    """Returns as soon as the run has logged that many updates."""
    deadline = time.monotonic() + 120
    while logged_iterations(folder)[-1:] < [iteration]:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline, "the run does not come to its iterations"
        time.sleep(0.005)


def logged_iterations(folder: Path) -> list[int]:
    file = folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line)["iteration"] for line in lines]


def process_of_rank(launcher: int, rank: int) -> int:
    """Process id of a rank that this launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    return next(
        int(pid) for pid in children if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    )


def finished_state(folder: Path) -> dict[str, Any]:
    assert (folder / DONE).exists()
    assert not (folder / PREEMPTED).exists()
    return state_after(folder, ITERATIONS)


def state_after(folder: Path, iteration: int) -> dict[str, Any]:
    state = snapshots.read(folder / f"iteration_{iteration:07d}.pth")
    assert state["iteration"] == iteration
    return {name: value for name, value in state.items() if name != "arguments"}


def assert_same(ours: Any, theirs: Any, place: str = "snapshot") -> None:
    """Equal structure and equal bits."""
    assert type(ours) is type(theirs), place
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(theirs, Mapping):
        assert list(ours) == list(theirs), place
        for name, value in theirs.items():
            assert_same(ours[name], value, f"{place}/{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for number, value in enumerate(theirs):
            assert_same(ours[number], value, f"{place}/{number}")
    else:
        assert ours == theirs, place


def test_killed_process(data: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(1, words(data, folder)) as process:
        wait_for_iteration(folder, 5, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (folder / DONE).exists()
    assert train_ms.main(words(data, folder)) == 0
    assert_same(finished_state(folder), finished_state(alone))
    assert logged_iterations(folder) == list(range(1, ITERATIONS + 1))


def test_stop_signal(data: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(1, words(data, folder)) as process:
        wait_for_iteration(folder, 3, process)
        process.terminate()
        assert process.wait() == 0
    assert "SIGTERM" in (folder / PREEMPTED).read_text()
    assert not (folder / DONE).exists()
    assert train_ms.main(words(data, folder)) == 0
    assert_same(finished_state(folder), finished_state(alone))


def test_truncated_newest_snapshot(
    data: Path, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    (folder / DONE).unlink()
    newest = folder / f"iteration_{ITERATIONS:07d}.pth"
    os.truncate(newest, newest.stat().st_size // 2)
    with caplog.at_level(logging.INFO):
        assert train_ms.main(words(data, folder)) == 0
    assert f"{newest} is cut off" in caplog.text
    assert f"(iteration {ITERATIONS - 1})" in caplog.text
    assert_same(finished_state(folder), finished_state(alone))


def test_killed_rank_of_two(data: Path, together: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(2, words(data, folder)) as launcher:
        wait_for_iteration(folder, 5, launcher)
        os.kill(process_of_rank(launcher.pid, 1), signal.SIGKILL)
        assert launcher.wait(timeout=60) != 0
    assert not (folder / DONE).exists()
    run_processes(2, ["train_ms.py", *words(data, folder)])
    assert_same(finished_state(folder), finished_state(together))
    assert logged_iterations(folder) == list(range(1, ITERATIONS + 1))


def test_stop_signal_to_the_launcher_of_two(data: Path, together: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with started(2, words(data, folder)) as launcher:
        wait_for_iteration(folder, 3, launcher)
        launcher.terminate()
        launcher.wait(timeout=60)
    assert "SIGTERM" in (folder / PREEMPTED).read_text()
    assert not (folder / DONE).exists()
    newest = snapshots.read(snapshots.resolve(folder))["iteration"]
    assert 3 <= newest < ITERATIONS
    assert_same(state_after(folder, newest), state_after(together, newest))
