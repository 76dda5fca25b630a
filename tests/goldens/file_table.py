"""Which test module reads which golden file: the checks that the tables of all methods share."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from golden_files import golden_path


def unread_and_absent(method: str, anchor: str, read_by: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Stems of files without a line in the table, and lines without a file.

    Args:
        method: folder of the goldens.
        anchor: a file that is always there.
        read_by: file stem (* stands for any member of a family) to test module.
    """
    folder = golden_path(method, anchor).parent
    stems = {path.stem for path in folder.iterdir() if path.name != "README.md"}
    unread = {stem for stem in stems if not any(fnmatchcase(stem, pattern) for pattern in read_by)}
    absent = {pattern for pattern in read_by if not any(fnmatchcase(stem, pattern) for stem in stems)}
    return unread, absent


def names_the_file(module: str, stem: str) -> bool:
    """Whether the module's text holds the stem, as a string of its own or the beginning of a file name."""
    source = (Path(__file__).parent / f"{module}.py").read_text()
    beginning = stem.partition("*")[0]
    endings = (".npz", ".json", ".png", ".pkl", ".txt", '"', "{", "/", "*")
    return any(f'"{beginning}{ending}' in source for ending in endings)
