"""Class statistics of a labelled data set, in the file formats of the original projects.

Rare class sampling (DAFormer, DIDA) reads three JSON files; RIPU and DWACA read a pickled pair of tables,
which is read here with an unpickler that can make nothing but lists, dicts, texts and numbers.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from data_loaders.decoding import read_raw_label
from data_loaders.file_list import FileList, Item
from data_loaders.histogram import value_counts
from data_loaders.parallel import ProgressLine, map_files
from utils.class_spaces import IGNORE_LABEL, ClassSpace
from utils.errors import UserError, reason
from utils.files import write_atomically

STATISTICS, STATISTICS_BY_FILE = "sample_class_stats.json", "sample_class_stats_dict.json"
SAMPLES_WITH_CLASS = "samples_with_class.json"
COUNTED_CLASSES = "sample_class_space.json"  # ours: which classes the three files count
# What may follow the image's name in that of a label file; the originals' converters write the first.
_MARKS = ("_labelTrainIds", "_labelIds")


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """The classes of one image.

    `pixels`: train id -> pixel count, ascending, without ignored pixels. `raw_order`: the same train ids in
    the order of the raw ids, which is how RIPU's tables list them.
    """

    image: str
    label: str
    pixels: dict[int, int]
    raw_order: tuple[int, ...]


def count_classes(
    files: FileList, space: str, *, num_workers: int, progress: ProgressLine | None = None
) -> list[ImageClasses]:
    """Class pixel counts of every labelled image, in the order of the list."""
    count = partial(_count, encoding=files.description.label_encoding, table=files.label_table(space))
    items = [item for item in files.items if item.label is not None]
    return list(map_files(count, items, num_workers=num_workers, progress=progress))


def _count(item: Item, encoding: str, table: np.ndarray) -> ImageClasses:
    pixels, raw_order = label_classes(read_raw_label(item.label, encoding), table)
    return ImageClasses(item.image.name, str(item.label), pixels, raw_order)


def label_classes(raw: np.ndarray, table: np.ndarray) -> tuple[dict[int, int], tuple[int, ...]]:
    """`pixels` and `raw_order` of an `ImageClasses`.

    Args:
        raw: (H, W) uint8 ids as in the file.
        table: (256,) uint8, raw id -> train id, 255 without a class.
    """
    counts = value_counts(raw)
    found = [train for train in table[np.flatnonzero(counts)].tolist() if train != IGNORE_LABEL]
    pixels = {train: int(counts[table == train].sum()) for train in sorted(set(found))}
    return pixels, tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, eq=False)
class Occurrences:
    """Numbers of the images that hold a class, ascending, and its pixels in each: (n,) int64."""

    images: np.ndarray
    pixels: np.ndarray


def class_occurrences(counts: Sequence[Mapping[int, int]]) -> dict[int, Occurrences]:
    """Train id -> where it occurs, in the order of first appearance.

    Args:
        counts: train id -> pixels of every image; 0 pixels are none.
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    entries = int(lengths.sum())
    classes = np.fromiter(chain.from_iterable(counts), np.int16, entries)  # sorted by radix: 16 bit at most
    pixels = np.fromiter(chain.from_iterable(image.values() for image in counts), np.int64, entries)
    images = np.repeat(np.arange(len(counts)), lengths)
    occurs = np.flatnonzero(pixels)
    order = occurs[np.argsort(classes[occurs], kind="stable")]
    ends = np.bincount(classes[occurs]).cumsum()[:-1]
    places = [part for part in np.split(order, ends) if part.size]
    places.sort(key=lambda part: int(part[0]))
    return {int(classes[part[0]]): Occurrences(images[part], pixels[part]) for part in places}


def total_pixels(images: Sequence[ImageClasses], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) int64 pixels and (C,) int64 images per class."""
    pixels, occurrences = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for train, found in class_occurrences([image.pixels for image in images]).items():
        pixels[train], occurrences[train] = found.pixels.sum(), len(found.images)
    return pixels, occurrences


def statistics_folder(files: FileList, space: str) -> Path:
    """Where the statistics of a data set lie if nothing else is said: as the originals', in its own folder.

    Counts of other classes than its own have a folder of their own in it.
    """
    if space == files.description.default_class_space:
        return files.root
    return files.root / f"class_statistics_{space}"


def write_class_statistics(
    folder: Path, images: Sequence[ImageClasses], space: ClassSpace | None = None
) -> list[Path]:
    """Writes sample_class_stats.json, sample_class_stats_dict.json and samples_with_class.json.

    Same text as the converters released with DAFormer (Hoyer et al., CVPR 2022): sorted by label path,
    classes as text keys, indent 2. A fourth file tells the class space, where it is given.
    """
    ordered = sorted(images, key=lambda image: image.label)
    statistics = [{**_text_keys(image.pixels), "file": image.label} for image in ordered]
    by_file = {image.label: _text_keys(image.pixels) for image in ordered}
    by_class: dict[str, list[list[str | int]]] = {}
    for image in ordered:
        for train, count in image.pixels.items():
            by_class.setdefault(str(train), []).append([image.label, count])
    contents = {STATISTICS: statistics, STATISTICS_BY_FILE: by_file, SAMPLES_WITH_CLASS: by_class}
    if space is not None:
        contents[COUNTED_CLASSES] = {"class_space": space.name, "class_names": list(space.class_names)}
    for name, content in contents.items():
        write_atomically(folder / name, json.dumps(content, indent=2))
    return [folder / name for name in contents]


def read_class_statistics(path: Path) -> dict[str, dict[int, int]]:
    """Label file -> {train id: pixels}, in the order of the file.

    Args:
        path: a `sample_class_stats_dict.json` or `sample_class_stats.json`, or the folder that holds one.

    Raises:
        UserError: the file is missing or holds something else, such as counts below 0.
    """
    file = statistics_file(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, list):
            content = {entry["file"]: _without_file(entry) for entry in content}
        statistics = {
            str(name): {int(train): int(count) for train, count in counts.items()}
            for name, counts in content.items()
        }
    except OSError as error:
        raise UserError(
            f"class statistics {file} cannot be read: {error.strerror}; prepare_data.py statistics writes "
            "them."
        ) from None
    except (ValueError, AttributeError, TypeError, KeyError, OverflowError, RecursionError):
        raise UserError(
            f"{file} is not a {STATISTICS_BY_FILE} (file -> class -> pixels) or {STATISTICS}; "
            f"write it again with prepare_data.py statistics."
        ) from None
    for name, counts in statistics.items():
        if min(counts.values(), default=0) < 0:
            raise UserError(
                f"{file} has {min(counts.values())} pixels of a class in {name}, a count below 0; write it "
                "again with prepare_data.py statistics."
            )
    return statistics


def statistics_file(path: Path) -> Path:
    """The file of pixels per image in a folder, or the path itself."""
    if not path.is_dir():
        return path
    by_file, plain = path / STATISTICS_BY_FILE, path / STATISTICS
    return plain if plain.is_file() and not by_file.is_file() else by_file


def counted_class_space(path: Path) -> str | None:
    """Name of the class space that the statistics in a folder (or of a file in it) count; None: not said."""
    file = (path if path.is_dir() else path.parent) / COUNTED_CLASSES
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["class_space"])
    except OSError:
        return None  # the originals have no such file
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UserError(
            f"{file} does not say which classes were counted; write it again with prepare_data.py statistics."
        ) from None


def _without_file(entry: Mapping[str, int]) -> dict[str, int]:
    return {key: value for key, value in entry.items() if key != "file"}


@dataclass(frozen=True, slots=True)
class LabelInfo:
    """RIPU's tables: per train id the names of the images that hold it, and per image name its train ids."""

    label_to_file: list[list[str]]
    file_to_label: dict[str, list[int]]


def label_info(images: Iterable[ImageClasses], num_classes: int) -> LabelInfo:
    """The tables of a data set, images in the order given."""
    label_to_file: list[list[str]] = [[] for _ in range(num_classes)]
    file_to_label: dict[str, list[int]] = {}
    for image in images:
        file_to_label[image.image] = list(image.raw_order)
        for train in image.raw_order:
            label_to_file[train].append(image.image)
    return LabelInfo(label_to_file, file_to_label)


def write_label_info(path: Path, info: LabelInfo) -> None:
    """Writes the `*_label_info.p` that the code released with RIPU reads (Xie et al., CVPR 2022)."""
    write_atomically(path, pickle.dumps((info.label_to_file, info.file_to_label), protocol=2))


def read_label_info(path: Path) -> LabelInfo:
    """Reads a `*_label_info.p` without running any code from it.

    Raises:
        UserError: the file is missing, is no such table, or asks for code to be run.
    """
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
    except OSError as error:
        raise UserError(f"label table {path} cannot be read: {error.strerror}.") from None
    except _ForbiddenError as error:
        raise UserError(
            f"label table {path} is refused: it asks for {error}, a table of names needs none."
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"label table {path} is damaged or no pickle: {type(error).__name__} {reason(error)}."
        ) from None
    if not _is_label_info(content):
        raise UserError(
            f"{path} is no label table: expected (list of lists of names, dict name -> train ids)."
        )
    label_to_file, file_to_label = content
    return LabelInfo(label_to_file, file_to_label)


@dataclass(frozen=True, slots=True)
class OtherClasses:
    """What a statistics file made elsewhere says: file stem -> {train id: pixels}, or sorted train ids."""

    classes: dict[str, dict[int, int]] | dict[str, list[int]]
    by_label: bool  # whether the stems are those of labels, and pixels are known; else of images

    def compare(self, images: Iterable[ImageClasses]) -> str:
        """In how many images the classes (and pixel counts, where known) are others than here, as text."""
        if self.by_label:
            here = {label_stem(image.label): image.pixels for image in images}
        else:
            here = {label_stem(image.image): sorted(image.raw_order) for image in images}
        there = self.classes
        differing = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
        if not differing and here.keys() == there.keys():
            return f"{len(there)} images, the same classes as here"
        first = differing[0] if differing else ""
        example = f" (first {first}: {there[first]} there, {here[first]} here)" if differing else ""
        return (
            f"{len(there)} images: {len(differing)} differ{example}, {len(there.keys() - here.keys())} only "
            f"there, {len(here.keys() - there.keys())} only here"
        )


def read_image_classes(path: Path) -> OtherClasses:
    """The classes per image in a `*.p` table or a `sample_class_stats_dict.json`.

    Raises:
        UserError: as `read_label_info` and `read_class_statistics`.
    """
    if path.suffix == ".json" or path.is_dir():
        counts = read_class_statistics(path)
        return OtherClasses({label_stem(name): pixels for name, pixels in counts.items()}, by_label=True)
    table = read_label_info(path).file_to_label
    return OtherClasses(
        {label_stem(name): sorted(set(classes)) for name, classes in table.items()}, by_label=False
    )


class _ForbiddenError(Exception):
    """A pickle asked for a class or function; the message is its name."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        raise _ForbiddenError(f"{module}.{name}")


def _is_label_info(content: object) -> bool:
    if not isinstance(content, tuple) or len(content) != 2:
        return False
    label_to_file, file_to_label = content
    return (
        isinstance(label_to_file, list)
        and isinstance(file_to_label, dict)
        and all(
            isinstance(names, list) and all(isinstance(name, str) for name in names)
            for names in label_to_file
        )
        and all(
            isinstance(name, str)
            and isinstance(classes, list)
            and all(isinstance(train, int) and 0 <= train < len(label_to_file) for train in classes)
            for name, classes in file_to_label.items()
        )
    )


def label_stem(name: str) -> str:
    """What the file names of one image's labels share: `00001` of `gta/labels/00001_labelTrainIds.png`."""
    stem = Path(name).stem
    for mark in _MARKS:
        stem = stem.removesuffix(mark)
    return stem


def _text_keys(pixels: Mapping[int, int]) -> dict[str, int]:
    return {str(train): count for train, count in pixels.items()}
