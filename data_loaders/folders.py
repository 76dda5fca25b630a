"""Folder listings that are read once and kept while files are looked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

_MAX_DEPTH = 16  # a link to a parent folder must not loop for ever


class Listing(NamedTuple):
    """Names in one folder."""

    files: frozenset[str]
    folders: tuple[str, ...]


@dataclass(slots=True)
class FolderIndex:
    """Answers which files exist from one scandir per folder.

    Linked folders are followed; hidden names are left out.
    """

    _listings: dict[str, Listing | None] = field(default_factory=dict)

    def is_folder(self, folder: Path) -> bool:
        """Whether it can be listed."""
        return self._list(str(folder)) is not None

    def walk(self, root: Path, start: str) -> Iterator[str]:
        """Paths, relative to `root` and with `/`, of all files below `root/start`, if it exists."""
        yield from self._walk(str(root), start, _MAX_DEPTH)

    def file(self, root: Path, relative: str) -> Path | None:
        """The path `root/relative` if such a file exists."""
        path = os.path.join(root, relative)  # noqa: PTH118  Path objects only for files that exist
        folder, name = os.path.split(path)
        listing = self._list(folder)
        return Path(path) if listing is not None and name in listing.files else None

    def _walk(self, root: str, start: str, depth: int) -> Iterator[str]:
        listing = self._list(f"{root}/{start}" if start else root)
        if listing is None or depth == 0:
            return
        prefix = f"{start}/" if start else ""
        for name in listing.files:
            yield prefix + name
        for name in listing.folders:
            yield from self._walk(root, prefix + name, depth - 1)

    def _list(self, folder: str) -> Listing | None:
        folder = folder.rstrip("/") or "/"
        if folder not in self._listings:
            self._listings[folder] = _scan(folder)
        return self._listings[folder]


def _scan(folder: str) -> Listing | None:
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                (folders if entry.is_dir() else files).append(entry.name)
    except OSError:
        return None
    return Listing(frozenset(files), tuple(sorted(folders)))
