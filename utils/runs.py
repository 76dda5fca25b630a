"""The run folder: who may write it, with which arguments it was started, and how it ended."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch

from utils import distributed, logs
from utils.distributed import World
from utils.errors import UserError
from utils.files import write_atomically
from utils.folder_lock import FolderLock
from utils.run_files import (
    ARGUMENTS_FILE,
    DONE,
    ENDED_BY,
    LOCK_FILE,
    LOG_FILE,
    MARKS,
    PREEMPTED,
    WAITING_FOR_LABELS,
)
from utils.snapshots import SnapshotFolder, has_snapshots, newest_iteration

__all__ = [
    "ARGUMENTS_FILE",
    "DONE",
    "LOCK_FILE",
    "MARKS",
    "PREEMPTED",
    "WAITING_FOR_LABELS",
    "Run",
    "open_run",
]

logger = logging.getLogger(__name__)

MAY_GROW = frozenset({"num_steps_stop"})  # a run may be continued to a later stop, never to an earlier one
ENDS = ("num_steps_stop", "stop_after")  # settings that say where a run ends: with others, DONE is not done
OPTION_OF = {"bank_from": "instance_bank"}  # settings that follow from an option, which refusals name instead


class Run:
    """One run folder, opened by `open_run`. Every rank has one; only rank 0 writes.

    Attributes:
        folder: where everything of the run lies.
        settings: the arguments as plain values.
        is_main: whether this rank writes.
        log: scalars and pictures by iteration.
        snapshots: the snapshots in the folder.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        is_main: bool,
        keep: int,
        tensorboard: bool,
        done: dict[str, Any] | None,
    ) -> None:
        self.folder = folder
        self.settings = dict(settings)
        self.is_main = is_main
        self.log = logs.MetricLog(folder if is_main else None, tensorboard=tensorboard)
        self.snapshots = SnapshotFolder(folder, keep)
        self._done = done

    def is_done(self) -> dict[str, Any] | None:
        """What DONE says (`text`, `time`, and the facts given to `mark`); None for an unfinished run.

        A finished run that is continued to a later --num-steps-stop or another phase is unfinished. The
        answer is rank 0's on every rank.
        """
        return self._done

    def mark(self, name: str, text: str, **facts: Any) -> None:
        """Says how the run ended or why it waits, in a file of that name; earlier marks are removed."""
        assert name in MARKS
        content = {
            "text": text,
            "time": _now(),
            **{name: self.settings.get(name) for name in ENDS},
            **facts,
        }
        self.clear_marks()
        self._done = content if name == DONE else None
        if self.is_main:
            _write_json(self.folder / name, content)

    def clear_marks(self) -> None:
        """Removes DONE, PREEMPTED and WAITING_FOR_LABELS."""
        self._done = None
        if self.is_main:
            for name in MARKS:
                (self.folder / name).unlink(missing_ok=True)

    def resume_at(self, iteration: int) -> None:
        """Forgets what was logged after `iteration` updates, because it will come again; 0 forgets all."""
        self.log.rewind(iteration)


def check_arguments(
    folder: Path,
    arguments: Mapping[str, Any],
    *,
    free_to_change: frozenset[str],
    used_at_start: frozenset[str] = frozenset(),
) -> None:
    """Refuses a folder that was started with other arguments, as `open_run` will; for earlier. Rank 0 only.

    Raises:
        UserError: it was, or its record is damaged.
    """
    folder = Path(folder)
    record = _read_record(folder / ARGUMENTS_FILE)
    if record is not None:
        if has_snapshots(folder):
            free_to_change |= used_at_start
        _compare(folder, record["arguments"], _plain(arguments), free_to_change)


@contextmanager
def open_run(
    folder: Path,
    arguments: Mapping[str, Any],
    *,
    world: World,
    keep: int,
    free_to_change: frozenset[str],
    used_at_start: frozenset[str] = frozenset(),
    resume: str = "auto",
    command_line: str = "",
    facts: Mapping[str, Any] | None = None,
    tensorboard: bool = True,
) -> Iterator[Run]:
    """Locks the run folder, checks that it belongs to these arguments, and starts the logs.

    Args:
        folder: made if it is not there.
        arguments: resolved settings as plain values (`arguments.as_settings`).
        world: rank 0 does the work, the others learn what came of it.
        keep: snapshots that survive rotation.
        free_to_change: names of arguments that may differ from those the folder was started with.
        used_at_start: names that may differ too once the folder has a snapshot, which replaces what they say.
        resume: "auto" continues a folder's run; "never" refuses a folder that has one.
        command_line: recorded for the reader.
        facts: what the arguments came to, as plain values, recorded with this start.
        tensorboard: write event files too.

    Raises:
        UserError: on every rank: another run holds the folder, it was started with other arguments, or it
            cannot be written. Nothing in the folder is changed then.
    """
    folder = Path(folder)
    lock = FolderLock(folder / LOCK_FILE, patience_s=distributed.patience_s())
    error, done = None, None
    if world.is_main:
        try:
            if has_snapshots(folder):
                free_to_change |= used_at_start
            start = {**_circumstances(world), "command_line": command_line, "facts": dict(facts or {})}
            done = _prepare(folder, lock, arguments, start, free_to_change, resume)
        except UserError as refused:
            error = str(refused)
        except OSError as failed:
            error = f"run folder {folder} cannot be written: {failed.strerror or failed}; see --snapshot-dir"
    try:
        error, done = distributed.broadcast_object((error, done))
        if error is not None:
            raise UserError(error, everywhere=True)
        logs.configure(world.rank, folder / LOG_FILE if world.is_main else None)
        run = Run(folder, arguments, is_main=world.is_main, keep=keep, tensorboard=tensorboard, done=done)
        logger.info("run folder %s, %d process(es) on %s", folder, world.size, world.device)
        try:
            yield run
        except BaseException as ended:
            logs.write_to_file(f"{ENDED_BY} {type(ended).__name__}: {' '.join(str(ended).split())}")
            raise
        finally:
            run.log.close()
            logs.configure(world.rank, None)
    finally:
        lock.release()


def _prepare(
    folder: Path,
    lock: FolderLock,
    arguments: Mapping[str, Any],
    start: Mapping[str, Any],
    free_to_change: frozenset[str],
    resume: str,
) -> dict[str, Any] | None:
    """Rank 0's part of opening: everything that may refuse first, then the record of this `start`.

    Returns:
        What DONE says, unless the run is continued to a later stop.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    file = folder / ARGUMENTS_FILE
    record = _read_record(file)
    settings = _plain(arguments)
    if record is not None and resume == "never":
        raise UserError(
            f"run folder {folder} already holds a run, started {record['starts'][0]['time']}; give another "
            "--snapshot-dir, or leave out --resume never to continue it"
        )
    changed = {} if record is None else _compare(folder, record["arguments"], settings, free_to_change)
    starts = [
        *([] if record is None else record["starts"]),
        {"time": _now(), **start, "changed": changed},
    ]
    _write_json(file, {"arguments": settings, "command_line": start["command_line"], "starts": starts})
    (folder / PREEMPTED).unlink(missing_ok=True)
    return _finished(folder, settings)


def _read_record(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(record["arguments"], dict) and record["starts"][0]["time"]:
            return record
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        pass
    raise UserError(f"{file} is not a record of a run; move the folder away or give another --snapshot-dir")


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As they are read back from the record."""
    return json.loads(json.dumps(dict(arguments)))


def _compare(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], free_to_change: frozenset[str]
) -> dict[str, list[Any]]:
    """Name -> [folder's value, new value] of the harmless differences.

    An argument that only one side knows belongs to another version of the program; it is no difference.

    Raises:
        UserError: a difference that would change what the run computes.
    """
    differing = {name: [old[name], new[name]] for name in old if name in new and old[name] != new[name]}
    refused = {
        name: pair
        for name, pair in differing.items()
        if name not in free_to_change and not (name in MAY_GROW and _grows(*pair))
    }
    if "stop_after" in differing and "num_steps_stop" in refused:  # the second follows from the first
        del refused["num_steps_stop"]
        if newest_iteration(folder) > new["num_steps_stop"]:
            refused["stop_after"] = differing["stop_after"]
    if refused:
        options = dict.fromkeys(OPTION_OF.get(name, name) for name in refused)
        listed = ", ".join(f"{_flag(name)} {_shown(old[name])} -> {_shown(new[name])}" for name in options)
        raise UserError(
            f"run folder {folder} was started with other arguments (folder -> now): {listed}; give another "
            "--snapshot-dir, or the folder's values to continue its run"
        )
    return differing


def _grows(old: Any, new: Any) -> bool:
    return isinstance(old, int) and isinstance(new, int) and new > old


def _flag(name: str) -> str:
    return "the script" if name == "script" else "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _finished(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """DONE's content, unless it is about an earlier stop or another phase than the present one."""
    file = folder / DONE
    if not file.exists():
        return None
    try:
        content = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it to continue the run") from error
    grown = _grows(content.get("num_steps_stop"), settings.get("num_steps_stop"))
    if grown or content.get("stop_after") != settings.get("stop_after"):
        return None
    return content


def _circumstances(world: World) -> dict[str, Any]:
    """Where and on what this start runs."""
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else None
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "world_size": world.size,
        "device": world.device.type,
        "gpu": gpu,
        "git_revision": _git_revision(),
        "versions": {
            "python": platform.python_version(),
            "cv2": cv2.__version__,
            **{name: _version(name) for name in ("torch", "torchvision", "numpy", "Pillow", "tensorboardX")},
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """The commit of the program, with `+` behind it when tracked files differ; None outside a checkout."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run(
            [*here, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=20, check=True
        )
        changes = subprocess.run(
            [*here, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_atomically(file, json.dumps(content, indent=1) + "\n", durable=True)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
