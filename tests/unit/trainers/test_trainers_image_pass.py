"""One pass over many images: in which state of the network, in which parts, on which process, how far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainers.image_pass import pass_over
from utils import distributed

COUNT = 7


class Work:
    """Notes what is done with each image."""

    def __init__(self) -> None:
        self.network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(2)).train()
        self.seen: list[int] = []
        self.parts: list[list[int]] = []
        self.collected = 0
        self.states: set[tuple[bool, bool, bool]] = set()

    def see(self, loaded: str) -> int:
        """The number that was loaded."""
        tf32 = torch.backends.cudnn.allow_tf32
        self.states.add((self.network[0].training, torch.is_grad_enabled(), tf32))
        self.seen.append(int(loaded))
        return int(loaded)

    def collect(self) -> None:
        """Counts."""
        self.collected += 1

    def done(self, missing: range | list[int] = range(COUNT), **options: Any) -> bool:
        """Whether all were seen."""
        given = {"what": "looking at toys", "part_images": 3, "num_workers": 0, **options}
        return pass_over(
            self.network,
            missing,
            load=str,
            see=self.see,
            keep=self.parts.append,
            collect=self.collect,
            **given,
        )


@pytest.fixture
def work() -> Work:
    return Work()


def after(count: int, work: Work) -> Callable[[], bool]:
    return lambda: len(work.seen) >= count


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_is_seen_once_in_order_and_kept_in_parts(work: Work, num_workers: int) -> None:
    assert work.done(num_workers=num_workers)
    assert work.parts == [[0, 1, 2], [3, 4, 5], [6]]
    assert work.collected == 1


def test_parts_that_come_out_even(work: Work) -> None:
    assert work.done([8, 2, 9, 1, 5, 4])
    assert work.parts == [[8, 2, 9], [1, 5, 4]]


def test_where_nothing_is_missing_the_result_is_collected(work: Work) -> None:
    assert work.done([])
    assert (work.parts, work.collected) == ([], 1)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_what_was_done_before_a_stop_signal_is_kept(work: Work, count: int) -> None:
    assert not work.done(stop=after(count, work))
    assert [number for part in work.parts for number in part] == work.seen == list(range(count))
    assert work.collected == 0


def test_network_computes_exactly_in_eval_mode_meanwhile(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    work.done()
    assert work.states == {(False, False, False)}
    assert work.network[0].training
    assert torch.backends.cudnn.allow_tf32


def test_images_are_split_over_the_processes(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = distributed.shard
    monkeypatch.setattr(distributed, "shard", lambda n: shard(n, rank=1, size=2))
    assert work.done([8, 2, 9, 1, 5])
    assert work.seen == [9, 1, 5]


def test_a_process_that_was_stopped_stops_all(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(distributed, "any_rank", lambda flag, what: asked.append(flag) or True)
    assert not work.done()
    assert asked == [False]
    assert work.collected == 0


def test_buffers_are_those_of_rank_zero_before_an_image_is_seen(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize(network: nn.Module) -> None:
        assert network is work.network
        assert not work.seen
        work.seen.append(-1)

    monkeypatch.setattr(distributed, "synchronize_buffers_", synchronize)
    work.done(range(2))
    assert work.seen == [-1, 0, 1]
