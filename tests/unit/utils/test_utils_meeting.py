"""Processes of one start meet through a store in which earlier starts have left their words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import torch.distributed as dist

from utils import meeting, stopping
from utils.meeting import NobodyMetError, meet

SIZE = 3
SOON_S = 0.3


class Killed(Exception):
    """In place of a signal that threads cannot get."""


class Process:
    """A thread in place of a process, with its own way to the store, which can be cut."""

    def __init__(self, pool: ThreadPoolExecutor, store: dist.Store, rank: int) -> None:
        self._store = store
        self._killed = threading.Event()
        self._begun = threading.Event()
        self.part: Future[str] = pool.submit(meet, self, rank, SIZE, 20)
        assert self._begun.wait(20)

    def kill(self) -> None:
        self._killed.set()
        with pytest.raises(Killed):
            self.part.result(timeout=20)

    def _alive(self) -> dist.Store:
        if self._killed.is_set():
            raise Killed
        return self._store

    def set(self, key: str, value: str) -> None:
        self._alive().set(key, value)

    def get(self, key: str) -> bytes:
        return self._alive().get(key)

    def check(self, keys: list[str]) -> bool:
        return self._alive().check(keys)

    def add(self, key: str, amount: int) -> int:
        value = self._alive().add(key, amount)
        self._begun.set()
        return value


class Machines:
    """Starts processes that share a store."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self.store = dist.HashStore()

    def start(self, rank: int) -> Process:
        return Process(self._pool, self.store, rank)

    def all_meet(self, *ranks: int, waiting: tuple[Process, ...] = ()) -> str:
        """The part of the store that these and those who wait already have agreed on."""
        processes = [*waiting, *(self.start(rank) for rank in ranks)]
        (part,) = {process.part.result(timeout=20) for process in processes}
        return part


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Threads for several starts at once."""
    with ThreadPoolExecutor(16) as pool:
        yield Machines(pool)


def waits(process: Process) -> bool:
    time.sleep(SOON_S)
    return not process.part.done()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_every_start_has_a_part_of_its_own(machines: Machines, order: tuple[int, ...]) -> None:
    parts = {machines.all_meet(*order) for _ in range(3)}
    assert len(parts) == 3


@pytest.mark.parametrize("early", [0, 1])
def test_process_that_is_back_first_waits_for_the_successors_of_the_rest(
    machines: Machines, early: int
) -> None:
    first = machines.all_meet(0, 1, 2)
    process = machines.start(early)
    assert waits(process)
    rest = [rank for rank in range(SIZE) if rank != early]
    assert machines.all_meet(*rest, waiting=(process,)) != first


def test_the_dead_who_never_met_anybody_are_not_waited_for_and_not_met(machines: Machines) -> None:
    for rank in (1, 2, 1):
        machines.start(rank).kill()
    first = machines.start(0)
    assert waits(first)
    machines.all_meet(2, 1, waiting=(first,))


def test_one_who_dies_while_it_waits_for_the_rest_is_replaced(machines: Machines) -> None:
    first, dead = machines.start(0), machines.start(1)
    assert waits(dead)  # it has answered the call
    dead.kill()
    last = machines.start(2)
    assert waits(first)
    machines.all_meet(1, waiting=(first, last))


def test_rank_zero_that_dies_is_replaced(machines: Machines) -> None:
    dead, second = machines.start(0), machines.start(1)
    assert waits(second)
    dead.kill()
    third = machines.start(2)
    assert waits(third)
    machines.all_meet(0, waiting=(second, third))


@pytest.mark.parametrize(
    ("present", "rank", "expected"),
    [
        ((), 0, r"rank 0 waited 0\.2 s for ranks 1, 2, not started or ended again: .* are all 3 started"),
        ((2,), 0, r"rank 0 waited 0\.2 s for rank 1, not started"),
        ((), 1, r"rank 1 waited 0\.2 s for rank 0, which did not start"),
        ((0,), 1, r"rank 1 waited 0\.2 s for rank 0, which waits for others"),
    ],
)
def test_everybody_says_whom_they_waited_for(
    machines: Machines, present: tuple[int, ...], rank: int, expected: str
) -> None:
    waiting = [machines.start(other) for other in present]
    assert not waiting or waits(waiting[0])
    with pytest.raises(NobodyMetError, match=expected):
        meet(machines.store, rank, SIZE, 0.2)
    for process in waiting:
        process.kill()


def test_a_second_start_waits_for_survivors_of_the_first(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "SURVIVORS_S", 0.3)
    machines.store.add("starts/1", 1)
    with pytest.raises(NobodyMetError, match=r"rank 1 waited 0\.5 s"):
        meet(machines.store, 1, SIZE, 0.2)


def test_a_stop_signal_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "STOP_S", 0.1)
    monkeypatch.setattr(stopping, "requested", lambda: "SIGTERM")
    with pytest.raises(NobodyMetError, match="SIGTERM came while rank 2 waited for rank 0"):
        meet(dist.HashStore(), 2, SIZE, 20)
