"""Runs a Python program as several gloo processes on this machine, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_LAUNCH_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
)  # fmt: skip


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command_line(n: int, args: list[str]) -> list[str]:
    """The command that starts `args` (a script and its arguments) n times under torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(n)]
    return [*launcher, "--master-addr", "127.0.0.1", "--master-port", str(free_port()), *args]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """One thread per process, no GPU, our packages importable, and no launch of an outer process."""
    inherited = {name: value for name, value in os.environ.items() if name not in _LAUNCH_VARIABLES}
    path = os.pathsep.join(filter(None, [str(REPOSITORY), inherited.get("PYTHONPATH")]))
    fixed = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}
    return {**inherited, **fixed, **(extra or {})}


def run_processes(
    n: int,
    args: list[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Runs `args` (a script and its arguments) in the repository as n processes and waits for them.

    Args:
        n: number of processes; with 1 the script runs without a launcher.
        env: variables on top of the present environment.
        timeout: in seconds; all processes are killed after it.
        check: fail, with the output, unless the exit code is 0.

    Returns:
        Exit code and the captured output; under torchrun the code is 1 whatever the processes returned.
    """
    command = command_line(n, args) if n > 1 else [sys.executable, *args]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        raise AssertionError(f"{command} took over {timeout} s:\n{output}\n{errors}") from None
    if check:
        assert process.returncode == 0, f"{command} returned {process.returncode}:\n{output}\n{errors}"
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


@contextmanager
def torchruns(
    nodes: int, words: Sequence[str], output: Path, *, restarts: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes under one torchrun, or under two of one process each; nothing of them is left at the end.

    Args:
        nodes: 1 or 2.
        words: a script and its arguments.
        output: file for what all of them write.
        restarts: how often a torchrun starts its processes again.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)]
    launcher += ["--max-restarts", str(restarts), "--nproc-per-node", str(2 // nodes)]
    launcher += ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
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
