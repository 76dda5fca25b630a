"""A rank that stalls or loses its way ends the run in bounded time, with a line that names it."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.forked_runs import Signal, run_forked
from tests.reliability.tiny_runs import KINDS, command, finished_state, write_data

TIMEOUT_S = 15  # shorter, and a busy machine is taken for a stalled one
ITERATION = "trainers.base:Trainer.run_iteration"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs read."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (Signal(ITERATION, call=4, before=True, number=19), "in iteration 3"),  # SIGSTOP
        (Signal("trainers.base:Trainer.save", call=1, before=True, number=19), "after 2 iterations"),
    ],
    ids=["step", "snapshot"],
)
def test_a_stalled_rank_is_named_with_the_iteration(
    where: Signal, named: str, data: Path, tmp_path: Path
) -> None:
    words = command("source", data, tmp_path / "run", "--timeout-seconds", str(TIMEOUT_S))
    began = time.monotonic()
    codes = run_forked(
        "train_source", words, processes=2, changes=[where], rank=1, errors=tmp_path / "errors"
    )
    assert codes[0] == 1
    assert time.monotonic() - began < 120  # the pieces wait 15 s, 5 s and 10 s at most; the machine is slow
    text = (tmp_path / "errors").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("stopped")]
    assert re.search(rf"{named} failed: rank 1 did not reach it \(time-out {TIMEOUT_S} s\)", line), line
    again = command("source", data, tmp_path / "run")
    assert run_forked(KINDS["source"].script, again, processes=2) == [0, 0]
    finished_state(tmp_path / "run")
