"""torchrun alone: with --max-restarts a run survives a rank that dies, on one node and on two, and ends with
the bits of the run that lost nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.batch_runs import DEMO, ITERATIONS, SOURCE_ONLY, last_state, logged, starts
from tests.distributed.launching import REPOSITORY, environment, free_port, run_processes
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


@contextmanager
def torchruns(nodes: int, words: Sequence[str], output: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes under one torchrun or two of one process each; nothing of them is left at the end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes), "--max-restarts", "1"]
    launcher += ["--nproc-per-node", str(2 // nodes), "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port())]
    with output.open("wb") as file:
        launchers = [
            subprocess.Popen(
                [*launcher, "--node-rank", str(node), *words],
                cwd=REPOSITORY,
                env=environment(),
                stdout=file,
                stderr=file,
            )
            for node in range(nodes)
        ]
    try:
        yield launchers
    finally:
        for process in launchers:
            process.terminate()
        for process in launchers:
            process.wait()


def process_of_rank(launchers: Sequence[subprocess.Popen[bytes]], rank: int) -> int:
    """Process id of a rank."""
    for launcher in launchers:
        for pid in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return int(pid)
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.long  # on a busy machine restarted processes may miss each other, once in a while
@pytest.mark.parametrize("nodes", [1, 2])
def test_run_goes_on_after_a_rank_died(nodes: int, words: list[str], untouched: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "run", tmp_path / "output"
    deadline = time.monotonic() + TIMEOUT_S
    with torchruns(nodes, [*words, "--snapshot-dir", str(folder)], output) as launchers:
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
