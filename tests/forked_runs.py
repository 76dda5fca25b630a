"""Runs of an entry point in processes forked from one that has imported it: they can be killed for real, and
starting one costs next to nothing."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests.distributed.launching import REPOSITORY, free_port
from utils import stopping

TIMEOUT_S = 300  # also on a busy machine


@dataclass(frozen=True, slots=True)
class Signal:
    """This process gets a signal at a call of a function.

    Attributes:
        where: the function, as "module:name" or "module:Class.name".
        call: the how manyth.
        before: it comes before the call, not after it.
        number: of the signal.
        delay_s: it comes so many seconds after that place, wherever the process is then.
    """

    where: str
    call: int = 1
    before: bool = False
    number: int = signal.SIGKILL
    delay_s: float = 0.0

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the function is a wrapped one."""
        with _replaced(self.where, self._counting):
            yield

    def _counting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def wrapper(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if self.before and calls == self.call:
                self._send()
            result = function(*args, **options)
            if not self.before and calls == self.call:
                self._send()
            return result

        return wrapper

    def _send(self) -> None:
        if self.delay_s:
            threading.Timer(self.delay_s, os.kill, (os.getpid(), self.number)).start()
        else:
            os.kill(os.getpid(), self.number)


@dataclass(frozen=True, slots=True)
class Value:
    """A constant of a module has another value: "module:NAME"."""

    where: str
    value: object

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, it has."""
        with _replaced(self.where, lambda _: self.value):
            yield


@dataclass(frozen=True, slots=True)
class Selections:
    """Every image that is selected leaves a line "round name" in a file."""

    file: Path

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, it does."""
        with _replaced("trainers.query_round:select_image", self._recording):
            yield

    def _recording(self, select_image: Callable[..., Any]) -> Callable[..., Any]:
        def recording(logits: torch.Tensor, name: str, **options: Any) -> object:
            with self.file.open("a") as file:
                file.write(f"{options['round_number']} {name}\n")
            return select_image(logits, name, **options)

        return recording


@dataclass(frozen=True, slots=True)
class Calls:
    """Every call of a function, "module:name", leaves a line in a file."""

    where: str
    file: Path

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, it does."""
        with _replaced(self.where, self._recording):
            yield

    def _recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def recording(*args: object, **options: object) -> object:
            with self.file.open("a") as file:
                file.write(f"{self.where}\n")
            return function(*args, **options)

        return recording


@dataclass(frozen=True, slots=True)
class FullDisk:
    """The disk of a folder is full from a call of a function on.

    Attributes:
        folder: gets a file "filler" of all that was free.
        where: the function, as in `Signal`.
        call: the how manyth; it comes before it.
    """

    folder: Path
    where: str
    call: int = 1

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, it is."""
        with _replaced(self.where, self._filling):
            yield

    def _filling(self, function: Callable[..., Any]) -> Callable[..., Any]:
        calls = 0

        def wrapper(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == self.call:
                fill(self.folder / "filler")
            return function(*args, **options)

        return wrapper


def fill(path: Path, *, spare: int = 0) -> None:
    """Fills the disk with a file, but for `spare` bytes."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)) == 4096:
            pass
    if spare:
        os.truncate(path, path.stat().st_size - spare)


Change = Signal | Value | Selections | Calls | FullDisk


def run_forked(
    script: str,
    words: Sequence[str],
    *,
    processes: int = 1,
    changes: Sequence[Change] = (),
    rank: int = 0,
    errors: Path | None = None,
) -> list[int]:
    """Runs `main(words)` of an entry point as gloo processes; when one fails, the others are killed.

    Args:
        script: module name.
        words: the arguments.
        processes: how many.
        changes: made in all of them; signals on one rank only.
        rank: that one.
        errors: their standard error goes to the end of this file.

    Returns:
        Exit codes by rank; -9 of a killed one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_al", __name__])  # with it comes what all entry points import
    port = str(free_port())
    children = []
    for number in range(processes):
        launch: dict[str, str] = {}
        if processes > 1:
            launch = {"RANK": str(number), "LOCAL_RANK": str(number), "MASTER_ADDR": "127.0.0.1"}
            launch |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "MASTER_PORT": port}
        own = [change for change in changes if number == rank or not isinstance(change, Signal)]
        children.append(context.Process(target=_run, args=(script, list(words), launch, own, errors)))
        children[-1].start()
    _wait(children)
    return [child.exitcode for child in children]


def _wait(children: Sequence[BaseProcess]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while any(child.is_alive() for child in children) and time.monotonic() < deadline:
        if any(child.exitcode for child in children):
            break
        time.sleep(0.01)
    late = [child for child in children if child.is_alive()]
    for child in late:
        child.kill()
    for child in children:
        child.join()
    assert time.monotonic() < deadline, f"{len(late)} processes took over {TIMEOUT_S} s"


def _run(
    script: str, words: list[str], launch: dict[str, str], changes: Sequence[Change], errors: Path | None
) -> None:
    """What a forked process does."""
    if errors is not None:
        with errors.open("ab") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    os.environ.update(launch)
    os.chdir(REPOSITORY)
    torch.set_num_threads(1)
    stopping.install()
    with contextlib.ExitStack() as stack:
        for change in changes:
            stack.enter_context(change.installed())
        code = importlib.import_module(script).main(words)
    sys.exit(code)


@contextlib.contextmanager
def _replaced(where: str, make: Callable[[Any], Any]) -> Iterator[None]:
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    setattr(owner, name, make(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def assert_same(ours: Any, theirs: Any, place: str = "snapshot") -> None:
    """Equal structure and equal bits."""
    assert type(ours) is type(theirs), place
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), place
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), place
        for name, value in theirs.items():
            assert_same(ours[name], value, f"{place}/{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), place
        for number, value in enumerate(theirs):
            assert_same(ours[number], value, f"{place}/{number}")
    else:
        assert ours == theirs, place
