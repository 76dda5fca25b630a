"""Work on many files in several processes, with a progress line on a terminal or in a log."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import TextIO, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_CHUNK = 8  # files a worker gets at a time


def map_files(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    num_workers: int,
    progress: ProgressLine | None = None,
) -> Iterator[Result]:
    """Results of `function` in the order of `tasks`, from `num_workers` processes (0: this one).

    `function` must be importable by name and its arguments picklable.
    """
    if num_workers == 0 or len(tasks) < 2:
        results: Iterator[Result] = map(function, tasks)
        yield from _counted(results, progress)
        return
    # Not a multiprocessing.Pool: it ends workers by SIGTERM, which those of a training script hold back.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(tasks)), mp_context=context)
    try:
        yield from _counted(pool.map(function, tasks, chunksize=_CHUNK), progress)
    finally:
        pool.shutdown(cancel_futures=True)


def _counted(results: Iterator[Result], progress: ProgressLine | None) -> Iterator[Result]:
    for done, result in enumerate(results, 1):
        if progress is not None:
            progress.show(done)
        yield result


@dataclass(slots=True)
class ProgressLine:
    """`1200/24966 images  35.1/s  11:17 left`, every `interval` seconds; in place on a terminal."""

    total: int
    what: str = "images"
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    interval: float = 2.0
    _start: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def show(self, done: int) -> None:
        """Reports that `done` of the total are finished."""
        now = time.monotonic()
        if now - self._last < self.interval and done < self.total:
            return
        self._last = now
        rate = done / max(now - self._start, 1e-9)
        minutes, seconds = divmod(round((self.total - done) / rate), 60)
        line = f"{done}/{self.total} {self.what}  {rate:.1f}/s  {minutes}:{seconds:02d} left"
        if self.stream.isatty():
            end = "\n" if done == self.total else ""
            print(f"\r{line:<60}", end=end, file=self.stream, flush=True)
        else:
            print(line, file=self.stream, flush=True)
