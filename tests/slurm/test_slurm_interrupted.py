"""Jobs on two nodes that are stopped, requeued, submitted again, or lose a node: they end with the weights of
a run that nobody touched."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.batch_runs import ITERATIONS, STAGE_ONE, last_state, logged, starts
from tests.distributed.launching import run_processes
from tests.forked_runs import assert_same
from tests.slurm.cluster import Cluster, wait_for

pytestmark = [pytest.mark.slurm]
TWO_NODES = ("--nodes=2", "--gpus-per-node=2")


@pytest.fixture(scope="module")
def untouched(cluster: Cluster, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training as four processes under torchrun, without Slurm."""
    folder = tmp_path_factory.mktemp("untouched") / "run"
    run_processes(4, ["train_ms.py", *stage_one(demo_data, folder)], timeout=900)
    return folder


def stage_one(data: Path, folder: Path) -> list[str]:
    return [*STAGE_ONE, "--data-root", str(data), "--snapshot-dir", str(folder)]


def stop(cluster: Cluster, job: str) -> None:
    """What Slurm does some minutes before the time limit: USR1 to the batch script."""
    cluster.command("scancel", "--signal=USR1", "--batch", job)


def wait_for_iteration(cluster: Cluster, job: str, folder: Path, iteration: int) -> None:
    wait_for(
        lambda: logged(folder)[-1:] >= [iteration] or cluster.show(job, "JobState") == "FAILED",
        f"iteration {iteration}",
        400,
    )
    assert logged(folder), cluster.log(job)


def test_preempted_job_is_requeued_and_ends_with_the_same_weights(
    cluster: Cluster, demo_data: Path, untouched: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "a run"
    job = cluster.submit("train_ms.py", *stage_one(demo_data, folder), options=TWO_NODES)
    wait_for_iteration(cluster, job, folder, 3)
    stop(cluster, job)
    cluster.requeued(job)
    assert (folder / "PREEMPTED").exists()
    assert 3 <= last_state(folder)["iteration"] < ITERATIONS
    cluster.wait(job, {"COMPLETED"})
    assert cluster.show(job, "Restarts") == "1"
    assert (folder / "DONE").exists()
    assert [start["world_size"] for start in starts(folder)] == [4, 4]
    assert_same(last_state(folder), last_state(untouched))
    assert logged(folder) == list(range(1, ITERATIONS + 1))
    log = cluster.log(job)
    assert "SIGUSR1: telling the run to save and leave" in log
    assert "requeued" in log


def test_stopping_the_task_with_the_id_of_its_array_leaves_the_others_alone(
    cluster: Cluster, demo_data: Path, tmp_path: Path
) -> None:
    options = ["--gpus-per-node=1", "--array=0-2"]
    array = cluster.submit("train_ms.py", *stage_one(demo_data, tmp_path / "run"), options=options)
    tasks = {number: f"{array}_{number}" for number in range(3)}
    for number, task in tasks.items():
        wait_for_iteration(cluster, task, tmp_path / f"run-seed{number}", 1)
    (base,) = [number for number, task in tasks.items() if cluster.show(task, "JobId") == array]
    stop(cluster, tasks[base])
    cluster.requeued(tasks[base])
    for number, task in tasks.items():
        cluster.wait(task, {"COMPLETED"})
        assert cluster.show(task, "Restarts") == str(int(number == base))
        assert len(starts(tmp_path / f"run-seed{number}")) == 1 + (number == base)


@pytest.mark.parametrize("partition", ["requeued", "cancelled"])
def test_job_preempted_by_a_more_urgent_one_saves_and_comes_back(
    partition: str, cluster: Cluster, demo_data: Path, untouched: Path, tmp_path: Path
) -> None:
    """Slurm's own preemption with a grace time, where it requeues and where it only cancels jobs."""
    folder = tmp_path / "run"
    options = [*TWO_NODES, f"--partition={partition}"]
    job = cluster.submit("train_ms.py", *stage_one(demo_data, folder), options=options)
    wait_for_iteration(cluster, job, folder, 3)
    urgent = cluster.submit_urgent()
    cluster.wait(urgent, {"COMPLETED"})
    cluster.requeued(job)
    assert 3 <= last_state(folder)["iteration"] < ITERATIONS
    cluster.wait(job, {"COMPLETED"})
    assert cluster.show(job, "Restarts") == "1"
    assert_same(last_state(folder), last_state(untouched))
    assert logged(folder) == list(range(1, ITERATIONS + 1))


def test_where_requeueing_is_off_a_new_job_goes_on_and_followers_wait_for_it(
    cluster: Cluster, demo_data: Path, untouched: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    scores = tmp_path / "scores.json"
    job = cluster.submit(
        "train_ms.py", *stage_one(demo_data, folder), options=[*TWO_NODES, "--no-requeue", "--job-name=again"]
    )
    words = [str(folder), "--target", "cityscapes", "--data-root", str(demo_data), "--device", "cpu"]
    follower = cluster.submit(
        "evaluate.py",
        *words,
        "--json",
        str(scores),
        options=[f"--dependency=afterok:{job}", "--gpus-per-node=1"],
    )
    wait_for_iteration(cluster, job, folder, 3)
    stop(cluster, job)
    cluster.wait(job, {"COMPLETED"})
    text = cluster.log(job)
    assert "submitted again as job" in text, text
    second = text.split("submitted again as job ")[1].split()[0]
    cluster.jobs.append(second)
    assert not scores.exists()
    assert f"afterok:{second}" in cluster.show(follower, "Dependency")
    assert cluster.show(second, "NumNodes") in ("2", "2-2")
    assert cluster.show(second, "JobName") == "again"
    cluster.wait(second, {"COMPLETED"})
    assert_same(last_state(folder), last_state(untouched))
    cluster.wait(follower, {"COMPLETED"})
    assert scores.exists()


def test_job_that_loses_a_node_starts_again_when_the_node_is_back(
    cluster: Cluster, demo_data: Path, untouched: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = [*stage_one(demo_data, folder), "--save-every", "2"]
    job = cluster.submit("train_ms.py", *words, options=TWO_NODES)
    wait_for_iteration(cluster, job, folder, 3)
    cluster.kill_node("n2")
    try:
        wait_for(lambda: cluster.show(job, "Restarts") == "1", "Slurm to miss the node", 240)
    finally:
        cluster.start_node("n2")
    wait_for(lambda: cluster.node_states() == ["idle", "idle"], "the node to come back", 120)
    time.sleep(
        10
    )  # Slurm gives a requeued job two minutes; without any, it may take the lost step for a live one
    cluster.start_now(job)
    cluster.wait(job, {"COMPLETED"})
    assert_same(last_state(folder), last_state(untouched))
    assert len(starts(folder)) == 2


def test_cancelled_job_saves_and_stays_away(cluster: Cluster, demo_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    job = cluster.submit("train_ms.py", *stage_one(demo_data, folder), options=TWO_NODES)
    wait_for_iteration(cluster, job, folder, 2)
    cluster.command("scancel", job)
    wait_for(lambda: cluster.node_states() == ["idle", "idle"], "the job to leave", 120)
    assert cluster.show(job, "JobState") == "CANCELLED"
    assert cluster.show(job, "Restarts") == "0"
    assert (folder / "PREEMPTED").exists()


def test_number_of_starts_is_bounded_and_the_command_to_go_on_is_printed(
    cluster: Cluster, demo_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = cluster.submit(
        "train_ms.py", *stage_one(demo_data, folder), options=["--gpus-per-node=1"], SEGADAPT_MAX_STARTS="1"
    )
    wait_for_iteration(cluster, job, folder, 1)
    stop(cluster, job)
    assert cluster.wait(job, {"FAILED"}) == "FAILED"
    text = cluster.log(job)
    assert "to continue: cd " in text
    assert "'--gpus-per-node=1'" in text
    assert cluster.show(job, "Restarts") == "0"
