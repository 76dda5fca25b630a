"""Matches the files of a folder with the path patterns of a description."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_loaders.description import DatasetDescription
from data_loaders.file_list import FileList, Item
from data_loaders.folders import FolderIndex
from data_loaders.layouts import Layout

LabelMode = Literal["required", "optional", "never"]


@dataclass(frozen=True, slots=True)
class Request:
    """What is looked for: one split of one data set, with or without labels."""

    description: DatasetDescription
    split: str
    labels: LabelMode
    label_root: Path | None
    index: FolderIndex

    @property
    def split_folder(self) -> str:
        """What stands for {split} in the patterns."""
        return self.description.split_folder(self.split)

    def candidates(self, folders: Sequence[Path]) -> Iterator[tuple[Path, Layout]]:
        """Existing folders with each layout that has the split."""
        for folder in folders:
            if self.index.is_folder(folder):
                for layout in self.description.layouts_of(self.split):
                    yield folder, layout

    def scan(self, folder: Path, layout: Layout, *, need_label: bool) -> FileList | None:
        """All files of the split in one folder; None when there are no images, or no label at all."""
        images = self.images(folder, layout)
        items, skipped = self._pair(folder, layout, images)
        if not items or (need_label and all(item.label is None for item in items)):
            return None
        description = self.description.for_layout(layout)
        return FileList(description, folder, layout.name, self.split, tuple(items), tuple(skipped))

    def images(self, folder: Path, layout: Layout) -> dict[str, dict[str, str]]:
        """Images below `folder`, sorted: relative path -> parts of the pattern."""
        fixed = layout.image.folder(self.split_folder)
        found = {}
        for relative in sorted(self.index.walk(folder, fixed)):
            parts = layout.image.match(relative, self.split_folder)
            if parts is not None:
                found[relative] = parts
        return found

    def name_of(self, relative: str, layout: Layout, split_folder: str | None = None) -> str:
        """The item name of an image: its path below the image folder."""
        fixed = layout.image.folder(split_folder or self.split_folder)
        return relative.removeprefix(f"{fixed}/") if fixed else relative

    def label_path(
        self, folder: Path, layout: Layout, parts: dict[str, str], split: str | None = None
    ) -> Path | None:
        """The label file that the pattern gives, if it exists."""
        if layout.label is None:
            return None
        split_folder = split or self.split_folder
        relative = layout.label.fill(split_folder, parts)
        if self.label_root is None:
            return self.index.file(folder, relative)
        inner = relative.removeprefix(layout.label.folder(split_folder)).lstrip("/")
        return self.index.file(self.label_root, relative) or self.index.file(self.label_root, inner)

    def _pair(
        self, folder: Path, layout: Layout, images: dict[str, dict[str, str]]
    ) -> tuple[list[Item], list[str]]:
        items, skipped = [], []
        for relative, parts in images.items():
            label = None if self.labels == "never" else self.label_path(folder, layout, parts)
            name = self.name_of(relative, layout)
            if self.labels == "required" and label is None:
                skipped.append(f"{name}: no label")
            else:
                items.append(Item(name, folder / relative, label))
        if self.labels == "required" and items:
            skipped += self._stray_labels(folder, layout, images)
        return items, skipped

    def _stray_labels(self, folder: Path, layout: Layout, images: dict[str, dict[str, str]]) -> list[str]:
        """Label files without an image; those of another layout's naming belong to its images."""
        if layout.label is None or self.label_root is not None:
            return []
        if "split" in layout.image.placeholders - layout.label.placeholders:
            return []  # one label folder for all splits
        known = {tuple(sorted(_shared(parts).items())) for parts in images.values()}
        patterns = [other.label for other in self.description.layouts if other.label is not None]
        stray = []
        for relative in sorted(self.index.walk(folder, layout.label.folder(self.split_folder))):
            if layout.label.match(relative, self.split_folder) is None:
                continue
            matches = (pattern.match(relative, self.split_folder) for pattern in patterns)
            if not any(tuple(sorted(parts.items())) in known for parts in matches if parts is not None):
                stray.append(f"{relative}: no image")
        return stray


def _shared(parts: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in parts.items() if key != "ext"}
