"""What else a user of a batch queue does: arrays of seeds, chains, archives, containers, mistakes, people."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from tests.batch_runs import SMALL, SOURCE_ONLY, WITH_PEOPLE, logged, starts
from tests.slurm.cluster import Cluster, wait_for

pytestmark = [pytest.mark.slurm]
ONE_GPU = ("--gpus-per-node=1",)
SHORT = ("--num-steps-stop", "2")


def test_array_runs_one_seed_per_task(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    words = [*SOURCE_ONLY, *SHORT, "--data-root", str(demo_data), "--snapshot-dir", str(tmp_path / "run")]
    job = cluster.submit("train_source.py", *words, options=[*ONE_GPU, "--array=0-2"])
    for seed in range(3):
        cluster.wait(f"{job}_{seed}", {"COMPLETED"})
        record = json.loads((tmp_path / f"run-seed{seed}" / "arguments.json").read_text())
        assert record["arguments"]["seed"] == seed
        assert (tmp_path / f"run-seed{seed}" / "DONE").exists()


def test_default_run_folder_and_logs_of_every_rank(cluster: Cluster, demo_data: Path) -> None:
    words = [*SOURCE_ONLY, *SHORT, "--data-root", str(demo_data), "--seed", "5"]
    job = cluster.submit(
        "train_source.py", *words, options=["--nodes=2", "--gpus-per-node=2"], SEGADAPT_RANK_LOGS="1"
    )
    cluster.wait(job, {"COMPLETED"})
    folder = cluster.submit_folder / "runs" / "train_source-seed5"
    assert (folder / "DONE").exists()
    assert Path(cluster.submit_folder / f"segadapt-{job}.log").exists()
    logs = list((folder / "rank_logs").rglob("stderr.log"))
    assert len(logs) == 4
    assert sum("iter 2/2" in file.read_text() for file in logs) == 1  # rank 0 speaks


def test_without_gpus_one_process_runs_on_the_cpus(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    words = [*SOURCE_ONLY, *SHORT, "--data-root", str(demo_data), "--snapshot-dir", str(tmp_path / "run")]
    words[words.index("--device") + 1] = "auto"
    job = cluster.submit("train_source.py", *words, options=["--gpus-per-node=0"])
    cluster.wait(job, {"COMPLETED"})
    assert [(start["world_size"], start["device"]) for start in starts(tmp_path / "run")] == [(1, "cpu")]


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """Where a chain of a few iterations finds its recipes, without their endings."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    small = " ".join(SMALL[: SMALL.index("--num-steps")])
    common = f"{small} --num-steps 3 --warm-up 1 --log-every 1 --no-tensorboard --target cityscapes\n"
    (folder / "toy_mrnet.args").write_text(common + "--source gta5 --lambda-kl-target 0.1\n")
    (folder / "toy_rectified.args").write_text(
        common.replace("--backbone-weights none", "") + "--lambda-adv-target1 0 --lambda-adv-target2 0\n"
    )
    return folder / "toy"


def submit_chain(cluster: Cluster, *words: str) -> list[str]:
    """Submits a pipeline; the ids of its four jobs, of which three wait."""
    output = cluster.command("launch/slurm/pipeline.sh", *words)
    jobs = [line.split()[0] for line in output.splitlines() if line[:1].isdigit()]
    assert len(jobs) == 4, output
    cluster.jobs += jobs
    assert [cluster.show(job, "JobState") for job in jobs[1:]] == ["PENDING"] * 3
    return jobs


def test_chain_of_the_whole_pipeline(
    cluster: Cluster, demo_data: Path, recipes: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "the pipeline"
    jobs = submit_chain(
        cluster,
        *(str(recipes), str(folder)),
        *("all:", "--data-root", str(demo_data), "--device", "cpu"),
        *("target:", "cityscapes"),
        *("sbatch:", "--gpus-per-node=1"),
        *("sbatch-training:", "--gpus-per-node=2"),
    )
    for job in jobs:
        cluster.wait(job, {"COMPLETED"})
    assert [start["world_size"] for start in starts(folder / "stage_two")] == [2]
    assert len(json.loads((folder / "scores.json").read_text())["runs"]) == 2


def test_chain_for_every_seed(cluster: Cluster, demo_data: Path, recipes: Path, tmp_path: Path) -> None:
    jobs = submit_chain(
        cluster,
        *(str(recipes), str(tmp_path / "runs" / "seed {seed}")),
        *("all:", "--data-root", str(demo_data), "--device", "cpu"),
        *("target:", "cityscapes"),
        *("sbatch:", "--gpus-per-node=1", "--array=0-1"),
    )
    for job in jobs:
        for seed in range(2):
            cluster.wait(f"{job}_{seed}", {"COMPLETED"})
    for seed in range(2):
        folder = tmp_path / "runs" / f"seed {seed}"
        assert len(json.loads((folder / "scores.json").read_text())["runs"]) == 2
        for stage in ("stage_one", "stage_two"):
            record = json.loads((folder / stage / "arguments.json").read_text())
            assert record["arguments"]["seed"] == seed
    assert not (tmp_path / "runs" / "seed {seed}").exists()


def test_chain_stops_at_a_stage_that_fails(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    words = [*SOURCE_ONLY, "--data-root", str(tmp_path / "nothing"), "--snapshot-dir", str(tmp_path / "run")]
    job = cluster.submit("train_source.py", *words, options=ONE_GPU)
    options = [*ONE_GPU, f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]
    follower = cluster.submit("evaluate.py", str(tmp_path / "run"), options=options)
    cluster.wait(job, {"FAILED"})
    assert cluster.show(job, "Restarts") == "0"
    log = cluster.log(job)
    assert "error: " in log
    assert "failed with exit code" in log
    cluster.wait(follower, {"CANCELLED"})


def test_archive_is_unpacked_on_each_node_and_removed(
    cluster: Cluster, demo_data: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "the data.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(demo_data / "gta5", "gta5")
        tar.add(demo_data / "cityscapes", "cityscapes")
    local = tmp_path / "local disk"
    local.mkdir()
    words = [*SOURCE_ONLY, *SHORT, "--snapshot-dir", str(tmp_path / "run")]
    options = ["--nodes=2", "--gpus-per-node=1"]
    variables = {"SEGADAPT_ARCHIVE": str(archive), "SEGADAPT_LOCAL_DIR": str(local)}
    job = cluster.submit("train_source.py", *words, options=options, **variables)
    cluster.wait(job, {"COMPLETED"})
    for node in ("n1", "n2"):
        assert f"data in {local}/segadapt-{job}-{node}" in cluster.log(job)
    assert list(local.iterdir()) == []


def test_container_gets_the_command_and_the_folders(
    cluster: Cluster, demo_data: Path, tmp_path: Path
) -> None:
    runtime = tmp_path / "bin" / "apptainer"  # a stand-in: it notes its options and runs the command outside
    runtime.parent.mkdir()
    runtime.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" >"' + str(tmp_path / "options") + '"\n'
        'while [[ $1 != *.sif ]]; do shift; done; shift\nexec "$@"\n'
    )
    runtime.chmod(0o755)
    words = [*SOURCE_ONLY, *SHORT, "--data-root", str(demo_data), "--snapshot-dir", str(tmp_path / "run")]
    activate = cluster.submit_folder / ".venv" / "bin" / "activate"
    environment = tmp_path / "environment.sh"
    environment.write_text(activate.read_text() + f'export PATH="{runtime.parent}:$PATH"\n')
    variables = {
        "SEGADAPT_CONTAINER": "image.sif",
        "SEGADAPT_ENV": str(environment),
        "SEGADAPT_MOUNTS": "/data",
    }
    job = cluster.submit("train_source.py", *words, options=ONE_GPU, **variables)
    cluster.wait(job, {"COMPLETED"})
    options = (tmp_path / "options").read_text().splitlines()
    folder = str(cluster.submit_folder)
    expected = ["exec", "--bind", folder, "--bind", folder, "--bind", "/data", "--nv", "image.sif", "python"]
    assert options[: len(expected)] == expected


def test_run_that_waits_for_people_is_not_requeued(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    place = ["--data-root", str(demo_data), "--snapshot-dir", str(tmp_path / "run")]
    job = cluster.submit("train_al.py", *WITH_PEOPLE, *place, options=ONE_GPU)
    cluster.wait(job, {"COMPLETED"})
    assert (tmp_path / "run" / "WAITING_FOR_LABELS").exists()
    assert cluster.show(job, "Restarts") == "0"
    assert "waits for labels" in cluster.log(job)


def test_time_limit_is_announced_early_enough(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    """The script's own --signal line: with a limit of 6 minutes Slurm speaks up after about one."""
    folder = tmp_path / "run"
    place = ["--data-root", str(demo_data), "--snapshot-dir", str(folder)]
    words = [*SOURCE_ONLY, *place, "--num-steps", "100000", "--log-every", "1"]
    job = cluster.submit("train_source.py", *words, options=[*ONE_GPU, "--time=6"])
    wait_for(lambda: cluster.show(job, "Restarts") == "1", "Slurm's warning", 240)
    assert "SIGUSR1" in cluster.log(job)
    assert json.loads((folder / "PREEMPTED").read_text())["text"].endswith("SIGTERM")
    assert logged(folder)
    cluster.command("scancel", job)
