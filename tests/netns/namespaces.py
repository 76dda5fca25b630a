"""Two machines on a wire, as network namespaces with memory of their own, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.distributed.launching import REPOSITORY, environment

ADDRESSES = ("10.213.77.1", "10.213.77.2")
INTERFACE = "wire"  # the same name on both machines
PORT = 29471  # each machine has ports of its own
_SETUP = 'mount -t tmpfs tmpfs /dev/shm && hostname "$0" && exec "$@"'


@dataclass(frozen=True, slots=True)
class Machine:
    """A namespace with its own network, shared memory and host name."""

    number: int
    namespace: str

    def start(self, words: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
        """Starts a command on this machine; what it says goes to a file."""
        apart = ["unshare", "--mount", "--ipc", "--uts", "bash", "-c", _SETUP, f"machine{self.number}"]
        # gloo would otherwise look up the host's name, which has no address here
        variables = environment({"GLOO_SOCKET_IFNAME": INTERFACE})
        with output.open("wb") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *apart, *words],
                cwd=REPOSITORY,
                env=variables,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def plug(self, connected: bool) -> None:
        """Pulls the wire out of this machine or puts it back."""
        state = "up" if connected else "down"
        _ip("-n", self.namespace, "link", "set", INTERFACE, state)


def why_not_allowed() -> str | None:
    """Why this machine cannot have namespaces, in a few words; None when it can."""
    for program in ("ip", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    name = f"segadapt-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"ip netns add: {made.stderr.strip()}"
    inside = ["unshare", "--mount", "--ipc", "--uts", "bash", "-c", _SETUP, "try", "true"]
    tried = subprocess.run(["ip", "netns", "exec", name, *inside], capture_output=True, text=True)
    wire = ["ip", "-n", name, "link", "add", "name", "one", "type", "veth", "peer", "name", "two"]
    wired = subprocess.run(wire, capture_output=True, text=True)
    _ip("netns", "delete", name)
    for done in (tried, wired):
        if done.returncode:
            return done.stderr.strip() or "namespaces do not work here"
    return None


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines that reach each other under ADDRESSES."""
    machines = tuple(Machine(number, f"segadapt-{os.getpid()}-{number}") for number in range(2))
    first, second = machines
    try:
        for machine in machines:
            _ip("netns", "add", machine.namespace)
        other_end = ["peer", "name", INTERFACE, "netns", second.namespace]
        _ip("-n", first.namespace, "link", "add", "name", INTERFACE, "type", "veth", *other_end)
        for machine, address in zip(machines, ADDRESSES, strict=True):
            _ip("-n", machine.namespace, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", machine.namespace, "link", "set", "lo", "up")
            machine.plug(True)
        yield first, second
    finally:
        for machine in machines:
            subprocess.run(["ip", "netns", "delete", machine.namespace], capture_output=True)


def torchrun(number: int, arguments: Sequence[str]) -> list[str]:
    """The command of one of two machines with two processes each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    launcher += ["--node-rank", str(number), "--master-addr", ADDRESSES[0], "--master-port", str(PORT)]
    return [*launcher, *arguments]


@contextmanager
def running(
    machines: Sequence[Machine], arguments: Sequence[str], outputs: Sequence[Path]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A script under one torchrun per machine; nothing of it is left at the end."""
    launchers = [
        machine.start(torchrun(machine.number, arguments), output)
        for machine, output in zip(machines, outputs, strict=True)
    ]
    try:
        yield launchers
    finally:
        for launcher in launchers:
            if launcher.poll() is None:
                launcher.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 40
        for launcher in launchers:
            try:
                launcher.wait(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(launcher.pid, signal.SIGKILL)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
