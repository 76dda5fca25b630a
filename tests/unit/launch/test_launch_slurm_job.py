"""The decisions of launch/slurm/job.sh, with stand-ins for Slurm's commands: what the words become, how
the step is started and stopped, and what happens after it."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

import train_source
import train_st

REPOSITORY = Path(__file__).resolve().parents[3]
SCRIPTS = sorted((REPOSITORY / "launch" / "slurm").iterdir())
BASE = {
    "SEGADAPT_HOME": str(REPOSITORY),
    "SLURM_JOB_ID": "41",
    "SLURM_JOB_NAME": "a job",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_JOB_PARTITION": "main",
}
BASE_TASK = {
    **{"SLURM_JOB_ID": "41", "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": "2"},
    "RECORD": "ArrayJobId=41 ArrayTaskId=2",
}
# A bare id of an array means all of its tasks, as with Slurm's own commands.
STAND_INS = """
controller_pause=0 step_pause=0 update_pause=0 preempt_time_before=None
each_task() {
    if [[ -n ${SLURM_ARRAY_JOB_ID-} && " $* " == *" $SLURM_ARRAY_JOB_ID "* ]]; then printf "$line$line"
    else printf "$line"; fi
}
squeue() {
    local line
    case $* in
        *%l*) line='1:00:00\\n';;
        *%f*) line='(null)\\n';;
        *--steps*) line="${STEP-}";;
        *) printf '%s' "${QUEUE-}"; return "${QUEUE_FAILS-0}";;
    esac
    each_task "$@"
}
scancel() { echo "SCANCEL $*"; }
scontrol() {
    local line="JobId=41 ${RECORD-} JobState=${STATE-RUNNING} Reason=${REASON-None}"
    line+=" PreemptTime=${PREEMPT_TIME-None} Dependency=\\n"
    case $* in
        *"show job"*) each_task "$@";;
        ping) [[ -e restarting ]] || echo "Slurmctld(primary) at head is UP";;
        requeue*)
            if [[ -e restarting ]]; then rm restarting; return 1; fi
            echo "REQUEUE $2"; STATE=${STATE_AFTER-RUNNING}; return "${REQUEUE_FAILS-0}";;
        update*)
            echo "UPDATE $2 $3"
            [[ ${UPDATE_FAILS-0} == 0 ]] || return 1
            if ((LOST-- > 0)); then update "$2" "${3%:*}:99"; else update "$2" "$3"; fi;; # 99: another task's
    esac
}
update() { QUEUE=$(sed "s/^${1#*=}|.*/${1#*=}|${2#*=}(unfulfilled)/" <<<"$QUEUE"); }
LOST=${LOST-0}
sbatch() { echo "SBATCH $*" >&2; env | grep -E '^(SEGADAPT_EARLIER|TMPDIR)' >&2; echo 52; }
name_job
"""


def job(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs lines of bash in `folder` after job.sh has been read."""
    script = f'source "{REPOSITORY}/launch/slurm/job.sh"\n{STAND_INS}\n{code}'
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **BASE, **variables}
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


def words_of(folder: Path, *words: str, **variables: str) -> list[str]:
    """The words that a command becomes."""
    quoted = " ".join(f"'{word}'" for word in words)
    prepare = f"submitted=({quoted}); words=({quoted}); fill_in_seed; find_run_folder"
    code = f'{prepare}; printf "%s\\n" "${{words[@]}}"'
    done = job(code, folder, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def end(
    folder: Path,
    *,
    status: int,
    stopped_by: str = "",
    before: str = "",
    done_before: str = "",
    start: str = "",
    cwd: Path | None = None,
    **variables: str,
) -> tuple[int, str]:
    """Exit code and messages of the end of a job whose run folder is `folder`; `start`: what it did there."""
    code = (
        f"submitted=(train_ms.py 'a b'); words=(train_ms.py); run_dir='{folder}'; status={status}; "
        f"stopped_by='{stopped_by}'; preempted_before='{before}'; waiting_before=''; "
        f"done_before='{done_before}'; progress_before=$(progress); {start or ':'}; "
        "notice_preemption; end_job"
    )
    done = job(code, cwd or folder, **variables)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(["shellcheck", "-x", str(script)], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--seed", "3"],
        ["@launch/recipes/demo_source_only.args", "--seed=4"],
        ["--random-seed", "5", "@launch/recipes/demo_source_only.args", "@launch/recipes/demo_quick.args"],
    ],
)
def test_default_run_folder_is_the_programs(words: list[str]) -> None:
    words = [*words, *["--source", "gta5", "--target", "cityscapes", "--backbone-weights", "none"]]
    folder = words_of(REPOSITORY, "train_source.py", *words)[-1]
    assert folder == str(train_source.parse_args(words).snapshot_dir)


def test_seed_and_run_folder_of_argument_files_are_the_programs(tmp_path: Path) -> None:
    recipe = "@launch/recipes/synthia_to_cityscapes_daformer.args"
    folder = words_of(tmp_path, "train_st.py", recipe)[-1]  # found below the checkout
    expected = train_st.parse_args([recipe, "--backbone-weights", "torchvision"]).snapshot_dir
    assert folder == str(expected) == "runs/synthia_to_cityscapes_daformer-seed2"
    (tmp_path / "inner").mkdir()
    (tmp_path / "outer.args").write_text("--save-every 5 # --snapshot-dir no\n\n@inner/nested.args\n")
    (tmp_path / "inner" / "nested.args").write_text("@beside.args\n# --snapshot-dir no")
    (tmp_path / "inner" / "beside.args").write_text('--snapshot_dir "runs/it\'s \\"here\\"" --seed=3')
    command = ["train_source.py", "@outer.args"]
    code = f'words=({" ".join(command)}); find_run_folder; printf \'%s|\' "$run_dir" "${{words[@]}}"'
    assert job(code, tmp_path).stdout == f"""runs/it's "here"|{"|".join(command)}|"""
    assert words_of(tmp_path, *command, SLURM_ARRAY_TASK_ID="7")[2:] == [
        *("--seed", "7", "--snapshot-dir"),
        """runs/it's "here"-seed7""",
    ]
    (tmp_path / "inner" / "beside.args").write_text("--snapshot-dir runs/{seed}/x @../outer.args @none.args")
    filled = words_of(tmp_path, *command, SLURM_ARRAY_TASK_ID="7")
    assert filled[-2:] == ["--snapshot-dir", "runs/7/x"]


@pytest.mark.parametrize("words", [["--snapshot-dir", "a b"], ["--snapshot_dir=a b"]])
def test_run_folder_of_the_command_is_kept(words: list[str], tmp_path: Path) -> None:
    assert words_of(tmp_path, "train_ms.py", *words) == ["train_ms.py", *words]


def test_array_gives_each_task_a_seed_and_a_folder(tmp_path: Path) -> None:
    task = {"SLURM_ARRAY_TASK_ID": "7"}
    named = words_of(tmp_path, "train_ms.py", "--snapshot-dir", "runs/x", **task)
    assert named[-4:] == ["--seed", "7", "--snapshot-dir", "runs/x-seed7"]
    placed = ["train_ft.py", "--snapshot-dir", "runs/{seed}", "--restore-from", "runs/a-seed{seed}"]
    filled = ["train_ft.py", "--snapshot-dir", "runs/7", "--restore-from", "runs/a-seed7"]
    assert words_of(tmp_path, *placed, **task) == [*filled, "--seed", "7", "--snapshot-dir", "runs/7"]
    shared = words_of(tmp_path, "train_ft.py", "--snapshot-dir", "x", "--restore-from", "a{seed}", **task)
    assert shared[-2:] == ["--snapshot-dir", "x-seed7"]
    assert words_of(tmp_path, "train_ms.py", **task)[-2:] == ["--snapshot-dir", "runs/train_ms-seed7"]
    assert words_of(tmp_path, "evaluate.py", "runs/x-seed{seed}", **task) == ["evaluate.py", "runs/x-seed7"]


def test_tasks_number_wins_over_the_seed_of_an_argument_file(tmp_path: Path) -> None:
    (tmp_path / "a.args").write_text("--seed 3")
    for typed in ([], ["--seed", "{seed}"]):
        words = words_of(tmp_path, "train_ms.py", *typed, "@a.args", SLURM_ARRAY_TASK_ID="7")
        assert words[-4:] == ["--seed", "7", "--snapshot-dir", "runs/a-seed7"]


def test_seed_without_an_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.args").write_text("--snapshot-dir runs/{seed}")
    for words in ("train_ms.py --snapshot-dir runs/{seed}", "evaluate.py runs/{seed}", "train_ms.py @a.args"):
        done = job(f"words=({words}); fill_in_seed; find_run_folder", tmp_path)
        assert done.returncode == 2
        assert "--array 0-2" in done.stderr


def test_array_with_one_fixed_seed_is_refused(tmp_path: Path) -> None:
    code = "submitted=(train_ms.py --seed 1); words=(train_ms.py --seed 1); fill_in_seed"
    done = job(code, tmp_path, SLURM_ARRAY_TASK_ID="7")
    assert done.returncode == 2
    assert "--seed {seed}" in done.stderr


def test_failed_run_is_not_started_again(tmp_path: Path) -> None:
    code, text = end(tmp_path, status=2)
    assert code == 2
    assert "REQUEUE" not in text


@pytest.mark.parametrize("mark", ["DONE", "WAITING_FOR_LABELS"])
def test_finished_and_waiting_runs_are_not_started_again(mark: str, tmp_path: Path) -> None:
    (tmp_path / mark).write_text("{}")
    code, text = end(tmp_path, status=0)
    assert (code, "REQUEUE" in text) == (0, False)


def test_done_of_an_earlier_start_does_not_hide_what_happened(tmp_path: Path) -> None:
    (tmp_path / "DONE").write_text("old")
    assert end(tmp_path, status=1, done_before="old")[0] == 1
    code, text = end(tmp_path, status=1, stopped_by="USR1", done_before="old")
    assert (code, "REQUEUE 41" in text) == (0, True)
    (tmp_path / "DONE").write_text("new")
    code, text = end(tmp_path, status=1, stopped_by="USR1", done_before="old")
    assert (code, "REQUEUE" in text) == (0, False)


def test_preemption_that_only_the_processes_were_told_of_is_requeued(tmp_path: Path) -> None:
    code, text = end(tmp_path, status=1, PREEMPT_TIME="2026-01-01T00:00:00")
    assert (code, "REQUEUE 41" in text) == (0, True)
    assert end(tmp_path, status=1, PREEMPT_TIME="")[0] == 1
    earlier = (
        "preempt_time_before=2026-01-01; status=1; stopped_by=''; notice_preemption; echo \"<$stopped_by>\""
    )
    assert job(earlier, tmp_path, PREEMPT_TIME="2026-01-01").stdout == "<>\n"


def test_saved_run_is_requeued_whatever_torchrun_returned(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(tmp_path, status=1, before="old")
    assert code == 0
    assert "REQUEUE 41" in text


def test_mark_of_an_earlier_start_does_not_hide_a_failure(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("old")
    code, text = end(tmp_path, status=1, before="old")
    assert code == 1
    assert "REQUEUE" not in text


def test_stop_during_start_up_is_requeued(tmp_path: Path) -> None:
    code, text = end(tmp_path, status=143, stopped_by="USR1")
    assert code == 0
    assert "REQUEUE 41" in text


@pytest.mark.parametrize(("state", "code"), [("COMPLETING", 143), ("PENDING", 0)])
def test_cancelled_and_already_requeued_jobs_are_left_alone(state: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    found, text = end(tmp_path, status=1, stopped_by="TERM", STATE=state)
    assert found == code
    assert "REQUEUE" not in text
    assert ("to continue: " in text) == (state == "COMPLETING")


def test_job_over_its_time_limit_is_requeued(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(tmp_path, status=1, stopped_by="USR1", STATE="COMPLETING", REASON="TimeLimit")
    assert code == 0
    assert "REQUEUE 41" in text


def test_requeueing_that_ends_its_own_messenger_is_not_doubled(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(tmp_path, status=1, REQUEUE_FAILS="143", STATE_AFTER="PENDING")
    assert code == 0
    assert "SBATCH" not in text


def test_without_requeueing_the_job_is_submitted_again_with_its_resources(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(
        tmp_path,
        status=1,
        REQUEUE_FAILS="1",
        SLURM_GPUS_PER_NODE="4",
        SLURM_NTASKS_PER_NODE="4",
        SLURM_MEM_PER_GPU="30000",
        SLURM_RESTART_COUNT="2",
        SLURM_JOB_ACCOUNT="vision",
        QUEUE="50|afterok:41(unfulfilled)\n51|afterok:411(unfulfilled)\n53|(null)\n",
    )
    assert code == 0
    submission = next(line for line in text.splitlines() if line.startswith("SBATCH"))
    for option in (
        "--nodes=2",
        "--gpus-per-node=4",
        "--ntasks-per-node=4",
        "--mem-per-gpu=30000",
        "--account=vision",
        "--time=1:00:00",
        "--job-name=a job",
    ):
        assert option in submission
    assert submission.endswith("launch/slurm/train.sbatch train_ms.py a b")
    assert "SEGADAPT_EARLIER_STARTS=3" in text
    assert "UPDATE JobId=50 Dependency=afterok:41,afterok:52" in text
    assert text.count("UPDATE") == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"UPDATE_FAILS": "1", "QUEUE": "50|afterok:41(unfulfilled)\n"}, "told of job 52: 50\n"),
        ({"LOST": "99", "QUEUE": "50|afterok:41\n51|afterany:41\n"}, "told of job 52: 50 51\n"),
        ({"QUEUE_FAILS": "1"}, "Slurm does not tell"),
    ],
)
def test_dependents_that_could_not_be_told_do_not_start_early(
    variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(tmp_path, status=1, SEGADAPT_ON_STOP="resubmit", **variables)
    assert code == 1
    assert "submitted again as job 52" in text
    assert message in text
    assert "ends with an error" in text


def test_dependent_is_told_again_when_another_task_has_overwritten_it(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    variables = {"SEGADAPT_ON_STOP": "resubmit", "LOST": "2", "QUEUE": "50|afterok:41_*(unfulfilled)\n"}
    code, text = end(tmp_path, status=1, **variables, **BASE_TASK)
    assert code == 0
    told = [line.split("=")[-1] for line in text.splitlines() if line.startswith("UPDATE")]
    first = "afterok:41_*,afterok:52"
    assert told == [
        first,
        "afterok:41_*,afterok:99,afterok:52",
        "afterok:41_*,afterok:99,afterok:99,afterok:52",
    ]


@pytest.mark.parametrize(("dependency", "updates"), [("52_*", 0), ("52", 0), ("520", 1)])
def test_dependent_that_has_been_told_is_left_alone(dependency: str, updates: int, tmp_path: Path) -> None:
    """Slurm shows a successor that is an array of one task as 52_*."""
    (tmp_path / "PREEMPTED").write_text("new")
    queue = f"50|afterok:41_*(unfulfilled),afterok:{dependency}(unfulfilled)\n"
    code, text = end(tmp_path, status=1, SEGADAPT_ON_STOP="resubmit", QUEUE=queue, **BASE_TASK)
    assert (code, text.count("UPDATE")) == (0, updates)


def test_folder_for_temporary_files_of_one_job_is_not_passed_on(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    for folder, kept in (("/scratch/41.tmp", False), ("/scratch/mine", True)):
        text = end(tmp_path, status=1, SEGADAPT_ON_STOP="resubmit", TMPDIR=folder)[1]
        assert ("TMPDIR=" in text) == kept


def test_requeueing_waits_for_a_controller_that_restarts(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    (tmp_path / "restarting").touch()
    code, text = end(tmp_path, status=1)
    assert code == 0
    assert "REQUEUE 41" in text
    assert "SBATCH" not in text


@pytest.mark.parametrize("start", ["", "mkdir -p run; touch run/log.txt"])
def test_third_stop_in_a_row_without_progress_is_the_last(start: str, tmp_path: Path) -> None:
    for _ in range(2):  # whoever starts it again has three more
        for expected in (0, 0, 1):
            code, text = end(tmp_path / "run", status=143, stopped_by="USR1", start=start, cwd=tmp_path)
            assert (code, "REQUEUE" in text) == (expected, expected == 0)
        assert "3 times in a row by the time limit without a newer snapshot" in text
        assert "to continue: " in text


def test_start_that_got_further_begins_the_count_anew(tmp_path: Path) -> None:
    stop = {"status": 143, "stopped_by": "USR1"}
    for _ in range(2):
        assert end(tmp_path, **stop)[0] == 0
    assert end(tmp_path, **stop, start="touch iteration_0000002.pth")[0] == 0
    assert list(tmp_path.glob(".stops*")) == []
    for expected in (0, 0, 1):
        assert end(tmp_path, **stop)[0] == expected


def test_start_that_got_further_and_was_lost_begins_the_count_anew(tmp_path: Path) -> None:
    stop = {"status": 143, "stopped_by": "USR1"}
    for _ in range(2):
        assert end(tmp_path, **stop)[0] == 0
    (tmp_path / "iteration_0000002.pth").touch()  # its node died: it did not end here
    for expected in (0, 0, 1):
        assert end(tmp_path, **stop)[0] == expected


@pytest.mark.parametrize(
    "preemption",
    [
        {"stopped_by": "TERM"},
        {"PREEMPT_TIME": "2026-01-01"},
        {"stopped_by": "USR1", "PREEMPT_TIME": "2026-01-01"},
    ],
    ids=["the script is told", "the processes are told", "send_user_signal"],
)
def test_preemption_is_no_stop_without_progress(preemption: dict[str, str], tmp_path: Path) -> None:
    for _ in range(4):
        assert end(tmp_path, status=143, **preemption)[0] == 0


@pytest.mark.parametrize(
    ("record", "starts"),
    [("Restarts=0", "0"), ("Restarts=2", "2"), ("", "7")],
    ids=["new", "requeued", "no answer"],
)
def test_restarts_of_an_outer_job_are_not_counted(record: str, starts: str, tmp_path: Path) -> None:
    code = "count_restarts; starts_so_far; echo; env | grep RESTART"
    done = job(code, tmp_path, SLURM_RESTART_COUNT="7", RECORD=record)
    assert done.stdout.split() == [starts, f"SLURM_RESTART_COUNT={starts}"]


def test_variables_of_the_job_do_not_reach_the_next_one(tmp_path: Path) -> None:
    users = {"SLURM_CONF": "a", "SLURM_CLUSTERS": "b", "SLURM_JWT": "c"}
    done = job('forget_this_job; echo "${!SLURM_*}"', tmp_path, SLURM_RESTART_COUNT="2", **users)
    assert done.stdout == "SLURM_CLUSTERS SLURM_CONF SLURM_JWT\n"


def test_snapshots_and_queries_are_progress(tmp_path: Path) -> None:
    code = f"run_dir='{tmp_path}'; progress"
    seen = {job(code, tmp_path).stdout}
    (tmp_path / "log.txt").touch()
    (tmp_path / "queries").mkdir()
    assert job(code, tmp_path).stdout in seen
    for name in ("iteration_0000002.pth", "iteration_0000004.pth", "queries/round_00.npz"):
        (tmp_path / name).touch()
        now = job(code, tmp_path).stdout
        assert now not in seen
        seen.add(now)


def test_variables_of_an_array_around_this_job_are_forgotten(tmp_path: Path) -> None:
    code = 'echo "$job ${SLURM_ARRAY_TASK_ID-none}"'
    task = {**BASE_TASK, "SLURM_ARRAY_JOB_ID": "30"}
    assert job(code, tmp_path, **{**task, "RECORD": ""}).stdout == "41 none\n"
    assert job(code, tmp_path, **{**task, "RECORD": "ArrayJobId=30 ArrayTaskId=2"}).stdout == "30_2 2\n"
    silent = "scontrol() { return 1; }; name_job; "
    assert job(silent + code, tmp_path, **BASE_TASK).stdout == "41_2 2\n"


def test_task_with_the_id_of_its_array_stops_and_requeues_itself_alone(tmp_path: Path) -> None:
    code = "stopped_by='' told='' signals=0; sleep 9 & pid=$!; pass_stop_on USR1; pass_stop_on TERM; kill $!"
    done = job(code, tmp_path, STEP="41_2.0\\n", **BASE_TASK)
    assert done.stdout.split() == ["SCANCEL", "--signal=TERM", "41_2"], done.stderr
    (tmp_path / "PREEMPTED").write_text("new")
    code, text = end(tmp_path, status=1, **BASE_TASK)
    assert code == 0
    assert "REQUEUE 41_2\n" in text
    code, text = end(tmp_path, status=1, stopped_by="TERM", STATE="PENDING", **BASE_TASK)
    assert code == 0
    assert "REQUEUE" not in text


def test_task_of_an_array_that_submits_itself_again_says_one_time_limit(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    queue = "50|afterok:41_*(unfulfilled)\n51|afterok:41_3(unfulfilled)\n"
    code, text = end(tmp_path, status=1, REQUEUE_FAILS="1", QUEUE=queue, **BASE_TASK)
    assert code == 0
    assert text.count("1:00:00") == 1
    assert "--array=2" in text
    assert "UPDATE JobId=50 Dependency=afterok:41_*,afterok:52" in text
    assert text.count("UPDATE") == 1
    queue = "50_2|aftercorr:41_*(unfulfilled)\n50_3|aftercorr:41_*(unfulfilled)\n"
    text = end(tmp_path, status=1, REQUEUE_FAILS="1", QUEUE=queue, **BASE_TASK)[1]
    assert "UPDATE JobId=50_2 Dependency=aftercorr:41_*,afterok:52" in text
    assert text.count("UPDATE") == 1


def test_after_too_many_starts_the_command_is_printed(tmp_path: Path) -> None:
    (tmp_path / "PREEMPTED").write_text("new")
    variables = {"SEGADAPT_ARCHIVE": "my data.tar", "SEGADAPT_RUN_DIR": "runs/x", "SLURM_RESTART_COUNT": "49"}
    code, text = end(tmp_path, status=1, **variables)
    assert code == 1
    assert "REQUEUE" not in text
    users = f"SEGADAPT_ARCHIVE='my data.tar' SEGADAPT_HOME='{REPOSITORY}'"
    assert f"cd '{tmp_path}' && {users} sbatch '--job-name=a job'" in text
    assert "'train_ms.py' 'a b'" in text


def test_job_that_follows_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    done = job("check_predecessor", tmp_path, SEGADAPT_AFTER=str(tmp_path))
    assert done.returncode == 2
    assert "is not DONE" in done.stderr
    (tmp_path / "a7").mkdir()
    (tmp_path / "a7" / "DONE").touch()
    for number, code in (("7", 0), ("8", 2)):
        done = job("check_predecessor", tmp_path, SEGADAPT_AFTER="a{seed}", SLURM_ARRAY_TASK_ID=number)
        assert done.returncode == code


def test_scripts_are_found_in_the_checkout_and_missing_ones_refused(tmp_path: Path) -> None:
    done = job('words=(evaluate.py); check_words; echo "$words"', tmp_path)
    assert done.stdout.strip() == str(REPOSITORY / "evaluate.py")
    done = job("words=(evalute.py); check_words", tmp_path)
    assert done.returncode == 2
    assert "evalute.py is no script" in done.stderr


@pytest.mark.parametrize("script", ["prepare_data.py", "annotate.py"])
def test_script_that_cannot_share_its_work_gets_one_process(script: str, tmp_path: Path) -> None:
    done = job(f'words=({script}); check_words; echo "<$one_process>"', tmp_path, SLURM_JOB_NUM_NODES="1")
    assert done.stdout == f"<{script}>\n"
    assert f"{script} cannot share its work" in done.stderr
    done = job(f"words=({script}); check_words", tmp_path)
    assert done.returncode == 2
    assert f"{script} runs in one process: leave out --nodes" in done.stderr


@pytest.mark.parametrize("script", ["evaluate.py", "train_mine.py", "annotate.py"])
def test_other_scripts_share_their_work(script: str, tmp_path: Path) -> None:
    """Those of the checkout, and the user's own, whatever is in them and also with a known name."""
    if script != "evaluate.py":
        (tmp_path / script).write_text("from train_ms import main")
    done = job(f'words=({script}); check_words; echo "<$one_process>"', tmp_path)
    assert (done.stdout, done.stderr) == ("<>\n", "")


def srun_that_says(folder: Path, text: str) -> dict[str, str]:
    """Variables of a job whose srun, an executable, prints a text of the shell in place of a step."""
    srun = folder / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/bash\necho "{text}"\n')
    srun.chmod(0o755)
    return {"PATH": f"{srun.parent}:/usr/bin:/bin", "SEGADAPT_HEAD": "n1", "SEGADAPT_PORT": "1"}


def test_one_process_is_said_to_the_step_alone(tmp_path: Path) -> None:
    variables = {**srun_that_says(tmp_path, "$*"), "SLURM_JOB_NUM_NODES": "1"}
    code = "submitted=(annotate.py) words=(annotate.py) run_dir='' stopped_by='' told='' pid='' signals=0"
    done = job(f"{code}; check_words; prepare_launch; run_step; say_how_to_continue", tmp_path, **variables)
    assert done.stdout.endswith(f"node.sh --one-process {REPOSITORY}/annotate.py\n"), done.stderr
    assert "to continue: " in done.stderr
    assert "SEGADAPT_PROCESSES" not in done.stderr


def test_steps_get_all_cores_and_variables_of_the_job(tmp_path: Path) -> None:
    variables = {
        **srun_that_says(tmp_path, "${SLURM_CPUS_PER_TASK-}${SRUN_CPUS_PER_TASK-}: $*"),
        **{"SLURM_CPUS_PER_TASK": "8", "SRUN_CPUS_PER_TASK": "8", "SLURM_EXPORT_ENV": "NONE"},
        "SEGADAPT_ARCHIVE": "x",
    }
    prepare = (
        "words=(train_ms.py) one_process='' run_dir='' stopped_by='' told='' pid='' signals=0; prepare_launch"
    )
    done = job(f"{prepare}; run_step; remove_staged_data", tmp_path, **variables)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    for line in lines:
        assert line.startswith(": --nodes=2 --ntasks=2 --ntasks-per-node=1 ")
        assert "--export=ALL" in line
        assert "--cpus-per-task" not in line


def test_signal_before_the_step_reaches_it_once_it_is_known(tmp_path: Path) -> None:
    code = """
        words=(train_ms.py) one_process="" stopped_by="" told="" pid="" signals=0 MASTER_ADDR=n1 MASTER_PORT=1
        trap 'pass_stop_on USR1' USR1
        say() { [[ $signals != 0 ]] || kill -USR1 $$; }
        squeue() { if [[ -e asked ]]; then echo 41.0; fi; touch asked; }
        scancel() { echo "SCANCEL $*"; kill "$pid"; }
        train() { exec sleep 20; }
        step=(train)
        run_step
        echo "$status"
    """
    done = job(code, tmp_path)
    assert done.stdout.splitlines() == ["SCANCEL --signal=TERM 41", "143"], done.stderr


def test_port_that_somebody_has_is_passed_over(tmp_path: Path) -> None:
    server = listen_between(10000, 29999)
    port = server.getsockname()[1]
    code = "MASTER_ADDR=127.0.0.1; free_port"
    with server:
        found = int(job(code, tmp_path, SLURM_JOB_ID=str(port - 10000)).stdout)
    assert found != port
    assert 10000 <= found < 30000
    assert job(code, tmp_path, SLURM_JOB_ID=str(port - 10000)).stdout == str(port)


def listen_between(first: int, last: int) -> socket.socket:
    """Somebody who has a port."""
    for port in range(first, last + 1):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", port))
    raise AssertionError(f"no free port from {first} to {last}")


@pytest.mark.parametrize("script", ["train.sbatch", "pipeline.sh"])
def test_old_bash_is_refused(script: str, tmp_path: Path) -> None:
    text = (REPOSITORY / "launch" / "slurm" / script).read_text().replace("BASH_VERSINFO", "old")
    done = subprocess.run(["bash"], input="old=(4 3)\n" + text, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "bash 4.4 or newer is needed" in done.stderr


def test_pyxis_gets_the_folders_and_all_mounts(tmp_path: Path) -> None:
    code = 'words=(train_ms.py); run_dir=""; prepare_launch; printf "%s\\n" "${step[@]: -3}"'
    variables = {
        "SEGADAPT_CONTAINER": "an image.sqsh",
        "SEGADAPT_CONTAINER_KIND": "pyxis",
        "SEGADAPT_HEAD": "n1",
        "SEGADAPT_PORT": "1",
    }
    mounts = f"--container-mounts={tmp_path}:{tmp_path},{REPOSITORY}:{REPOSITORY}"
    first = ["--container-image=an image.sqsh", f"--container-workdir={tmp_path}"]
    assert job(code, tmp_path, **variables).stdout.splitlines() == [*first, mounts]
    done = job(code, tmp_path, SEGADAPT_MOUNTS="/data:/data,/my scratch:/s", **variables)
    assert done.stdout.splitlines() == [*first, f"{mounts},/data:/data,/my scratch:/s"]
    done = job(code, tmp_path, SEGADAPT_ARCHIVE="data.tar", **variables)
    assert done.returncode == 2
    assert "SEGADAPT_ARCHIVE does not go with pyxis" in done.stderr


def test_first_node_without_an_address_is_refused(tmp_path: Path) -> None:
    done = job('head_address() { :; }; words=(x); run_dir=""; prepare_launch', tmp_path)
    assert done.returncode == 2
    assert "set SEGADAPT_HEAD" in done.stderr


def test_data_folder_without_an_archive_is_refused(tmp_path: Path) -> None:
    done = job("words=(train_ms.py --data-root '{data}/x'); check_words", tmp_path)
    assert done.returncode == 2
    assert "SEGADAPT_ARCHIVE, which is not set" in done.stderr


def test_clean_up_is_short_after_a_stop(tmp_path: Path) -> None:
    prepare = 'timeout() { echo "$2"; }; one_per_node=(srun); stopped_by=""'
    code = f"{prepare}; remove_staged_data; stopped_by=USR1; remove_staged_data"
    assert job(code, tmp_path, SEGADAPT_ARCHIVE="x").stdout.split() == ["120", "15"]
