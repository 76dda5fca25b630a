"""A Slurm cluster of two virtual nodes with fake GPUs on this machine, from Debian's packages, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.distributed.launching import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel", "srun")
NODES = ("n1", "n2")
GPUS_PER_NODE = 2
REVOKED_S = 3.0  # a job that starts in the second of its requeueing is refused: "Job credential revoked"
FINISHED = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
)

_CONFIGURATION = """\
ClusterName=segadapt
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=30
KillWait=60
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=DEFAULT Nodes=n[1-2] MaxTime=INFINITE State=UP
PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
PartitionName=requeued PriorityTier=1 PreemptMode=REQUEUE GraceTime=60
PartitionName=cancelled PriorityTier=1 PreemptMode=CANCEL GraceTime=60
"""
_NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
    "CPUs=16 RealMemory=4000 Gres=gpu:{gpus}"
)


def missing_programs() -> list[str]:
    """What of Slurm and munge is not installed here."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


@dataclass
class Cluster:
    """munged, slurmctld and one slurmd per virtual node, all of them in one folder.

    Attributes:
        folder: configuration, state, logs, sockets; its path has no spaces.
        submit_folder: where jobs are submitted from; their logs are there.
        jobs: those submitted.
    """

    folder: Path
    submit_folder: Path
    jobs: list[str] = field(default_factory=list)
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Starts everything and waits until both nodes are idle."""
        (self.folder / "state").mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        host = socket.gethostname()
        nodes = [_NODE.format(name=name, host=host, port=free_port(), gpus=GPUS_PER_NODE) for name in NODES]
        text = _CONFIGURATION.format(
            host=host, folder=self.folder, controller_port=free_port(), nodes="\n".join(nodes)
        )
        (self.folder / "slurm.conf").write_text(text)
        for gpu in range(GPUS_PER_NODE):
            (self.folder / f"fakegpu{gpu}").touch()
        files = f"{self.folder}/fakegpu[0-{GPUS_PER_NODE - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={files}\n")
        own = {
            f"--{name}": self.folder / f"munge.{name}"
            for name in ("socket", "pid-file", "log-file", "seed-file")
        }
        own["--socket"] = self.folder / "munge.sock"
        words = [f"{option}={file}" for option, file in own.items()]
        self._start("munged", ["munged", "--foreground", "--force", f"--key-file={key}", *words])
        wait_for(lambda: (self.folder / "munge.sock").exists(), "munged", 10)
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        for name in NODES:
            self.start_node(name)
        wait_for(lambda: self.node_states() == ["idle"] * len(NODES), "two idle nodes", 60)

    def start_node(self, name: str) -> None:
        """Starts a node's slurmd."""
        self._start(name, ["slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", name])

    def _start(self, name: str, words: Sequence[str]) -> None:
        output = (self.folder / f"{name}.output").open("ab")
        self._daemons[name] = subprocess.Popen(
            words, env=self.environment(), stdout=output, stderr=output, start_new_session=True
        )

    def environment(self) -> dict[str, str]:
        """Of a user of this cluster: one thread per process, nothing of an outer job or launch."""
        outer = ("SLURM", "SBATCH", "SEGADAPT", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        path = os.pathsep.join([kept.get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**kept, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}

    def command(self, *words: str, check: bool = True, **variables: str) -> str:
        """Output of a command of a user who is in `submit_folder`."""
        done = subprocess.run(
            words,
            cwd=self.submit_folder if self.submit_folder.is_dir() else self.folder,
            env={**self.environment(), **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def submit(self, *words: str, options: Sequence[str] = (), **variables: str) -> str:
        """Submits the shipped train.sbatch with a script and its arguments; returns the job id."""
        job = self.command("sbatch", "--parsable", *options, "launch/slurm/train.sbatch", *words, **variables)
        self.jobs.append(job)
        return job

    def submit_urgent(self) -> str:
        """Submits a job of a second on all GPUs; it preempts jobs in partitions requeued and cancelled."""
        options = [
            "--partition=urgent",
            "--nodes=2",
            f"--gpus-per-node={GPUS_PER_NODE}",
            "--output=urgent.log",
        ]
        job = self.command("sbatch", "--parsable", *options, "--wrap", "sleep 1")
        self.jobs.append(job)
        return job

    def node_states(self) -> list[str]:
        """The nodes' states as sinfo has them."""
        return self.command(
            "sinfo", "--noheader", "--Node", "--partition=main", "--format=%t", check=False
        ).split()

    def show(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, "" without the job."""
        text = self.command("scontrol", "--oneliner", "show", "job", job, check=False)
        words = (word.partition("=") for word in text.split())
        return next((value for key, _, value in words if key == name), "")

    def log(self, job: str) -> str:
        """What the job has written."""
        file = Path(
            self.command("scontrol", "--oneliner", "show", "job", job)
            .split(" StdOut=")[1]
            .split(" Power=")[0]
        )
        return file.read_text(errors="replace") if file.exists() else ""

    def wait(self, job: str, states: Collection[str] = FINISHED, *, timeout: float = 600) -> str:
        """Waits until the job is in one of the states; fails, with its log, when it ends otherwise."""
        deadline = time.monotonic() + timeout
        state = ""
        while time.monotonic() < deadline:
            state = self.show(job, "JobState")
            if state in states:
                return state
            if state in FINISHED:
                break
            time.sleep(0.3)
        raise AssertionError(f"job {job} is {state}, not {' or '.join(states)}:\n{self.log(job)[-6000:]}")

    def start_now(self, job: str) -> None:
        """Spares a requeued job Slurm's wait of two minutes."""
        self.command("scontrol", "update", f"JobId={job}", "StartTime=now")

    def requeued(self, job: str, *, timeout: float = 300) -> None:
        """Waits until the job is back in the queue, and lets it start at once."""
        wait_for(lambda: self.show(job, "Restarts") not in ("", "0"), f"job {job} to be requeued", timeout)
        self.wait(job, {"PENDING", "RUNNING", "CONFIGURING"}, timeout=timeout)
        if self.show(job, "JobState") == "PENDING":
            time.sleep(REVOKED_S)
            self.start_now(job)

    def kill_node(self, name: str) -> None:
        """What a power cut does to a node: its slurmd and everything below it are gone at once."""
        daemon = self._daemons.pop(name)
        here = {f"SLURMD_NODENAME={name}", f"SLURM_CONF={self.folder / 'slurm.conf'}"}
        members = [pid for pid in _processes() if here <= set(_variables(pid))]
        keepers = {_parent(pid) for pid in members} - set(members) - {os.getpid(), 1}
        keepers = {pid for pid in keepers if "slurmstepd" in _command(pid)}
        for pid in (daemon.pid, *keepers, *members):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        daemon.wait()

    def stop(self) -> None:
        """Ends all jobs, then the daemons."""
        self.command("scancel", "--quiet", "--user=root", check=False)
        with suppress(AssertionError):  # a node that stays busy is killed below
            wait_for(lambda: not self.command("squeue", "--noheader", check=False), "the jobs to end", 60)
        for name in NODES:
            if name in self._daemons:
                self.kill_node(name)
        for name in ("slurmctld", "munged"):
            daemon = self._daemons.pop(name, None)
            if daemon is None:
                continue
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def wait_for(condition: Callable[[], bool], what: str, timeout: float) -> None:
    """Returns as soon as the condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.2)


def _processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _variables(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
