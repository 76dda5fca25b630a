"""What a run reports: console and log.txt, scalars and pictures by iteration, the progress line."""

from __future__ import annotations

import json
import logging
import math
import re
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import pictures
from utils.errors import UserError
from utils.files import cannot_write, write_atomically
from utils.run_files import METRICS_FILE

logger = logging.getLogger(__name__)

HANDLER_PREFIX = "segadapt:"  # names of the handlers that `configure` owns on the root logger
LONGEST_HOLD = 1000  # messages
LONGEST_LINE = 8  # numbers behind a progress line
_NOT_IN_TAGS = re.compile(r"[^-/\w.]")  # what tensorboard refuses in names


class _Held(logging.Handler):
    """Keeps the newest messages until there is a file for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=LONGEST_HOLD)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps one message."""
        self.records.append(record)


def configure(rank: int, file: Path | None) -> None:
    """Sends messages to the console (rank 0 from INFO, others from WARNING) and appends them to `file`.

    Without a file rank 0 keeps them, and the next call with one writes them into it: what a run finds out
    before its folder is open belongs into its log. Calling it again replaces what the call before set up;
    other handlers stay.
    """
    root = logging.getLogger()
    held = [record for handler in root.handlers if isinstance(handler, _Held) for record in handler.records]
    for handler in [h for h in root.handlers if (h.name or "").startswith(HANDLER_PREFIX)]:
        root.removeHandler(handler)
        handler.close()
    where = "" if rank == 0 else f"[rank {rank}] "
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter(f"%(asctime)s {where}%(message)s", datefmt="%H:%M:%S"))
    _add_handler(console, "console")
    if file is not None:
        to_file = _LogFile(file, encoding="utf-8")
        to_file.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {where}%(message)s"))
        for record in held:
            to_file.handle(record)
        _add_handler(to_file, "file")
    elif rank == 0:
        _add_handler(_Held(), "held")
    root.setLevel(logging.INFO if rank == 0 else logging.WARNING)


def write_to_file(message: str) -> None:
    """An error that the console hears of elsewhere, for the log file alone, if there is one."""
    record = logging.LogRecord(__name__, logging.ERROR, "", 0, message, None, None)
    for handler in logging.getLogger().handlers:
        if handler.name == f"{HANDLER_PREFIX}file":
            handler.handle(record)


def _add_handler(handler: logging.Handler, name: str) -> None:
    handler.set_name(HANDLER_PREFIX + name)
    logging.getLogger().addHandler(handler)


class _LogFile(logging.FileHandler):
    """log.txt; when it cannot be written, as on a full disk, the console says so once and has the rest."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by `emit`, in place of the standard library's traceback for every message."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failed:
            self._failed = True
            reason = error.strerror or error
            print(f"warning: {self.baseFilename} cannot be written: {reason}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Closes the file, also where what it still holds cannot be written."""
        try:
            super().close()
        except OSError:
            logging.Handler.close(self)


class MetricLog:
    """Scalars to `metrics.jsonl` and tensorboard by the same names; pictures to `pictures/` and tensorboard.

    Files are opened at the first value, so an empty run leaves none.
    """

    def __init__(self, folder: Path | None, *, tensorboard: bool = True) -> None:
        """`folder` is the run folder, or None on ranks that write nothing.

        Raises:
            UserError: tensorboardX is wanted and not installed.
        """
        self._folder = folder
        self._writer_class = _summary_writer_class() if tensorboard and folder is not None else None
        self._writer: Any = None
        self._purge_step: int | None = None

    def scalars(self, iteration: int, values: Mapping[str, float]) -> None:
        """Logs plain numbers; in metrics.jsonl a value that is not finite is null.

        Raises:
            UserError: the disk is full. A line that was cut off is dropped when the run is continued.
        """
        if self._folder is None or not values:
            return
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        line = json.dumps({"iteration": iteration, "time": round(time.time(), 3), **finite})
        try:
            with (self._folder / METRICS_FILE).open("a", encoding="utf-8") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise cannot_write(self._folder / METRICS_FILE, error) from error
        writer = self._open_writer()
        if writer is not None:
            for name, value in numbers.items():
                writer.add_scalar(_NOT_IN_TAGS.sub("_", name), value, iteration)

    def picture(self, iteration: int, name: str, array: np.ndarray) -> None:
        """Writes an (H, W, 3) uint8 RGB picture to `pictures/iteration_0001200_<name>.png`."""
        if self._folder is None:
            return
        folder = self._folder / "pictures"
        folder.mkdir(exist_ok=True)
        pictures.write_png(folder / f"iteration_{iteration:07d}_{name.replace('/', '_')}.png", array)
        writer = self._open_writer()
        if writer is not None:
            writer.add_image(name, array, iteration, dataformats="HWC")

    def rewind(self, iteration: int) -> None:
        """Drops what was logged after `iteration`, and a last line that a killed run left unfinished."""
        if self._folder is None:
            return
        self.close()
        self._purge_step = iteration + 1
        file = self._folder / METRICS_FILE
        if not file.exists():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _iteration_of(line) <= iteration]
        write_atomically(file, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Writes out what tensorboard still holds back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open_writer(self) -> Any:
        if self._writer is None and self._writer_class is not None:
            self._writer = self._writer_class(logdir=str(self._folder), purge_step=self._purge_step)
            _go_on_without_disk(self._writer)
            self._purge_step = None
        return self._writer


def _summary_writer_class() -> type:
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError(
            "tensorboardX is not installed: pip install tensorboardX, or --no-tensorboard"
        ) from error
    return SummaryWriter


def _go_on_without_disk(writer: Any) -> None:
    """Lets tensorboardX drop events that cannot be written, with one warning.

    Otherwise a full disk ends its thread, and the run hangs as soon as the thread's queue is full.
    """
    events = getattr(getattr(writer.file_writer, "event_writer", None), "_ev_writer", None)
    failed = False

    def dropping(function: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any) -> Any:
            nonlocal failed
            try:
                return None if failed else function(*args)
            except OSError as error:
                failed = True
                logger.warning("tensorboard events cannot be written: %s", error.strerror or error)
                return None

        return attempt

    for name in ("write_event", "flush", "close"):
        if hasattr(events, name):
            setattr(events, name, dropping(getattr(events, name)))


def _iteration_of(line: str) -> float:
    try:
        return int(json.loads(line)["iteration"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class Progress:
    """The console line of a run: how far, how fast, how long still, and what it waits for.

    Args:
        first: updates already done when this process started.
        last: updates at the end of the run.
        device: whose peak memory is reported.
        smoothing: share of the old rate that a new line keeps, in [0, 1).
    """

    def __init__(
        self, first: int, last: int, *, device: torch.device | None = None, smoothing: float = 0.7
    ) -> None:
        self._previous = first
        self._last = last
        self._device = device
        self._smoothing = smoothing
        self._seconds_per_iteration: float | None = None

    def line(
        self,
        iteration: int,
        seconds: float,
        *,
        data_seconds: float = 0.0,
        values: Mapping[str, float] | None = None,
    ) -> str:
        """The line after `iteration` updates.

        Args:
            iteration: updates done.
            seconds: wall time since the line before (or the start).
            data_seconds: the part of it spent waiting for batches.
            values: numbers of which the most telling are shown behind, see `brief`.
        """
        rate = self._rate(iteration, seconds)
        left = (self._last - iteration) / rate if rate > 0 else math.inf
        wait = 100 * data_seconds / seconds if seconds > 0 else 0.0
        parts = [
            f"iter {iteration}/{self._last}",
            f"{100 * iteration // max(self._last, 1):3d} %",
            f"{rate:.3g} it/s",
            f"eta {format_duration(left)}",
            f"data wait {wait:.0f} %",
            f"peak {peak_memory_gib(self._device):.2f} GiB",
        ]
        parts += [f"{name} {value:.4g}" for name, value in brief(values or {}).items()]
        return "  ".join(parts)

    def _rate(self, iteration: int, seconds: float) -> float:
        """Smoothed iterations per second, also after lines of unequal distance."""
        done = iteration - self._previous
        self._previous = iteration
        if done > 0 and seconds > 0:
            old = self._seconds_per_iteration
            now = seconds / done
            share = self._smoothing
            self._seconds_per_iteration = now if old is None else share * old + (1 - share) * now
        return 1 / self._seconds_per_iteration if self._seconds_per_iteration else 0.0


def brief(values: Mapping[str, float]) -> dict[str, float]:
    """The scalars that a progress line has room for: losses of main heads first, then what is neither a loss
    nor an accuracy, auxiliary losses, accuracies; alphabetical within. `metrics.jsonl` has them all."""

    def order(name: str) -> tuple[int, str]:
        if name.startswith("loss/"):
            return (2 if name.endswith("_aux") else 0), name
        return (3 if name.startswith("accuracy/") else 1), name

    return {name: values[name] for name in sorted(values, key=order)[:LONGEST_LINE]}


def peak_memory_gib(device: torch.device | None = None) -> float:
    """The most memory used so far: tensors on a CUDA device, otherwise the whole process (resident)."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def format_duration(seconds: float) -> str:
    """`h:mm:ss`, or `?` for an unknown (infinite) time."""
    if not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"
