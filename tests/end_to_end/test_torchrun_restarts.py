"""torchrun alone: with --max-restarts a run survives a rank that dies, on one node and on two, and ends with
the bits of the run that lost nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.batch_runs import DEMO, ITERATIONS, SOURCE_ONLY, last_state, logged, starts
from tests.distributed.launching import run_processes, torchruns
from tests.forked_runs import assert_same
from utils.runs import DONE

TIMEOUT_S = 400


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A training of some iterations with a snapshot after every second one."""
    data = tmp_path_factory.mktemp("restarts") / "data"
    run_processes(1, ["prepare_data.py", "demo", str(data), *DEMO], timeout=900)
    return ["train_source.py", *SOURCE_ONLY, "--data-root", str(data), "--save-every", "2"]


@pytest.fixture(scope="module")
def untouched(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that loses nobody."""
    folder = tmp_path_factory.mktemp("untouched") / "run"
    run_processes(2, [*words, "--snapshot-dir", str(folder)], timeout=TIMEOUT_S)
    return folder


def process_of_rank(launchers: Sequence[subprocess.Popen[bytes]], rank: int) -> int:
    """Process id of a rank."""
    for launcher in launchers:
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return int(pid)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.long  # tests/distributed/test_distributed_restarted_processes.py is the everyday one
@pytest.mark.parametrize("nodes", [1, 2])
def test_run_goes_on_after_a_rank_died(nodes: int, words: list[str], untouched: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "output"
    deadline = time.monotonic() + TIMEOUT_S
    command = [*words, "--snapshot-dir", str(folder)]
    with torchruns(nodes, command, output, restarts=1) as launchers:
        while logged(folder)[-1:] < [3]:
            assert time.monotonic() < deadline, output.read_text()
            assert launchers[0].poll() is None, output.read_text()
            time.sleep(0.02)
        os.kill(process_of_rank(launchers, 1), signal.SIGKILL)
        codes = [launcher.wait(timeout=TIMEOUT_S) for launcher in launchers]
    assert codes == [0] * nodes, output.read_text()
    assert (folder / DONE).exists()
    assert len(starts(folder)) == 2
    assert_same(last_state(folder), last_state(untouched))
    assert logged(folder) == list(range(1, ITERATIONS + 1))
