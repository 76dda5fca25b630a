"""The cluster that the tests of the batch scripts share; they run under `make test-slurm` only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch_runs import DEMO
from tests.distributed.launching import REPOSITORY, run_processes
from tests.slurm.cluster import Cluster, missing_programs

SWITCH = "SEGADAPT_TEST_SLURM"


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program in a path with spaces, with an environment where users have theirs."""
    folder = tmp_path_factory.mktemp("a user") / "my check out"
    left_out = (
        ".*",
        "runs",
        "demo",
        "data",
        "datasets",
        "tests",
        "docs",
        "benchmarks",
        "build",
        "__pycache__",
        "*.log",
    )
    shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns(*left_out))
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH="{Path(sys.executable).parent}:$PATH"\n')
    return folder


@pytest.fixture(scope="session")
def demo_data(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo city."""
    folder = tmp_path_factory.mktemp("demo city") / "data"
    run_processes(1, ["prepare_data.py", "demo", str(folder), *DEMO], timeout=900)
    return folder


@pytest.fixture(scope="session")
def cluster(checkout: Path) -> Iterator[Cluster]:
    """Two idle nodes with two fake GPUs each."""
    if not os.environ.get(SWITCH):
        pytest.skip("tests on a real Slurm: make test-slurm sets it up and runs them")
    if missing := missing_programs():
        pytest.fail(f"not installed: {', '.join(missing)}; make test-slurm installs them on Debian")
    folder = Path(
        tempfile.mkdtemp(prefix="slurm")
    )  # sockets and Slurm's own paths are short and without spaces
    folder.chmod(0o755)
    cluster = Cluster(folder, checkout)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        if os.environ.get("SEGADAPT_KEEP_SLURM"):
            print(f"logs of the cluster: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
