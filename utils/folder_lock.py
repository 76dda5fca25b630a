"""A lock on a folder that ends with its process, however that dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from utils import stopping
from utils.errors import RunStopped, UserError

logger = logging.getLogger(__name__)

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, process
BEAT_S = 15.0  # a holder touches its file so often
WATCH_S = 60.0  # four beats, one of them may be late by three; also as long as NFS may keep an old time
RECENT_S = 300.0  # twenty beats: who has not touched the file for so long is gone
_held: set[Path] = set()  # lock files of this process: record locks do not keep a process from itself


class _Trace(NamedTuple):
    """What a lock file shows of its last holder: who that is, and the time of the last touch."""

    owner: dict[str, Any]
    touched: float


class FolderLock:
    """Keeps a second run out of a folder, also from other machines where the file system passes locks on.

    The file keeps host and process id for messages. Where the file system has no locks, that text decides: a
    dead process of this machine holds nothing, nor does an earlier start of this process's Slurm job.

    Some file systems grant locks that other machines do not see (BeeGFS as shipped, Lustre with localflock,
    NFS with local_lock), which cannot be told from a lock that is free. So the holder touches the file, and
    who finds a process of another machine in it that did so lately watches for the next time. Starts on
    several such machines within the same second are not told apart.
    """

    def __init__(
        self, path: Path, *, what: str = "run folder", option: str = "--snapshot-dir", patience_s: float = inf
    ) -> None:
        """A lock not taken yet; messages name its folder by `what` and `option`; ranks wait `patience_s`."""
        self.path = path
        self.what = what
        self.option = option
        self.patience_s = patience_s
        self._descriptor: int | None = None
        self._released = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock; first watches for WATCH_S where only another machine can tell that it is free.

        Raises:
            UserError: another run holds it, or the other processes do not wait long enough to find out.
            RunStopped: a stop signal came meanwhile; the file is as it was.
        """
        if self.path.resolve() in _held:
            raise self._refusal(_this_process())
        descriptor, seen = self._take()
        age = _time_in(self.path.parent) - seen.touched if _is_elsewhere(seen.owner) else inf
        if age < RECENT_S:
            os.close(descriptor)  # _watch opens the file too, and closing any descriptor of it ends our lock
            self._watch(seen, age)
            descriptor, seen = self._take(watched=seen)
        self._keep(descriptor, seen.owner)

    def _take(self, watched: _Trace | None = None) -> tuple[int, _Trace]:
        """The locked file and what it shows; refuses one touched elsewhere since it was `watched`."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = self._lock(descriptor)
            found = _Trace(_read_owner(descriptor), os.fstat(descriptor).st_mtime)
            is_beating = watched is not None and found != watched and _is_elsewhere(found.owner)
            if locked is False or is_beating or (locked is None and _seems_alive(found.owner)):
                raise self._refusal(found.owner, only_text=locked is None)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, found

    def _watch(self, seen: _Trace, age: float) -> None:
        """Returns once the file shows something else, or has not for WATCH_S; raises what `acquire` does."""
        found = f"{self.path} names {_name(seen.owner)} and was touched {max(0.0, age):.0f} s ago"
        if self.patience_s < 2 * WATCH_S:
            raise UserError(
                f"{found}; to see whether that process runs on takes {WATCH_S:g} s, and --timeout-seconds of "
                f"{2 * WATCH_S:g} or more, not {self.patience_s:g}; if it is gone, delete the file"
            )
        logger.warning(
            "%s; watching up to %.0f s whether it runs on (if it is gone, delete the file)", found, WATCH_S
        )
        end = time.monotonic() + WATCH_S
        while time.monotonic() < end and _look(self.path) == seen:
            if stopping.requested() is not None:
                raise RunStopped(f"{stopping.requested()} before anything was begun; {found}")
            time.sleep(BEAT_S / 5)

    def _keep(self, descriptor: int, owner: Mapping[str, Any]) -> None:
        """Notes this process in the locked file of that earlier owner, and goes on touching it."""
        if owner:
            logger.warning("taking over the %s of %s", self.what, _name(owner))
        try:
            _write_owner(descriptor, _this_process())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self.path.resolve())
        self._released.clear()
        self._beats = threading.Thread(target=_beat, args=(descriptor, self._released), daemon=True)
        try:
            self._beats.start()
        except RuntimeError as error:  # a limit on processes
            self._beats = None
            logger.warning("%s: who does not see the lock of %s does not see this run", error, self.path)

    def release(self) -> None:
        """Gives the lock back; the file stays, empty, so that nobody waits on a removed one."""
        if self._descriptor is None:
            return
        self._released.set()
        if self._beats is not None:
            self._beats.join()  # its descriptor's number may be another file's once closed
        try:
            _write_owner(self._descriptor, {})
        finally:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self.path.resolve())

    @staticmethod
    def _lock(descriptor: int) -> bool | None:
        """True: locked; False: another process has it; None: the file system has no locks."""
        try:  # a record lock: loader processes must not inherit it and outlive a killed run with it
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            if error.errno not in _UNSUPPORTED:
                raise
            return None
        return True

    def _refusal(self, owner: Mapping[str, Any], *, only_text: bool = False) -> UserError:
        remedy = f"; if that process is gone, delete {self.path}" if only_text else ""
        return UserError(
            f"{self.what} {self.path.parent} is in use by {_name(owner)}; wait for it, stop it, or give "
            f"another {self.option}{remedy}"
        )


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock of this file, as far as it is known; None: nobody. Asks without taking it.

    Without locks in the file system its text decides, which a dead process of another machine leaves behind.
    """
    try:
        if path.resolve() in _held:
            return _this_process()  # opening and closing the file would end the lock
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, RuntimeError):  # the latter: links in a circle
        return None
    try:
        owner = _read_owner(descriptor)
        locked = _is_locked(descriptor)
    finally:
        os.close(descriptor)
    if locked is None:
        locked = _seems_alive(owner)
    return owner if locked else None


def seen_elsewhere(path: Path) -> tuple[dict[str, Any], float] | None:
    """Whom on another machine a file names that is not locked here, and how many seconds ago it was touched.

    None if not lately, by this machine's clock. Its lock may hold there alone, or it was killed or copied.
    """
    try:
        owner, touched = ({}, 0.0) if path.resolve() in _held else _look(path)
    except (OSError, RuntimeError):  # the latter: links in a circle
        return None
    age = time.time() - touched
    return (owner, max(0.0, age)) if _is_elsewhere(owner) and age < RECENT_S else None


def _look(path: Path) -> _Trace:
    """What the file shows; a missing one shows nobody. Closing it ends a lock that this process has on it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return _Trace({}, 0.0)
    try:
        return _Trace(_read_owner(descriptor), os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)


def _read_owner(descriptor: int) -> dict[str, Any]:
    """What the file says; nothing if it is no owner's record."""
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0).decode() or "{}")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(owner, dict) or type(owner.get("pid")) is not int:
        return {}
    host = owner.get("host")
    if not (isinstance(host, str) and host.isprintable()):  # it is shown to people
        owner.pop("host", None)
    return owner


def _write_owner(descriptor: int, owner: Mapping[str, Any]) -> None:
    os.ftruncate(descriptor, 0)
    if owner:
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        os.fsync(descriptor)  # other machines see it now


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner.get('pid', '?')} on {owner.get('host', 'an unknown machine')}"


def _is_elsewhere(owner: Mapping[str, Any]) -> bool:
    """Whether the lock of this owner may be in force on its own machine only."""
    host = owner.get("host")
    return bool(host) and host != socket.gethostname() and not _is_earlier_start_of_this_job(owner)


def _seems_alive(owner: Mapping[str, Any]) -> bool:
    """Whether the owner still runs, as far as its text tells."""
    if not owner or _is_earlier_start_of_this_job(owner):
        return False
    if owner.get("host") == socket.gethostname():
        try:
            os.kill(owner["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
    return True


def _time_in(folder: Path) -> float:
    """The time that a touch in this folder gives now: NFS has its server's, not this machine's."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder, prefix=".", suffix=".tmp") as file:
        os.utime(file.fileno())
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def _beat(descriptor: int, released: threading.Event) -> None:
    """Touches the file until it is released, for other machines to see."""
    while not released.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a full or lost disk is told where something is written
            os.utime(descriptor)


def _is_locked(descriptor: int) -> bool | None:
    """Whether another process has a record lock; None: it cannot be asked."""
    if sys.platform != "linux":
        return None
    question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    except OSError:
        return None
    return struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK


def _this_process() -> dict[str, Any]:
    owner: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid()}
    if job := os.environ.get("SLURM_JOB_ID"):  # every task of an array has its own
        owner |= {"slurm_job": job, "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT", "0")}
    return owner


def _is_earlier_start_of_this_job(owner: Mapping[str, Any]) -> bool:
    """Whether Slurm has ended the owner's processes: it starts a job again only after that."""
    here = _this_process()
    if "slurm_job" not in here or owner.get("slurm_job") != here["slurm_job"]:
        return False
    return owner.get("slurm_restarts") != here["slurm_restarts"]
