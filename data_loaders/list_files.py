"""List files: one image name per line, or `image label` per line.

Names may be relative to the image folder (`aachen/aachen_000000_000019_leftImg8bit.png`), to the data set's
folder, or to the list file's folder; the suffix may be missing (`aachen/aachen_000000_000019`). Empty lines,
lines that start with # and Windows line ends are fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loaders.file_list import FileList, Item
from data_loaders.layouts import IMAGE_SUFFIXES, Layout
from data_loaders.scanning import Request
from utils.errors import UserError


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One line of a list file."""

    line: int
    image: str
    label: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """How entries of a list are read: relative to `anchor`, in one data folder and layout."""

    folder: Path
    layout: Layout
    anchor: Path


def read_list(path: Path) -> list[ListEntry]:
    """The entries of a list file.

    Raises:
        UserError: the file cannot be read or holds no entry.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"list file {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None
    entries = [
        _parse(number, text)
        for number, line in enumerate(lines, 1)
        if (text := line.strip()) and not text.startswith("#")
    ]
    if not entries:
        raise UserError(f"list file {path} holds no image names.")
    return entries


def _parse(number: int, text: str) -> ListEntry:
    words = text.split()
    if len(words) == 2 and words[0].rpartition(".")[2].lower() in IMAGE_SUFFIXES:
        return ListEntry(number, words[0], words[1])
    return ListEntry(number, text, None)  # a name may hold spaces


def find_listed_files(request: Request, folders: Sequence[Path], list_file: Path) -> FileList:
    """The files of a list, in its order.

    Raises:
        UserError: an entry does not exist (names list, line and entry), or none has a label.
    """
    entries = read_list(list_file)
    place = _find_place(request, folders, list_file, entries[0])
    items, skipped = [], []
    for entry in entries:
        image = _image_of(request, place, entry)
        if image is None:
            raise _missing(list_file, entry, entry.image, [place.anchor])
        relative = _below(image, place.folder)
        label = None if request.labels == "never" else _label_of(request, place, entry, relative, list_file)
        name = _name_of(request, place, image, relative)
        if label is None and request.labels == "required":
            skipped.append(f"{name}: no label")
        else:
            items.append(Item(name, image, label))
    if not items:
        raise UserError(
            f"list file {list_file}: no label for any of its {len(entries)} images in {place.folder}; "
            f"expected {place.layout.label.text if place.layout.label else 'image and label per line'}."
        )
    description = request.description.for_layout(place.layout)
    return FileList(description, place.folder, place.layout.name, request.split, tuple(items), tuple(skipped))


def _find_place(request: Request, folders: Sequence[Path], list_file: Path, first: ListEntry) -> Place:
    """The folder, layout and anchor with which the first entry exists; preferably with its label."""
    places = [
        place
        for folder in (*folders, list_file.parent)
        for place in _places(request, folder, list_file, first)
    ]
    if not places:
        anchors = [*folders, list_file.parent]
        raise _missing(list_file, first, first.image, anchors)
    if request.labels == "never":
        return places[0]
    return next((place for place in places if _has_label(request, place, first)), places[0])


def _places(request: Request, folder: Path, list_file: Path, first: ListEntry) -> list[Place]:
    found = []
    for layout in request.description.layouts:
        image_folders = [layout.image.folder(split) for split in _split_folders(request)]
        for anchor in (*(folder / fixed for fixed in image_folders), folder, list_file.parent):
            place = Place(folder, layout, anchor)
            if _image_of(request, place, first) is not None:
                found.append(place)
    return found


def _image_of(request: Request, place: Place, entry: ListEntry) -> Path | None:
    """The image of an entry, as written or with the end that the layout gives to image names."""
    end = place.layout.image.suffix()
    ends = [end.replace("{ext}", suffix) for suffix in IMAGE_SUFFIXES] if "{ext}" in end else [end]
    names = (entry.image + end for end in ("", *ends))
    return next(
        (path for name in names if (path := request.index.file(place.anchor, name)) is not None), None
    )


def _split_folders(request: Request) -> list[str]:
    """The asked split first, then the others: a list may take its images from any."""
    others = (request.description.split_folder(split) for split in request.description.splits)
    return list(dict.fromkeys((request.split_folder, *others)))


def _has_label(request: Request, place: Place, entry: ListEntry) -> bool:
    image = _image_of(request, place, entry)
    relative = _below(image, place.folder) if image else None
    if entry.label is not None:
        label = _listed_label(request, place, entry.label)
        below = _below(label, place.folder) if label else None
        pattern = place.layout.label
        return (
            below is not None
            and pattern is not None
            and any(pattern.match(below, split) is not None for split in _split_folders(request))
        )
    return relative is not None and _label_by_pattern(request, place, relative) is not None


def _label_of(
    request: Request, place: Place, entry: ListEntry, relative: str | None, list_file: Path
) -> Path | None:
    if entry.label is not None:
        label = _listed_label(request, place, entry.label)
        if label is None and request.labels == "required":
            raise _missing(list_file, entry, entry.label, [request.label_root or place.anchor, place.folder])
        return label
    return None if relative is None else _label_by_pattern(request, place, relative)


def _listed_label(request: Request, place: Place, label: str) -> Path | None:
    anchors = [request.label_root] if request.label_root else [place.anchor, place.folder]
    return next((path for anchor in anchors if (path := request.index.file(anchor, label)) is not None), None)


def _label_by_pattern(request: Request, place: Place, relative: str) -> Path | None:
    for split in _split_folders(request):
        parts = place.layout.image.match(relative, split)
        if parts is not None:
            return request.label_path(place.folder, place.layout, parts, split)
    return None


def _name_of(request: Request, place: Place, image: Path, relative: str | None) -> str:
    """As in a scan: the path below the image folder; for images elsewhere that below the anchor."""
    if relative is not None:
        for split in _split_folders(request):
            if place.layout.image.match(relative, split) is not None:
                return request.name_of(relative, place.layout, split)
    below = _below(image, place.anchor)
    return image.name if below is None or ".." in Path(below).parts else below


def _below(path: Path, folder: Path) -> str | None:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else None


def _missing(list_file: Path, entry: ListEntry, name: str, anchors: Sequence[Path]) -> UserError:
    where = ", ".join(dict.fromkeys(str(anchor) for anchor in anchors))
    return UserError(
        f"list file {list_file}, line {entry.line}: {name!r} does not exist in {where}; "
        f"correct the line, or give the folder with --data-root, --source-root or --target-root."
    )
