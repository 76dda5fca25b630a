"""Label files of a pseudo-label folder by their sizes: cheap to look at, and hard to change unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from data_loaders.dataset import pseudo_label_path
from data_loaders.discovery import FileList


def label_sizes(folder: Path, files: FileList) -> list[int | None]:
    """Bytes of each image's label file, None where there is none; no file is opened."""
    return [_size(pseudo_label_path(folder, item.name)) for item in files.items]


def sizes_digest(files: FileList, sizes: Sequence[int | None]) -> str:
    """SHA-256 over names and label sizes.

    It changes when label files are replaced, unless each new one happens to have the size of the old.
    """
    lines = (f"{item.name} {size}" for item, size in zip(files.items, sizes, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
