"""Snapshot files: written whole or not at all, read without running code, found again after damage."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from utils.errors import UserError
from utils.files import write_atomically
from utils.run_files import SNAPSHOT_NAME as _FILE_NAME

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
POINTERS = ("last", "best", "stage1")  # stage1: what MADA's second stage began with
_OLD_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # torch.save before the zip format, after its opcode
_SCALAR = np.float64(0).__reduce__()[0]
# What a pickle may name beyond what torch reads: a float64 of numpy, such as the best score of MADA's files.
_FLOAT64 = [
    (_SCALAR, "numpy.core.multiarray.scalar"),  # written by numpy 1
    (_SCALAR, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    (np.dtypes.Float64DType, "numpy.dtypes.Float64DType"),
]

T = TypeVar("T")


class DamagedSnapshotError(UserError):
    """The bytes of the file are not, or no longer, those of a snapshot."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes the state so that the path holds the old file or the whole new one, whenever the machine stops.

    Raises:
        UserError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    write_atomically(path, lambda file: torch.save(state, file), durable=True)


def read(path: Path) -> dict[str, Any]:
    """The dictionary stored in a file of torch.save, ours or another project's, with all tensors on the CPU.

    Raises:
        UserError: no such file, a folder, a pickle that asks to run code, a format version newer than ours.
        DamagedSnapshotError: an empty or text file, a snapshot that is cut off or damaged.
    """
    _check_header(path)
    try:
        with torch.serialization.safe_globals(_FLOAT64):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except Exception as error:  # damage can surface as any error of the unpickler or the zip reader
        raise DamagedSnapshotError(f"{path} is damaged ({_short(error)}); use an older snapshot.") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a snapshot or a state dictionary.")
    _check_version(path, state)
    if is_snapshot(state):
        _check_sums(path)
    return state


def _check_header(path: Path) -> None:
    """Finds what is no snapshot before the unpickler sees it."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a snapshot file in it.")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a snapshot file or a run folder.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if not head.strip(b"\0"):
        raise DamagedSnapshotError(f"{path} is empty; use an older snapshot.")
    if head.startswith(b"PK"):
        if not _is_zip(path):
            raise DamagedSnapshotError(f"{path} is cut off (its end is missing); use an older snapshot.")
    elif head.startswith(b"\x80"):
        if _OLD_TORCH_MAGIC not in head:
            raise UserError(f"{path} is refused: a pickle that torch.save did not write could run any code.")
    else:
        start = head[:30].decode("ascii", "replace").splitlines()[0]
        raise DamagedSnapshotError(f"{path} is not a snapshot: it starts with {start!r}; give another file.")


def _check_sums(path: Path) -> None:
    """Compares the check sums in the file, which torch does not: flipped bits would go unnoticed."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # damage can surface as any error of the zip reader
        raise DamagedSnapshotError(f"{path} is damaged ({_short(error)}); use an older snapshot.") from error
    if broken is not None:
        raise DamagedSnapshotError(f"{path} is damaged (check sum of {broken}); use an older snapshot.")


def _refusal(path: Path, error: pickle.UnpicklingError) -> UserError:
    """Tells a file that wants to run code from one whose bytes are broken."""
    if _is_zip(path):
        _check_sums(path)
    # builtins such as eval are named without a module
    asked = re.search(r"(?:GLOBAL\s+(?=\w)|(?:class|function)\s+'?(?=\w+\.))([\w.]*\w)", str(error))
    if asked is None:
        return DamagedSnapshotError(f"{path} is damaged ({_short(error)}); use an older snapshot.")
    return UserError(
        f"{path} is refused: it holds more than weights, and reading it would run {asked.group(1)}; "
        "convert it to plain tensors with the program that wrote it."
    )


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # such as an end that speaks of several disks
        return False


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:120]


def _check_version(path: Path, state: Mapping[str, Any]) -> None:
    version = state.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"{path} has format_version {version!r}, this program reads up to {FORMAT_VERSION}; "
            "use the version of the program that wrote it."
        )


def is_snapshot(state: Mapping[str, Any]) -> bool:
    """Whether a dictionary from `read` is in our own format and not another project's weights."""
    return "format_version" in state and "network" in state


def clean_keys(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The entries without what data-parallel (`module.` in front) and compile (`_orig_mod.` anywhere) add.

    Raises:
        UserError: two entries become one.
    """
    cleaned: dict[str, T] = {}
    for key, value in state_dict.items():
        name = re.sub(r"^(?:module\.)+", "", re.sub(r"(^|(?<=\.))_orig_mod\.", "", key))
        if name in cleaned:
            raise UserError(f"the weights hold {name} twice, with and without a wrapper's prefix.")
        cleaned[name] = value
    return cleaned


def resolve(path_or_run_folder: Path) -> Path:
    """The snapshot file meant by a file, a run folder (its `last`), or a pointer file such as runs/x/best.

    Raises:
        UserError: nothing there, no snapshot in the folder, or a pointer to a file that is gone.
    """
    path = Path(path_or_run_folder)
    if path.is_dir():
        return _newest(path)
    if path.name not in POINTERS:
        if path.exists():
            return path
        raise UserError(f"{path} does not exist; give a snapshot file or a run folder.")
    if not path.exists():
        hint = " (it is written only where target labels are evaluated)" if path.name == "best" else ""
        raise UserError(f"{path} does not exist{hint}; give a snapshot file or a run folder.")
    target = _follow(path)
    if target is None or not target.exists():
        raise UserError(f"{path} does not name a snapshot in its folder; give the snapshot file itself.")
    return target


def _newest(folder: Path) -> Path:
    pointed = _follow(folder / "last")
    if pointed is not None and pointed.exists():
        return pointed
    files = _iteration_files(folder)
    if not files:
        raise UserError(f"{folder} has no snapshots (iteration_*.pth); give a run folder or a snapshot file.")
    return files[max(files)]


def _follow(pointer: Path) -> Path | None:
    """The file a pointer names: its first line is a plain file name of the same folder."""
    try:
        lines = pointer.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError, IsADirectoryError):
        return None
    if not lines or _FILE_NAME.fullmatch(lines[0]) is None:
        return None
    return pointer.with_name(lines[0])


def _iteration_files(folder: Path) -> dict[int, Path]:
    """Iteration -> snapshot file."""
    found = {_FILE_NAME.fullmatch(file.name): file for file in folder.iterdir()} if folder.is_dir() else {}
    return {int(match.group(1)): file for match, file in found.items() if match is not None}


def has_snapshots(folder: Path) -> bool:
    """Whether a run folder holds a snapshot, good or damaged."""
    return bool(_iteration_files(folder))


def newest_iteration(folder: Path) -> int:
    """Iteration of the newest snapshot of a run folder, good or damaged; -1 where there is none."""
    return max(_iteration_files(folder), default=-1)


class SnapshotFolder:
    """The snapshots of one run: `iteration_0025000.pth`, and the pointer files `last`, `best`, `stage1`.

    A pointer is a text file whose first line is a file name, so it works where links do not. Rank 0 writes.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        """`keep` newest snapshots survive rotation, besides those that pointers name."""
        if keep < 1:
            raise UserError(f"keeping {keep} snapshots would keep none to continue from; give 1 or more.")
        self.folder = Path(folder)
        self.keep = keep

    def write(self, state: dict[str, Any], iteration: int) -> Path:
        """Saves the state of an iteration, points `last` at it, and removes what rotation no longer keeps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.file_of(iteration)
        save(path, state)
        self._point("last", path, "")
        self._rotate(iteration)
        return path

    def file_of(self, iteration: int) -> Path:
        """Where the snapshot of an iteration lies, whether it is there or not."""
        return self.folder / f"iteration_{iteration:07d}.pth"

    def mark(self, pointer: str, path: Path, text: str) -> None:
        """Points `best` or `stage1` at a snapshot of this folder; `text` says how it was selected."""
        assert pointer in POINTERS
        assert path.exists(), f"{path} was never written or is rotated away"
        self._point(pointer, path, text)

    def path_of(self, pointer: str) -> Path | None:
        """The existing snapshot that one of POINTERS names, or None."""
        assert pointer in POINTERS
        target = _follow(self.folder / pointer)
        return target if target is not None and target.exists() else None

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The snapshot to continue from and its state; None in a folder without any.

        Damaged files are reported and the next older one is taken.

        Raises:
            UserError: there are snapshots but none can be read, or one is of a newer format.
        """
        candidates = self._candidates()
        for path in candidates:
            try:
                return path, read(path)
            except DamagedSnapshotError as error:
                logger.warning("%s Trying the snapshot before it.", error)
        if candidates:
            raise UserError(
                f"none of the {len(candidates)} snapshots in {self.folder} can be read; move the folder "
                "away to start anew."
            )
        return None

    def _candidates(self) -> list[Path]:
        """`last` first, then older ones; newer ones (written, but not yet pointed at) only after them."""
        files = _iteration_files(self.folder)
        pointed = self.path_of("last")
        limit = next((i for i, file in files.items() if file == pointed), max(files, default=0))
        order = sorted(files, key=lambda iteration: (iteration <= limit, iteration), reverse=True)
        return [files[iteration] for iteration in order]

    def _point(self, pointer: str, path: Path, text: str) -> None:
        content = f"{path.name}\n{text}\n" if text else f"{path.name}\n"
        write_atomically(self.folder / pointer, content, durable=True)

    def _rotate(self, iteration: int) -> None:
        """Removes old snapshots and the half-written files of killed runs; newer files stay."""
        for name in ("iteration_*", *(f"{pointer}.*" for pointer in POINTERS)):
            for leftover in self.folder.glob(f".{name}.tmp"):
                leftover.unlink(missing_ok=True)
        files = {i: file for i, file in _iteration_files(self.folder).items() if i <= iteration}
        kept = {files[i] for i in sorted(files)[-self.keep :]} | {self.path_of(name) for name in POINTERS}
        for file in files.values():
            if file not in kept:
                file.unlink(missing_ok=True)
