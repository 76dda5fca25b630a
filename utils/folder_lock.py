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
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError

logger = logging.getLogger(__name__)

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, process
BEAT_S = 15.0  # a holder touches its file so often
WATCH_S = 60.0  # four beats, one of them may be late by three; also as long as NFS may keep an old time
RECENT_S = 300.0  # clocks of a cluster agree to that: Slurm's munge refuses more
CLAIM_S = 10.0  # from opening the file to its new text it takes milliseconds
_held: set[Path] = set()  # lock files of this process: record locks do not keep a process from itself


class FolderLock:
    """Keeps a second run out of a folder, also from other machines where the file system passes locks on.

    The lock ends with the process however it dies; the file keeps its host and process id for messages. Where
    the file system has no locks, that text decides: a dead process of this machine holds nothing, nor does
    an earlier start of this process's Slurm job.

    Some file systems grant locks that other machines do not see (BeeGFS as shipped, Lustre with localflock,
    NFS with local_lock), which cannot be told from a lock that is free. So the holder touches the file, and
    who finds a process of another machine in it that did so lately watches for the next time.
    """

    def __init__(self, path: Path, *, what: str = "run folder", option: str = "--snapshot-dir") -> None:
        """A lock that is not taken yet; messages call the folder of `path` `what`, chosen by `option`."""
        self.path = path
        self.what = what
        self.option = option
        self._descriptor: int | None = None
        self._released = threading.Event()
        self._beats: threading.Thread | None = None

    def acquire(self) -> None:
        """Takes the lock; first waits up to WATCH_S where only another machine can tell that it is free.

        Raises:
            UserError: another run holds it.
        """
        if self.path.resolve() in _held:
            raise self._refusal(_this_process())
        watched: dict[str, Any] = {}
        while True:
            with _claim(self.path):
                descriptor, owner = self._take()
                if owner == watched or not _may_run_elsewhere(owner, os.fstat(descriptor).st_mtime):
                    self._keep(descriptor, owner)
                    return
            os.close(descriptor)  # NFS tells the time of others' writes at opening, which costs the lock
            self._watch(owner)
            watched = owner

    def _take(self) -> tuple[int, dict[str, Any]]:
        """The open and locked file, and who is named in it.

        Raises:
            UserError: the lock is another process's.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = self._lock(descriptor)
            owner = self._read_owner(descriptor)
            if locked is False or (locked is None and self._seems_alive(owner)):
                raise self._refusal(owner, only_text=locked is None)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, owner

    def _watch(self, owner: Mapping[str, Any]) -> None:
        """Returns when the owner is gone: it says so, or did not touch the file for WATCH_S.

        Raises:
            UserError: it touched the file.
        """
        logger.warning(
            "%s %s was in use by process %s on %s just now; waiting up to %.0f s to see whether that runs on "
            "(if it does not, delete %s to go on at once)",
            self.what,
            self.path.parent,
            owner.get("pid"),
            owner.get("host"),
            WATCH_S,
            self.path,
        )
        first = _look(self.path)
        end = time.monotonic() + WATCH_S
        while first is not None and first[0] == owner and time.monotonic() < end:
            time.sleep(BEAT_S / 5)
            now = _look(self.path)
            if now is None or now[0] != owner:
                return
            if now[1] != first[1]:
                raise self._refusal(owner)

    def _keep(self, descriptor: int, owner: Mapping[str, Any]) -> None:
        """Notes this process in the locked file of that earlier owner, and goes on touching it."""
        if owner:
            logger.warning(
                "taking over the %s of process %s on %s", self.what, owner.get("pid"), owner.get("host")
            )
        try:
            self._write_owner(descriptor, _this_process())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self.path.resolve())
        self._released.clear()
        self._beats = threading.Thread(
            target=_beat, args=(descriptor, self._released), name="folder lock", daemon=True
        )
        self._beats.start()

    def release(self) -> None:
        """Gives the lock back; the file stays, empty, so that nobody waits on a removed one."""
        if self._descriptor is None:
            return
        self._released.set()
        self._beats.join()  # its descriptor's number may be another file's once closed
        try:
            self._write_owner(self._descriptor, {})
        finally:
            os.close(self._descriptor)
            self._descriptor = None
            _held.discard(self.path.resolve())

    @staticmethod
    def _lock(descriptor: int) -> bool | None:
        """True: locked; False: another process has it; None: the file system has no locks.

        A record lock, because loader processes must not inherit it and outlive a killed run with it.
        """
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return None
            if error.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            raise
        return True

    @staticmethod
    def _seems_alive(owner: Mapping[str, Any]) -> bool:
        if not owner or _is_earlier_start_of_this_job(owner):
            return False
        if owner.get("host") != socket.gethostname():
            return True
        try:
            os.kill(owner["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True

    def _refusal(self, owner: Mapping[str, Any], *, only_text: bool = False) -> UserError:
        remedy = f"; if that process is gone, delete {self.path}" if only_text else ""
        return UserError(
            f"{self.what} {self.path.parent} is in use by process {owner.get('pid', '?')} on "
            f"{owner.get('host', 'an unknown machine')}; wait for it, stop it, or give another "
            f"{self.option}{remedy}"
        )

    @staticmethod
    def _read_owner(descriptor: int) -> dict[str, Any]:
        """What the file says; nothing if it is no owner's record."""
        try:
            owner = json.loads(os.pread(descriptor, 4096, 0).decode() or "{}")
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(owner, dict) or type(owner.get("pid")) is not int:
            return {}
        host = owner.get("host")
        named = isinstance(host, str) and host.isprintable()  # it is shown to people
        return owner if named else {name: value for name, value in owner.items() if name != "host"}

    @staticmethod
    def _write_owner(descriptor: int, owner: Mapping[str, Any]) -> None:
        os.ftruncate(descriptor, 0)
        if owner:
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
            os.fsync(descriptor)  # other machines see it now


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lock of this file, as far as it is known; None: nobody. Asks without taking it.

    Where the file system has no locks, the text in the file decides, which a dead process of another machine
    leaves behind.
    """
    try:
        if path.resolve() in _held:
            return _this_process()  # opening and closing the file would end the lock
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, RuntimeError):  # the latter: links in a circle
        return None
    try:
        owner = FolderLock._read_owner(descriptor)
        locked = _is_locked(descriptor)
    finally:
        os.close(descriptor)
    if locked is None:
        locked = FolderLock._seems_alive(owner)
    return owner if locked else None


def seen_elsewhere(path: Path) -> tuple[dict[str, Any], float] | None:
    """Who on another machine touched a file that is not locked here, and how many seconds ago; if lately.

    Its lock may hold there alone, or it was killed within the last RECENT_S: a look cannot tell.
    """
    try:
        found = None if path.resolve() in _held else _look(path)
    except RuntimeError:  # links in a circle
        return None
    if found is None or not _may_run_elsewhere(found[0], found[1]):
        return None
    return found[0], max(0.0, time.time() - found[1])


def _look(path: Path) -> tuple[dict[str, Any], float] | None:
    """Who is named in the file and when it was last touched; None: it cannot be read.

    Not for a file that this process has locked: closing it would end the lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return FolderLock._read_owner(descriptor), os.fstat(descriptor).st_mtime
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _may_run_elsewhere(owner: Mapping[str, Any], touched: float) -> bool:
    """Whether the lock of this owner may be in force on its own machine only."""
    return (
        bool(owner.get("host"))
        and owner["host"] != socket.gethostname()
        and not _is_earlier_start_of_this_job(owner)
        and time.time() - touched < RECENT_S
    )


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[None]:
    """Lets one start at a time look at the file and write to it: of two that may make a new file one can,
    also where locks do not reach other machines.
    """
    claim = path.with_name(f"{path.name}.claim")
    seen, since = None, 0.0
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            now = _identity(claim)
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > CLAIM_S:  # its process was killed just then
                claim.unlink(missing_ok=True)
            time.sleep(0.05)
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells a file from the next one of that name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


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
    if "SLURM_JOB_ID" in os.environ:
        owner |= _slurm_start()
    return owner


def _slurm_start() -> dict[str, Any]:
    """The Slurm job, every task of an array by its own id, and how often Slurm has requeued it."""
    return {
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "slurm_restarts": os.environ.get("SLURM_RESTART_COUNT", "0"),
    }


def _is_earlier_start_of_this_job(owner: Mapping[str, Any]) -> bool:
    """Whether Slurm has ended the owner's processes: it starts a job again only after that."""
    here = _slurm_start()
    return (
        here["slurm_job"] is not None
        and owner.get("slurm_job") == here["slurm_job"]
        and owner.get("slurm_restarts") != here["slurm_restarts"]
    )
