"""Two processes open one run folder: both learn what rank 0 finds, and the reason is printed once.

Run by pytest it starts itself as a program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from utils import distributed, runs
from utils.errors import entry_point


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Opens the folder with the given seed; every rank leaves a file named after what came of it."""
    folder, seed = Path(argv[0]), int(argv[1])
    with distributed.session("cpu", timeout_s=60) as world:
        report = folder.with_name(f"rank{world.rank}-seed{seed}")
        report.write_text("refused")
        with runs.open_run(folder, {"seed": seed}, world=world, keep=1, free_to_change=frozenset()) as run:
            run.log.scalars(1, {"loss": float(world.rank)})
            run.mark(runs.DONE, "finished")
            report.write_text("opened")
    return 0


def test_one_process_writes_and_both_are_refused_with_one_line(tmp_path: Path) -> None:
    from launching import run_processes

    folder = tmp_path / "run"
    run_processes(2, [__file__, str(folder), "1"])
    assert [(tmp_path / f"rank{rank}-seed1").read_text() for rank in range(2)] == ["opened"] * 2
    metrics = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in metrics] == [0.0]
    assert json.loads((folder / "arguments.json").read_text())["starts"][0]["world_size"] == 2

    refused = run_processes(2, [__file__, str(folder), "2"], check=False)
    assert refused.returncode != 0
    assert refused.stderr.count("--seed 1 -> 2") == 1
    assert "Traceback" not in refused.stderr.split("--seed 1 -> 2")[0]
    assert [(tmp_path / f"rank{rank}-seed2").read_text() for rank in range(2)] == ["refused"] * 2
    assert (folder / runs.DONE).exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
