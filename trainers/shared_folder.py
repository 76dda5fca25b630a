"""A run folder that all processes see: what one rank writes, the others read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from utils import distributed
from utils.errors import UserError
from utils.files import write_atomically

PATIENCE_S = 60.0  # a network file system shows a new file to other machines after so long at the latest


def seen_in_time(is_there: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> bool:
    """Whether something that another machine has written appears here within that time."""
    end = time.monotonic() + patience_s
    while not is_there():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def check_seen_everywhere(path: Path, what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Waits until every rank sees a file that rank 0 has written. Collective.

    Raises:
        UserError: on every rank: some never do, and the folder is not shared.
    """
    missing = not seen_in_time(path.exists, patience_s=patience_s)
    blind = [rank for rank, flag in enumerate(distributed.all_gather_objects(missing)) if flag]
    if blind:
        raise UserError(
            f"ranks {blind} do not see {what} that rank 0 has written as {path}; active learning needs "
            "--snapshot-dir on a file system that all machines share",
            everywhere=True,
        )


def check_is_shared(folder: Path, *, patience_s: float = PATIENCE_S) -> None:
    """Whether all ranks see what rank 0 writes into `folder`; before long work, not after it. Collective.

    Raises:
        UserError: on every rank: some do not, or the folder cannot be written.
    """
    if distributed.world_size() == 1:
        return
    path = folder / f"seen-by-all-{time.time_ns()}"

    def write() -> Path:
        write_atomically(path, "")
        return path

    path = distributed.from_rank_zero(write)
    try:
        check_seen_everywhere(path, "the test file", patience_s=patience_s)
    finally:
        if distributed.is_main():
            path.unlink(missing_ok=True)
