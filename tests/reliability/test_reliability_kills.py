"""kill -9 of any rank at any moment: the same command ends with the bits of the run that was not killed."""

from __future__ import annotations

import random
import signal
import zlib
from pathlib import Path

import pytest

from tests.forked_runs import Signal, assert_same, run_forked
from tests.reliability.tiny_runs import ITERATIONS, KINDS, command, finished_state, write_data
from utils.runs import DONE

PROCESSES = 2
KILLS = 20  # per kind of training in the long test
LONGEST_DELAY_S = 0.4  # a few iterations, snapshots, rounds or evaluations
ITERATION = "trainers.base:Trainer.run_iteration"
LATEST = Signal("trainers.base:Trainer._end", before=True)  # who is still alive then is killed then


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs read."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Uninterrupted runs, by kind; filled as they are asked for."""
    return {"": tmp_path_factory.mktemp("whole")}


def uninterrupted(kind: str, data: Path, whole: dict[str, Path]) -> Path:
    """The run of this kind that nobody kills."""
    if kind not in whole:
        whole[kind] = whole[""] / kind
        words = command(kind, data, whole[kind])
        assert run_forked(KINDS[kind].script, words, processes=PROCESSES) == [0] * PROCESSES
    return whole[kind]


def killed_and_continued(kind: str, data: Path, folder: Path, kills: list[tuple[int, Signal]]) -> None:
    """A run in pieces: each ends by the kill of one rank, but for the last."""
    words, script = command(kind, data, folder), KINDS[kind].script
    for rank, kill in kills:
        done = (folder / DONE).exists()  # a rank killed at the very end leaves the others to finish
        codes = run_forked(script, words, processes=PROCESSES, changes=[kill, LATEST], rank=rank)
        assert done or codes[rank] == -signal.SIGKILL
    assert run_forked(script, words, processes=PROCESSES) == [0] * PROCESSES


def random_kill(drawn: random.Random, rank: int) -> tuple[int, Signal]:
    """Rank `rank` is killed some time after a random iteration of its piece begins."""
    call = drawn.randint(1, ITERATIONS - 1)
    delay = drawn.uniform(0.001, LONGEST_DELAY_S)
    return rank, Signal(ITERATION, call=call, before=True, delay_s=delay)


@pytest.mark.parametrize("kind", ["rectified", "ripu", "mada", "dida"])
def test_each_rank_is_killed_once(kind: str, data: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    drawn = random.Random(zlib.crc32(kind.encode()))
    kills = [random_kill(drawn, rank) for rank in range(PROCESSES)]
    killed_and_continued(kind, data, tmp_path / "run", kills)
    assert_same(finished_state(tmp_path / "run"), finished_state(uninterrupted(kind, data, whole)))


@pytest.mark.long
@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("kind", KINDS)
def test_a_random_rank_is_killed_at_a_random_moment(
    kind: str, number: int, data: Path, whole: dict[str, Path], tmp_path: Path
) -> None:
    drawn = random.Random(f"{kind} {number}")
    killed_and_continued(kind, data, tmp_path / "run", [random_kill(drawn, number % PROCESSES)])
    assert_same(finished_state(tmp_path / "run"), finished_state(uninterrupted(kind, data, whole)))
