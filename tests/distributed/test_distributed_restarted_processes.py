"""torchrun --max-restarts: processes that are started again meet each other and nobody of the start before.

Run by pytest it starts itself as a program.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.distributed.launching import torchruns
from utils import distributed
from utils.errors import entry_point

STEPS = 6
DEATHS = ("before it meets the others", "in step 3")  # of rank 1, one in each of its first starts


def die_if(where: str, folder: Path) -> None:
    """Kills this process if its start is the one that ends there."""
    deaths = len(list(folder.glob("death_*")))
    if DEATHS[deaths : deaths + 1] == (where,):
        (folder / f"death_{deaths}").touch()
        os.kill(os.getpid(), signal.SIGKILL)


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Some collectives; rank 1 is slow and kills itself. Rank 0 leaves a file once all is done."""
    folder = Path(argv[0])
    if os.environ["RANK"] == "1":
        time.sleep(1)  # the others wait already
        die_if(DEATHS[0], folder)
    with distributed.session("cpu", timeout_s=60) as world:
        for step in range(STEPS):
            place = f"in step {step}"
            distributed.now_is(place)
            if world.rank == 1:
                die_if(place, folder)
            distributed.any_rank(False, what="a step")
        distributed.barrier("the last step")
        if world.is_main:
            (folder / "finished").touch()
    return 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_each_death_costs_one_restart(nodes: int, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with torchruns(nodes, [__file__, str(tmp_path)], output, restarts=len(DEATHS)) as launchers:
        codes = [launcher.wait(timeout=200) for launcher in launchers]
    text = output.read_text()
    assert codes == [0] * nodes, text
    assert (tmp_path / "finished").exists(), text
    assert len(list(tmp_path.glob("death_*"))) == len(DEATHS)
    if nodes == 2:  # one torchrun ends the survivor itself
        (line,) = [line for line in text.splitlines() if line.startswith("stopped")]
        assert "in step 3 failed: rank 1 did not reach it" in line, text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
