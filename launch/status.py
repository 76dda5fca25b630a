"""Which runs are going, how far and how fast, which stopped and why: from the run folders alone.

    python launch/status.py runs                     # every run below this folder
    python launch/status.py runs/ms runs/ripu-1      # these
    python launch/status.py --json runs              # one JSON list, for scripts
    watch -n 60 python launch/status.py runs

States: running, running? (no lock is seen from here, but its file names a process of another machine and was
touched within five minutes: it runs on a file system whose locks do not reach other machines, or was just
killed or copied), done, preempted (stopped by a signal, the same command continues), waiting (for labels from
people), died (no process holds the folder and it left no mark: the same command continues), unreadable.
It reads only, also while runs write, and also from another machine that sees the folder. It is quick: torch
is not imported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils import folder_lock
from utils.errors import UserError, entry_point
from utils.run_files import (
    ARGUMENTS_FILE,
    DONE,
    ENDED_BY,
    LOCK_FILE,
    LOG_FILE,
    METRICS_FILE,
    PREEMPTED,
    SNAPSHOT_NAME,
    WAITING_FOR_LABELS,
)

RUNNING, PERHAPS_RUNNING = "running", "running?"
STATE_OF_MARK = {DONE: "done", PREEMPTED: "preempted", WAITING_FOR_LABELS: "waiting"}
DEPTH = 4  # folders below a root that are searched
TAIL_BYTES = 256 * 1024  # of a log that are read
RATE_LINES = 10  # log lines over which the rate is taken
_LAST_START = re.compile(r"run folder .* process\(es\) on ")


@dataclass(frozen=True, slots=True)
class Status:
    """One run, as its folder shows it; None is unknown.

    Attributes:
        folder: of the run.
        state: running, running?, done, preempted, waiting, died or unreadable.
        why: what the mark says, or the error that ended the run; "" where the state says all.
        script: that trains, such as train_ms.py.
        iteration: last one logged, or of the newest snapshot.
        stop: iteration at which it ends.
        rate: iterations per second over the newest log lines.
        left_s: seconds to the end at this rate; only of a running one.
        snapshot: iteration of the newest snapshot.
        miou: newest score on target validation images, in percent.
        silent_s: seconds since it wrote anything.
        processes: of the newest start.
        host: of the process that holds the folder, or of the newest start.
        starts: how often it was started.
    """

    folder: str
    state: str
    why: str = ""
    script: str | None = None
    iteration: int | None = None
    stop: int | None = None
    rate: float | None = None
    left_s: float | None = None
    snapshot: int | None = None
    miou: float | None = None
    silent_s: float | None = None
    processes: int | None = None
    host: str | None = None
    starts: int = 0


def find_runs(places: Iterable[Path]) -> list[Path]:
    """The run folders among these and below them.

    Raises:
        UserError: a place that is not there, or holds no run.
    """
    found: dict[Path, None] = {}
    for place in places:
        try:
            is_folder = place.is_dir()
        except OSError as error:
            raise UserError(f"{place} cannot be read: {error}") from error
        if not is_folder:
            raise UserError(f"{place} is no folder; give run folders, or a folder of runs")
        below = list(_search(place, DEPTH))
        if not below:
            raise UserError(f"no run below {place} (a folder with {ARGUMENTS_FILE}); give another folder")
        found |= dict.fromkeys(below)
    return list(found)


def _search(folder: Path, depth: int) -> Iterator[Path]:
    try:
        if (folder / ARGUMENTS_FILE).exists():
            yield folder
            return
        if depth == 0:
            return
        below = sorted(entry for entry in folder.iterdir() if entry.name[0] != "." and _is_folder(entry))
    except OSError:  # not ours to read, or removed meanwhile
        return
    for entry in below:
        yield from _search(entry, depth - 1)


def _is_folder(entry: Path) -> bool:
    """Whether it can be seen to be one; an entry that cannot be asked does not hide its neighbours."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_status(folder: Path) -> Status:
    """The state of one run folder; never raises for what is in it."""
    try:
        record = json.loads((folder / ARGUMENTS_FILE).read_bytes())
        settings, start = dict(record["arguments"]), dict(record["starts"][-1])
        starts = len(record["starts"])
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        why = _one_line(f"{ARGUMENTS_FILE}: {type(error).__name__}: {error}")
        return Status(str(folder), "unreadable", why)
    lines = _metric_lines(folder)
    state, why, owner = _state(folder)
    snapshot = _newest_snapshot(folder)
    logged = [line["iteration"] for line in lines if "time/seconds" in line]
    iteration = max([*logged[-1:], *([snapshot] if snapshot is not None else [])], default=None)
    stop = _number(settings.get("num_steps_stop"))
    rate = _rate(lines)
    running = state in (RUNNING, PERHAPS_RUNNING)
    return Status(
        folder=str(folder),
        state=state,
        why=why,
        script=_name(settings.get("script")),
        iteration=iteration,
        stop=None if stop is None else int(stop),
        rate=rate,
        left_s=max(stop - iteration, 0) / rate
        if running and rate and iteration is not None and stop is not None
        else None,
        snapshot=snapshot,
        miou=next((x for line in reversed(lines) if (x := _number(line.get("val/miou"))) is not None), None),
        silent_s=_silence(folder),
        processes=_count(start.get("world_size")),
        host=_name(owner.get("host")) or _name(start.get("host")),
        starts=starts,
    )


def _number(value: Any) -> float | None:
    """A finite number of a sensible size."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < 1e15 else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 10**6 else None


def _name(value: Any) -> str | None:
    """A text of the length of a name, such as a host's or a script's."""
    return _one_line(value)[:100] or None if isinstance(value, str) else None


def _one_line(text: str) -> str:
    """Without line ends and what else moves or colours a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _tail(path: Path) -> list[str]:
    """The last whole lines of a file, which may be written meanwhile."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            content = file.read()
    except OSError:
        return []
    lines = content.decode("utf-8", "replace").split("\n")[:-1]  # the last has no end yet
    return lines[1:] if size > TAIL_BYTES else lines


def _metric_lines(folder: Path) -> list[dict[str, Any]]:
    """The newest lines of training, as many as the rate needs, and those with scores; oldest first."""
    found: list[dict[str, Any]] = []
    training = 0
    for text in reversed(_tail(folder / METRICS_FILE)):
        if training > RATE_LINES and '"val/miou"' not in text:
            continue  # parsing all would take most of the time
        line = _metric_line(text)
        if line is not None:
            found.append(line)
            training += _is_training(line)
    return found[::-1]


def _metric_line(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or not isinstance(line.get("iteration"), int):
        return None
    return line if _number(line["iteration"]) is not None else None


def _is_training(line: dict[str, Any]) -> bool:
    return (_number(line.get("time/seconds")) or 0) > 0


def _rate(lines: Sequence[dict[str, Any]]) -> float | None:
    """Iterations per second of training, evaluations and other events left out."""
    training = [line for line in lines if _is_training(line)][-RATE_LINES - 1 :]
    steps = [(b["iteration"] - a["iteration"], b["time/seconds"]) for a, b in pairwise(training)]
    steps = [(done, seconds) for done, seconds in steps if done > 0]
    return sum(done for done, _ in steps) / sum(seconds for _, seconds in steps) if steps else None


def _state(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """State, reason, and who holds the folder."""
    owner = folder_lock.holder(folder / LOCK_FILE)
    if owner is not None:
        return RUNNING, "", owner
    ending, why = _ending(folder)
    elsewhere = folder_lock.seen_elsewhere(folder / LOCK_FILE)
    if elsewhere is None or ending == STATE_OF_MARK[PREEMPTED]:  # each start removes that mark first
        return ending, why, {}
    owner, seconds = elsewhere
    why = f"{LOCK_FILE} names process {owner['pid']} on {_name(owner['host'])}"
    why = f"{why} and was touched {_duration(seconds)} ago; no lock is seen from this machine"
    return PERHAPS_RUNNING, f"{why}: it runs there, or was just killed or copied", owner


def _ending(folder: Path) -> tuple[str, str]:
    """State and reason of a run that no process holds."""
    for mark in (WAITING_FOR_LABELS, PREEMPTED, DONE):
        try:
            content = json.loads((folder / mark).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError) as error:
            return STATE_OF_MARK[mark], _one_line(f"{mark} cannot be read: {error}")
        text = content.get("text") if isinstance(content, dict) else None
        return STATE_OF_MARK[mark], _one_line(text) if isinstance(text, str) else ""
    why = "without a word: killed, or the machine stopped"
    for line in _tail(folder / LOG_FILE):
        if f" ERROR {ENDED_BY} " in line:
            why = _one_line(line.partition(f"{ENDED_BY} ")[2])
        elif _LAST_START.search(line):
            why = "without a word: killed, or the machine stopped"
    return "died", why


def _newest_snapshot(folder: Path) -> int | None:
    try:
        found = [SNAPSHOT_NAME.fullmatch(entry.name) for entry in folder.iterdir()]
    except OSError:
        return None
    return max((int(match.group(1)) for match in found if match), default=None)


def _silence(folder: Path) -> float | None:
    times = []
    for name in (LOG_FILE, METRICS_FILE, ARGUMENTS_FILE):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(0.0, round(time.time() - max(times), 1)) if times else None


def format_table(found: Sequence[Status]) -> str:
    """One line per run, under a line of titles."""
    rows = [("run", "state", "iteration", "it/s", "left", "mIoU", "written", "processes", "why")]
    for status in found:
        rate = "" if status.rate is None else f"{status.rate:.3g}"
        place = f"{_or_unknown(status.processes)} on {_or_unknown(status.host)}"
        rows.append(
            (
                _one_line(status.folder),
                status.state,
                f"{_or_unknown(status.iteration)}/{_or_unknown(status.stop)}",
                rate if status.state in (RUNNING, PERHAPS_RUNNING) else "",
                _duration(status.left_s),
                "" if status.miou is None else f"{status.miou:.2f}",
                f"{_duration(status.silent_s)} ago" if status.silent_s is not None else "",
                place if status.state != "unreadable" else "",
                status.why,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )


def _or_unknown(value: int | str | None) -> str:
    return "?" if value is None else str(value)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    total = round(seconds)
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}"


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "places",
        nargs="*",
        type=Path,
        default=[Path("runs")],
        metavar="FOLDER",
        help="run folders, or folders to search for them (default: runs)",
    )
    parser.add_argument("--json", action="store_true", help="a JSON list with one entry per run")
    parser.add_argument(
        "--state",
        action="append",
        choices=(RUNNING, PERHAPS_RUNNING, "done", "preempted", "waiting", "died", "unreadable"),
        help=f"only runs in this state; may be given several times (quote '{PERHAPS_RUNNING}' in a shell)",
    )
    args = parser.parse_args(argv)
    found = [read_status(folder) for folder in find_runs(args.places)]
    chosen = [status for status in found if args.state is None or status.state in args.state]
    if args.json:
        print(json.dumps([asdict(status) for status in chosen], indent=1))
    elif chosen:
        print(format_table(chosen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
