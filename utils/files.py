"""Files that appear whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from utils.errors import UserError

logger = logging.getLogger(__name__)

Writer = Callable[[BinaryIO], object]


def write_atomically(path: Path, content: bytes | str | Writer, *, durable: bool = False) -> None:
    """Writes to a temporary name (`.NAME.PID.tmp`) in the same folder and renames; parent folders are made.

    Args:
        path: holds the old file or the whole new one, whenever the process stops.
        content: bytes, text (stored as UTF-8), or a function that writes to the open binary file.
        durable: also flush file and folder to disk, so that the same holds when the machine stops.

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            _write(file, content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _remove(temporary)
    if durable:
        _flush_folder(path.parent)


def check_writable(path: Path) -> None:
    """Refuses a file that cannot be written, before the work whose result it shall hold.

    Raises:
        UserError: as `write_atomically`, or the path is a folder.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        _remove(temporary)


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file or folder that the system does not let us write."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; free space, fix the rights or name another place."
    )


class _Remembering:
    """A file for writers, such as torch.save, that hide the system's error behind one of their own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, content: Any) -> int:
        """As the file's."""
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise


def _write(file: BinaryIO, content: bytes | str | Writer) -> None:
    if callable(content):
        remembering = _Remembering(file)
        try:
            content(remembering)
        except Exception:
            if remembering.error is not None:
                raise remembering.error from None
            raise
    else:
        file.write(content.encode() if isinstance(content, str) else content)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # its parent is no folder, or is gone: nothing was written either
        logger.debug("%s cannot be removed", temporary)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        logger.debug("%s cannot be flushed as a folder; its file system orders renames itself", folder)
    finally:
        os.close(descriptor)
