"""What a data set looks like on disk, read from a small TOML file: layouts, encoding, id tables, classes.

Shipped descriptions lie in data_loaders/descriptions; docs/datasets.md explains every key with a worked
example.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from data_loaders.description_file import DescriptionContent, read_description_file
from data_loaders.layouts import Layout
from utils.class_spaces import CLASS_SPACES, IGNORE_LABEL, class_space, expand_table, merge_table
from utils.errors import UserError, alike_everywhere

DESCRIPTION_FOLDER = Path(__file__).parent / "descriptions"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetDescription(DescriptionContent):
    """One data set: the content of its file and what the file's labels hold.

    `label_encoding` and `label_ids` are those of the first layout until `for_layout` fixes one; the
    description in a `FileList` is the one of the layout that was found, so take tables and encodings from
    there.
    """

    label_encoding: str
    label_ids: str
    file: Path

    @property
    def is_own(self) -> bool:
        """Whether the user wrote it; its relative paths then also start at the file's folder."""
        return self.file.parent != DESCRIPTION_FOLDER

    def for_layout(self, layout: Layout) -> DatasetDescription:
        """The description with the label encoding and ids of one layout."""
        return replace(self, label_encoding=layout.label_encoding, label_ids=layout.label_ids)

    def split_folder(self, split: str) -> str:
        """The folder name that stands for {split}.

        Raises:
            UserError: the data set has no such split.
        """
        if split not in self.splits:
            raise UserError(f"data set {self.name} has no split {split!r}; it has {', '.join(self.splits)}.")
        return self.split_folders.get(split, split)

    def layouts_of(self, split: str) -> tuple[Layout, ...]:
        """The layouts that have files of the split, in the order in which they are tried."""
        return tuple(layout for layout in self.layouts if layout.serves(split))

    def class_spaces(self) -> list[str]:
        """Names of the class spaces into which the labels can be mapped, the default first."""
        return [self.default_class_space] + [
            name for name in CLASS_SPACES if name != self.default_class_space and self._can_map(name)
        ]

    def label_table(self, space: str) -> np.ndarray:
        """(256,) uint8 table from ids in the label files to train ids of `space`, 255 without a class.

        Raises:
            UserError: there is no way from this data set's labels to that space.
        """
        target = class_space(space).name
        if self.label_ids == "train":
            return self._merged(target)
        if self.label_ids != "raw":
            return load_description(self.label_ids).label_table(target)
        if target in self.label_tables:
            return expand_table(self.label_tables[target])
        if self.default_class_space not in self.label_tables:
            raise UserError(
                f"data set {self.name} is described without labels ({self.file} has no [label_tables]); it "
                "can only be "
                f"an unlabelled target."
            )
        raw = expand_table(self.label_tables[self.default_class_space])
        return self._merged(target)[raw]

    def known_ids(self) -> frozenset[int]:
        """Every id that may stand in a label file: with a class, void, or 255."""
        if self.label_ids == "train":
            return frozenset(range(class_space(self.default_class_space).num_classes)) | {IGNORE_LABEL}
        if self.label_ids != "raw":
            return load_description(self.label_ids).known_ids()
        with_class = frozenset(raw for table in self.label_tables.values() for raw in table)
        return with_class | self.void_ids | {IGNORE_LABEL}

    def _merged(self, target: str) -> np.ndarray:
        try:
            return merge_table(self.default_class_space, target)
        except UserError as error:
            raise UserError(
                f"labels of data set {self.name} cannot be mapped to class space {target}: {error}"
            ) from None

    def _can_map(self, space: str) -> bool:
        try:
            self.label_table(space)
        except UserError:
            return False
        return True


def shipped_descriptions() -> list[str]:
    """Names of the descriptions that come with the code, sorted."""
    return sorted(file.stem for file in DESCRIPTION_FOLDER.glob("*.toml"))


@alike_everywhere()
def load_description(name_or_toml: str | Path) -> DatasetDescription:
    """The shipped description of this name, or the one in a TOML file (anything that ends in .toml).

    A class space that the file defines becomes known under its name.

    Raises:
        UserError: unknown name (suggests the nearest), missing file, or a mistake in the file, with its key.
    """
    text = str(name_or_toml)
    if text.endswith(".toml"):
        return _read(Path(text).resolve())
    names = shipped_descriptions()
    if text in names:
        return _read_shipped(text)
    near = difflib.get_close_matches(text.lower(), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "or give the path of a description file (.toml)."
    raise UserError(f"unknown data set {text!r}, known: {', '.join(names)}; {hint}")


@lru_cache(maxsize=64)
def _read_shipped(name: str) -> DatasetDescription:
    return _read(DESCRIPTION_FOLDER / f"{name}.toml")


def _read(file: Path) -> DatasetDescription:
    content = read_description_file(file)
    for layout in content.layouts:
        _check_label_ids(layout, content, file)
    return DatasetDescription(
        **{part.name: getattr(content, part.name) for part in fields(content)},
        label_encoding=content.layouts[0].label_encoding,
        label_ids=content.layouts[0].label_ids,
        file=file,
    )


def _check_label_ids(layout: Layout, content: DescriptionContent, file: Path) -> None:
    if layout.label is None or layout.label_ids == "train":
        return
    if layout.label_ids == "raw":
        if content.default_class_space not in content.label_tables:
            raise UserError(
                f"{file}: layout {layout.name!r} has labels, but "
                f"[label_tables.{content.default_class_space}] "
                f"(raw id = train id) is missing; add it, or label_ids = 'train' if the files hold train ids."
            )
        return
    if layout.label_ids not in shipped_descriptions() or layout.label_ids == file.stem:
        raise UserError(
            f"{file}: layout {layout.name!r} has label_ids = {layout.label_ids!r}; possible are 'raw', "
            "'train' "
            f"or a shipped data set ({', '.join(shipped_descriptions())})."
        )
