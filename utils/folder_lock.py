"""A lock on a folder that ends with its process, however that dies."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError

logger = logging.getLogger(__name__)

_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_FLOCK = "hhqqi4x"  # struct flock of Linux: type, whence, start, length, process
_held: set[Path] = set()  # lock files of this process: record locks do not keep a process from itself


class FolderLock:
    """Keeps a second run out of a folder, also from other machines where the file system passes locks on.

    The lock ends with the process however it dies; the file keeps its host and process id for messages. Where
    the file system has no locks, that text decides: a dead process of this machine holds nothing, nor does
    an earlier start of this process's Slurm job.
    """

    def __init__(self, path: Path, *, what: str = "run folder", option: str = "--snapshot-dir") -> None:
        """A lock that is not taken yet; messages call the folder of `path` `what`, chosen by `option`."""
        self.path = path
        self.what = what
        self.option = option
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock.

        Raises:
            UserError: another run holds it.
        """
        if self.path.resolve() in _held:
            raise self._refusal(_this_process())
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            owner = self._read_owner(descriptor)
            locked = self._lock(descriptor)
            if locked is False or (locked is None and self._seems_alive(owner)):
                raise self._refusal(owner, only_text=locked is None)
        except BaseException:
            os.close(descriptor)
            raise
        if owner:
            logger.warning(
                "taking over the %s of process %s on %s", self.what, owner.get("pid"), owner.get("host")
            )
        self._write_owner(descriptor, _this_process())
        self._descriptor = descriptor
        _held.add(self.path.resolve())

    def release(self) -> None:
        """Gives the lock back; the file stays, empty, so that nobody waits on a removed one."""
        if self._descriptor is None:
            return
        self._write_owner(self._descriptor, {})
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
        return owner if isinstance(owner, dict) and type(owner.get("pid")) is int else {}

    @staticmethod
    def _write_owner(descriptor: int, owner: Mapping[str, Any]) -> None:
        os.ftruncate(descriptor, 0)
        if owner:
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)


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
