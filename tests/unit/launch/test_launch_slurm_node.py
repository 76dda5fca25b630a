"""launch/slurm/node.sh: what every node does before torchrun, with a stand-in for python."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def node(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs node.sh on 64 cores with a stand-in for python, which prints its threads and words."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, line in (("python", 'printf "%s\\n" "threads $OMP_NUM_THREADS" "$@"'), ("nproc", "echo 64")):
        (folder / "bin" / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    (folder / "environment.sh").touch()
    environment = {
        **{"SEGADAPT_HOME": str(REPOSITORY), "SLURM_JOB_ID": "41", "SLURM_JOB_NUM_NODES": "2"},
        **{"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "SEGADAPT_ENV": str(folder / "environment.sh")},
        **{"SLURM_NODEID": "0", "SLURMD_NODENAME": "n1", "MASTER_ADDR": "n1", "MASTER_PORT": "1"},
        **variables,
    }
    command = ["bash", str(REPOSITORY / "launch" / "slurm" / "node.sh"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_data_are_staged_where_only_this_user_writes(tmp_path: Path) -> None:
    subprocess.run(["tar", "-cf", "data.tar", "-T", "/dev/null"], cwd=tmp_path, check=True)
    local = tmp_path / "a & b"
    variables = {"SEGADAPT_ARCHIVE": "data.tar", "SEGADAPT_LOCAL_DIR": str(local)}
    staged = local / "segadapt-41-n1"
    for _ in range(2):  # again: a requeued job finds its folder
        done = node(tmp_path, "train_ms.py", "--x={data}/y", **variables)
        assert done.stdout.splitlines()[-2:] == ["train_ms.py", f"--x={staged}/y"], done.stderr
        assert staged.stat().st_mode & 0o777 == 0o700
    assert node(tmp_path, "--remove-staged-data", **variables).returncode == 0
    assert not staged.exists()
    (tmp_path / "elsewhere").mkdir()
    staged.symlink_to(tmp_path / "elsewhere")
    done = node(tmp_path, "train_ms.py", **variables)
    assert done.returncode == 2
    assert "somebody else's" in done.stderr


@pytest.mark.parametrize(
    ("cores", "gpus", "threads", "warning"),
    [
        ("32", "4", "4", ""),
        ("6", "2", "3", "warning"),
        ("32", "0", "32", ""),
        ("96", "0", "64", "bound"),
    ],
)
def test_processes_share_all_cores_of_the_job(
    cores: str, gpus: str, threads: str, warning: str, tmp_path: Path
) -> None:
    variables = {"SLURM_CPUS_ON_NODE": cores, "SLURM_CPUS_PER_TASK": "8", "SLURM_GPUS_ON_NODE": gpus}
    done = node(tmp_path, "train_ms.py", **variables)
    assert done.stdout.splitlines()[0] == f"threads {threads}"
    assert warning in done.stderr
    assert bool(done.stderr) == bool(warning)


def test_script_that_cannot_share_its_work_runs_once(tmp_path: Path) -> None:
    variables = {"SLURM_CPUS_ON_NODE": "32", "SLURM_GPUS_ON_NODE": "4", "SEGADAPT_PROCESSES": "3"}
    words = node(tmp_path, "--one-process", "annotate.py", "x", **variables).stdout.splitlines()
    assert words[words.index("--nproc-per-node") + 1] == "1"
    assert words[-2:] == ["annotate.py", "x"]
