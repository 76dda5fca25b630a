"""Processes of one start meet through a store in which earlier starts have left their words."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch.distributed as dist

from utils.errors import RunStopped
from utils.meeting import meet

SIZE = 3


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads in place of processes; enough for two starts at once."""
    with ThreadPoolExecutor(2 * SIZE) as pool:
        yield pool


def all_meet(pool: ThreadPoolExecutor, store: dist.Store, ranks: tuple[int, ...]) -> set[str]:
    waiting = [pool.submit(meet, store, rank, SIZE, 20) for rank in ranks]
    return {answer.result() for answer in waiting}


def test_every_start_has_a_part_of_its_own(pool: ThreadPoolExecutor) -> None:
    store = dist.HashStore()
    parts = [all_meet(pool, store, order) for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0))]
    assert all(len(part) == 1 for part in parts)
    assert len(set.union(*parts)) == 3


def test_process_that_is_back_first_waits_for_the_new_rank_zero(pool: ThreadPoolExecutor) -> None:
    store = dist.HashStore()
    (first,) = all_meet(pool, store, (0, 1, 2))
    early = pool.submit(meet, store, 2, SIZE, 20)  # its machine was quicker than rank 0's
    with pytest.raises(TimeoutError):
        early.result(timeout=0.3)
    (second,) = all_meet(pool, store, (0, 1))
    assert early.result() == second != first


def test_rank_zero_does_not_take_the_dead_for_newcomers(pool: ThreadPoolExecutor) -> None:
    store = dist.HashStore()
    all_meet(pool, store, (0, 1, 2))
    early = pool.submit(meet, store, 0, SIZE, 20)
    with pytest.raises(TimeoutError):
        early.result(timeout=0.3)
    assert all_meet(pool, store, (2, 1)) == {early.result()}


def test_machines_whose_launchers_count_differently_meet(pool: ThreadPoolExecutor) -> None:
    store = dist.HashStore()
    for _ in range(3):  # rank 1 dies before it meets anybody
        with pytest.raises(RunStopped, match=r"rank 1 waited 0\.2 s for rank 0"):
            meet(store, 1, SIZE, 0.2)
    assert len(all_meet(pool, store, (1, 2, 0))) == 1


def test_rank_zero_names_those_who_do_not_come(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(RunStopped, match=r"waited 0\.2 s for ranks 1, 2: are all 3 processes started"):
        meet(dist.HashStore(), 0, SIZE, 0.2)
