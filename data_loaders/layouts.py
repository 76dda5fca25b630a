"""Path patterns of a data set: which files are images, and which label belongs to which image.

A pattern is a path below the data set's folder, such as `leftImg8bit/{split}/{name}_leftImg8bit.png`:

    {split}  the split's folder (train, val, ...)
    {group}  exactly one folder, any name (for example a weather condition)
    {name}   the rest, may hold folders; what image and label have in common
    {ext}    any image suffix (png, jpg, ...), images only
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from utils.errors import UserError

IMAGE_SUFFIXES = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "ppm")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_EXPRESSIONS = {
    "group": r"(?P<group>[^/]+)",
    "name": r"(?P<name>.+)",
    "ext": rf"(?P<ext>(?i:{'|'.join(IMAGE_SUFFIXES)}))",
}


@dataclass(frozen=True, slots=True)
class PathPattern:
    """One pattern; `split` below is always the folder that stands for the split."""

    text: str

    @property
    def placeholders(self) -> frozenset[str]:
        """Names in braces."""
        return frozenset(_PLACEHOLDER.findall(self.text))

    def folder(self, split: str) -> str:
        """The leading folders without a variable part: `leftImg8bit/train`; "" when there are none."""
        parts = self.text.replace("{split}", split).split("/")[:-1]
        fixed = []
        for part in parts:
            if "{" in part:
                break
            fixed.append(part)
        return "/".join(fixed)

    def match(self, relative: str, split: str) -> dict[str, str] | None:
        """The parts {name}, {group}, {ext} of a path below the data set's folder; None for another file."""
        found = _compile(self.text, split).fullmatch(relative)
        return found.groupdict() if found else None

    def fill(self, split: str, parts: dict[str, str]) -> str:
        """The path with all placeholders filled in."""
        return self.text.format(split=split, **parts)

    def suffix(self) -> str:
        """What follows {name}: `_leftImg8bit.png`."""
        return self.text.rpartition("{name}")[2]


@lru_cache(maxsize=256)
def _compile(text: str, split: str) -> re.Pattern[str]:
    pieces = _PLACEHOLDER.split(text.replace("{split}", split))
    return re.compile(
        "".join(_EXPRESSIONS[piece] if index % 2 else re.escape(piece) for index, piece in enumerate(pieces))
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which copies of a data set are laid out.

    `label_ids` says what the numbers in its label files are: "raw" (the data set's own ids), "train" (train
    ids of the data set's class space), or the name of another shipped description whose ids they are. No
    splits: all of them.
    """

    name: str
    image: PathPattern
    label: PathPattern | None
    label_encoding: str
    label_ids: str
    splits: tuple[str, ...]

    def serves(self, split: str) -> bool:
        """Whether this layout has files of the split."""
        return not self.splits or split in self.splits


def check_pattern(text: str, allowed: frozenset[str], where: str) -> PathPattern:
    """The pattern, or a UserError that names the file and key (`where`) when it cannot be used."""
    pattern = PathPattern(text)
    unknown = pattern.placeholders - allowed
    if unknown:
        raise UserError(
            f"{where}: {text!r} has unknown placeholders {sorted(unknown)}; "
            f"possible are {', '.join('{' + name + '}' for name in sorted(allowed))}."
        )
    if "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
        raise UserError(f"{where}: {text!r} has a brace without its partner; placeholders are like {{name}}.")
    repeated = [f"{{{name}}}" for name in ("group", "ext") if text.count(f"{{{name}}}") > 1]
    if repeated:
        raise UserError(
            f"{where}: {text!r} has {repeated[0]} more than once; it can stand for one thing only."
        )
    if text.count("{name}") != 1:
        raise UserError(
            f"{where}: {text!r} needs {{name}} exactly once: the part that image and label share."
        )
    if text.startswith("/") or ".." in text.split("/"):
        raise UserError(
            f"{where}: {text!r} must lie below the data set's folder; set `root` or --data-root instead."
        )
    return pattern
