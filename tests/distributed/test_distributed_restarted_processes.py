"""torchrun --max-restarts: processes that are started again meet each other and nobody of the start before.

Run by pytest it starts itself as a program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed.launching import torchruns
from utils import distributed
from utils.errors import entry_point

STEPS = 6
DEATHS = 2


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Some collectives; rank 1 kills itself in its first starts. Rank 0 leaves a file once all is done."""
    folder = Path(argv[0])
    with distributed.session("cpu", timeout_s=60) as world:
        for step in range(STEPS):
            distributed.now_is(f"in step {step}")
            deaths = len(list(folder.glob("death_*")))
            if world.rank == 1 and step == 3 and deaths < DEATHS:
                (folder / f"death_{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            distributed.any_rank(False, what="a step")
        distributed.barrier("the last step")
        if world.is_main:
            (folder / "finished").touch()
    return 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_each_death_costs_one_restart(nodes: int, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with torchruns(nodes, [__file__, str(tmp_path)], output, restarts=DEATHS) as launchers:
        codes = [launcher.wait(timeout=200) for launcher in launchers]
    text = output.read_text()
    assert codes == [0] * nodes, text
    assert (tmp_path / "finished").exists(), text
    assert len(list(tmp_path.glob("death_*"))) == DEATHS
    lines = [line for line in text.splitlines() if line.startswith("stopped")]
    assert lines or nodes == 1, text  # one torchrun ends the survivor itself
    assert all("in step 3 failed: rank 1 did not reach it" in line for line in lines), text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
