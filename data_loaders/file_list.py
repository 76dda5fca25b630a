"""The list of a data set's files that the other modules work on, and the rule for incomplete pairs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_loaders.description import DatasetDescription
from utils.errors import UserError

logger = logging.getLogger(__name__)

SKIPPED_SHARE = 0.005  # real copies of GTA5 lack up to 25 of 24966 pairs


@dataclass(frozen=True, slots=True)
class Item:
    """One image. `name` is its path below the image folder: `aachen/aachen_000000_000019_leftImg8bit.png`."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True, slots=True)
class FileList:
    """The images of one split, sorted by name (in the order of the list file where one was given).

    `description` is that of the layout found: its label encoding and tables fit the label files. `skipped`
    says in a line each which files were left out.
    """

    description: DatasetDescription
    root: Path
    layout: str
    split: str
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the names or their order."""
        return hashlib.sha256("\n".join(item.name for item in self.items).encode()).hexdigest()[:16]

    def label_table(self, space: str) -> np.ndarray:
        """(256,) uint8 table from the ids in these label files to train ids of a class space."""
        return self.description.label_table(space)


def accept(found: FileList, *, strict: bool) -> FileList:
    """The list itself, after the 0.5 % rule: says what was skipped.

    Raises:
        UserError: more than 0.5 % of the pairs are incomplete, or any with `strict`.
    """
    total = len(found.items) + len(found.skipped)
    what = (
        f"{found.description.name}, split {found.split}, in {found.root}: {len(found.skipped)} of {total} "
        "image/label "
        f"pairs are incomplete ({join_names(found.skipped, 3)})"
    )
    if found.skipped and strict:
        raise UserError(f"{what}; --strict allows none. Run prepare_data.py check to list them.")
    if len(found.skipped) > SKIPPED_SHARE * total:
        raise UserError(
            f"{what}; at most {SKIPPED_SHARE:.1%} may be. Complete the copy, or use a list of the good pairs "
            f"(prepare_data.py check --write-list)."
        )
    if found.skipped:
        logger.warning("%s; they are left out", what)
    return found


def join_names(parts: Sequence[object], limit: int = 6) -> str:
    """The first `limit` parts with commas, and how many there are if some are left out."""
    shown = ", ".join(str(part) for part in parts[:limit])
    return f"{shown}, ... ({len(parts)} in all)" if len(parts) > limit else shown
