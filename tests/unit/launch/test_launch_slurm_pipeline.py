"""launch/slurm/pipeline.sh: the jobs of a chain, with a stand-in for sbatch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


def chain(folder: Path, results: str, *sections: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Submits a chain; every line of stderr is a submission: SEGADAPT_AFTER, inherited variables, words."""
    (folder / "bin").mkdir()
    sbatch = folder / "bin" / "sbatch"
    sbatch.write_text(
        "#!/bin/bash\n[[ -z ${FAILS-} || $* != *--job-name=$FAILS* ]] || exit 1\n"
        'echo "[$SEGADAPT_AFTER] [$SEGADAPT_HOME] [${!SLURM_*}] $*" >&2\n'
        "echo x >>calls; echo $((100 + $(wc -l <calls)))\n"
    )
    sbatch.chmod(0o755)
    return subprocess.run(
        [str(REPOSITORY / "launch" / "slurm" / "pipeline.sh"), "gta5_to_cityscapes", results, *sections],
        cwd=folder,
        env={"PATH": f"{sbatch.parent}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
    )


def test_chain_that_cannot_be_submitted_whole_says_how_to_withdraw_it(tmp_path: Path) -> None:
    done = chain(tmp_path, "runs", FAILS="stage_two")
    assert done.returncode == 1
    assert done.stderr.count(f"[{REPOSITORY}]") == 2
    assert "scancel 101 102\n" in done.stderr


def test_chain_that_starts_inside_a_job_is_none_of_its(tmp_path: Path) -> None:
    users = {"SLURM_CONF": "x", "SLURM_CLUSTERS": "y", "SLURM_JWT": "z"}
    done = chain(tmp_path, "runs", SLURM_ARRAY_JOB_ID="7", SLURM_JOB_ID="8", **users)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" [SLURM_CLUSTERS SLURM_CONF SLURM_JWT] ") == 4


def test_chain_outside_a_job_keeps_the_users_variables(tmp_path: Path) -> None:
    done = chain(tmp_path, "runs", SLURM_EXIT_ERROR="9", SLURM_JWT="z")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" [SLURM_EXIT_ERROR SLURM_JWT] ") == 4


def test_chain_of_arrays_follows_task_by_task(tmp_path: Path) -> None:
    done = chain(tmp_path, "runs/{seed}", "sbatch:", "--array", "0-2")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [f"--dependency=aftercorr:{100 + place}" in lines[place] for place in (1, 2, 3)] == [True] * 3
    assert all(" --kill-on-invalid-dep=yes " in line for line in lines[1:])
    assert lines[3].startswith("[runs/{seed}/stage_two] ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("results", "sections", "message"),
    [
        ("runs/{seed}", [], "say sbatch: --array 0-2"),
        ("runs", ["sbatch:", "--array=0-2"], "for example runs/{seed}"),
        ("runs/{seed}", ["sbatch-training:", "--array=0-2"], "say sbatch: --array=0-2"),
    ],
)
def test_array_and_folders_must_fit(results: str, sections: list[str], message: str, tmp_path: Path) -> None:
    done = chain(tmp_path, results, *sections)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
