"""A package: the crops of one annotator in a folder, with a file that says what they belong to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from selection.exchange.crops import Crop, begin_of_crop, region_box
from selection.rounds import RoundQueries
from utils import seeding
from utils.errors import UserError
from utils.files import write_atomically

FORMAT_VERSION = 1
FILE = "package.json"
PICTURES = "crops"
PREVIEWS = "previews"
LARGEST_SCALE = 1000  # of a picture; more means a damaged file
_LEFT_BY_SYSTEMS = frozenset({"thumbs.db", "desktop.ini"})
_RESTORE = "restore it, it must not be edited"


@dataclass(frozen=True, slots=True)
class Task:
    """One crop that one annotator labels.

    Attributes:
        number: of the task, unique in an export.
        crop: what is to be labelled.
        blind: the prediction is not shown.
        duplicate_of: number of another annotator's task with the same crop; None: this one is the first.
    """

    number: int
    crop: Crop
    blind: bool = False
    duplicate_of: int | None = None

    @property
    def stem(self) -> str:
        """File name without suffix: the number, and the image's name without letters that systems refuse."""
        image = re.sub(r"[^A-Za-z0-9.-]+", "_", PurePosixPath(self.crop.image).stem)
        return f"{self.number:06d}_{image[:60]}"

    @property
    def decisions(self) -> int:
        """How many regions are to be judged."""
        return len(self.crop.regions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "number": self.number,
            "file": self.stem,
            "blind": self.blind,
            "duplicate_of": self.duplicate_of,
            **self.crop.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """What `to_dict` made. Errors as `Crop.from_dict`."""
        original = values["duplicate_of"]
        crop = Crop.from_dict(values)
        return cls(
            int(values["number"]), crop, bool(values["blind"]), None if original is None else int(original)
        )


@dataclass(frozen=True, slots=True)
class Package:
    """The tasks of one annotator.

    Attributes:
        annotator: name, also of the folder.
        tool: "labelme", "coco" or "png": the format of the files.
        round: number of the round, 0-based.
        queries: digest of the round's queries: the package belongs to these and no others.
        class_space: name of the classes.
        run: the run folder as it was named, for people.
        tasks: in the order of their numbers.
        export: id of the export, so that two people of one name are not taken for one; "": none was given.
    """

    annotator: str
    tool: str
    round: int
    queries: str
    class_space: str
    run: str
    tasks: tuple[Task, ...] = field(repr=False)
    export: str = ""

    @property
    def decisions(self) -> int:
        """How many regions the annotator is to judge."""
        return sum(task.decisions for task in self.tasks)

    @property
    def whole_images(self) -> bool:
        """Whether every task is a whole image."""
        return all(task.crop.is_whole for task in self.tasks)

    @property
    def asked(self) -> str:
        """What the annotator is to judge, in words."""
        if self.whole_images:
            return f"{len(self.tasks)} whole images"
        return f"{self.decisions} regions in {len(self.tasks)} crops"

    def write(self, path: Path) -> None:
        """Writes package.json, or the copy that the run keeps."""
        head = {name: getattr(self, name) for name in _HEAD}
        head["export"] = self.export
        values = {"format_version": FORMAT_VERSION, **head, "tasks": [task.to_dict() for task in self.tasks]}
        write_atomically(path, json.dumps(values, ensure_ascii=True) + "\n", durable=True)

    @classmethod
    def read(cls, path: Path) -> Package:
        """The package of a package.json.

        Raises:
            UserError: the file is missing, damaged or of another version.
        """
        try:
            values = json.loads(path.read_bytes())
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{path} has format version {version}, this program reads {FORMAT_VERSION}; use the "
                    "program that exported it"
                )
            tasks = tuple(Task.from_dict(task) for task in values["tasks"])
            package = cls(
                **{name: values[name] for name in _HEAD}, tasks=tasks, export=values.get("export", "")
            )
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror or error}; name an exported folder"
            ) from error
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error!r}); {_RESTORE}") from error
        package._check_head(path)
        return package

    def check(self, queries: RoundQueries, where: Path) -> None:
        """Refuses a package of another round or run, and one whose tasks are not those of the round.

        Args:
            queries: of the round.
            where: folder of the package.

        Raises:
            UserError: says which round it belongs to, or which field does not fit.
        """
        number = queries.info.number
        if self.round != number:
            raise UserError(
                f"{where} answers round {self.round + 1} of run {self.run}, not round {number + 1}; name "
                f"that round by --round {self.round + 1}, or import another folder"
            )
        if self.queries != queries.digest():
            raise UserError(
                f"{where} belongs to another run: it was exported from {self.run} for other queries than "
                "those of this round; import it there"
            )
        file = where / FILE
        if self.class_space != queries.info.class_space:
            raise UserError(
                f"{file}: class_space is {self.class_space!r}, not {queries.info.class_space!r}; {_RESTORE}"
            )
        numbers: set[int] = set()
        for task in self.tasks:
            wrong = f"number {task.number}" if task.number in numbers else _wrong_field(task.crop, queries)
            if wrong is not None:
                raise UserError(f"{file}: task {task.number} does not fit the round: {wrong}; {_RESTORE}")
            numbers.add(task.number)

    def _check_head(self, path: Path) -> None:
        for name, kind in _HEAD.items():
            value = getattr(self, name)
            if type(value) is not kind:
                raise UserError(f"{path}: {name} is {value!r}, which is no {kind.__name__}; {_RESTORE}")
        if not isinstance(self.export, str) or (self.export and not _is_name(self.export)):
            raise UserError(f"{path}: export is {self.export!r}, which is no id of an export; {_RESTORE}")
        if not _is_name(self.annotator):
            raise UserError(f"{path}: annotator {self.annotator!r} is no name for a folder; {_RESTORE}")


_HEAD = {"annotator": str, "tool": str, "round": int, "queries": str, "class_space": str, "run": str}


def left_by_system(name: str) -> bool:
    """Whether a file is none of a package: hidden files such as macOS's "._x", and those of Windows."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS


def _is_name(name: str) -> bool:
    """Whether an annotator may be called so: the name becomes one of a folder."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def _wrong_field(crop: Crop, queries: RoundQueries) -> str | None:
    """The first field of a task's crop that contradicts the round, and its value; None: there is none."""
    if crop.image not in queries:
        return f"image {crop.image!r} is none of it"
    query = queries[crop.image]
    (height, width), (rows, columns) = query.size, crop.size
    if crop.image_size != query.size:
        return f"image_size is {list(crop.image_size)}, not {[height, width]}"
    if not 1 <= crop.scale <= LARGEST_SCALE:
        return f"scale is {crop.scale}"
    if not (0 <= crop.top < crop.top + rows <= height and 0 <= crop.left < crop.left + columns <= width):
        return (
            f"top, left, height, width are {crop.top}, {crop.left}, {rows}, {columns}: outside of the image"
        )
    for region, (top, left, bottom, right) in zip(crop.regions, crop.boxes(), strict=True):
        if not 0 <= region.pick < len(query.picks):
            return f"regions has the pick {region.pick}, of {len(query.picks)}"
        expected = region_box(query, region.pick, queries.info.label_radius)
        if region.box != expected:
            return f"regions has the box {list(region.box)} for pick {region.pick}, not {list(expected)}"
        if not (0 <= top < bottom <= rows and 0 <= left < right <= columns):
            return f"regions has pick {region.pick} outside of the crop"
    return _wrong_place(crop)


def _wrong_place(crop: Crop) -> str | None:
    """As `_wrong_field`: regions lie in the middle of their crop, so a shifted one shows."""
    if not crop.regions:
        return "regions is empty"
    tops, lefts, bottoms, rights = zip(*(region.box for region in crop.regions), strict=True)
    height, width = crop.image_size
    top = begin_of_crop(min(tops), max(bottoms), crop.height, height)
    left = begin_of_crop(min(lefts), max(rights), crop.width, width)
    if (crop.top, crop.left) != (top, left):
        return f"top, left are {crop.top}, {crop.left}, not {top}, {left}"
    return None


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who labels what.

    Attributes:
        annotators: names; each gets a package of its own.
        blind_share: of the crops are shown without the prediction, in [0, 1].
        duplicate_share: of the crops go to a second annotator too, in [0, 1].
        seed: of the draws.
    """

    annotators: tuple[str, ...] = ("annotator",)
    blind_share: float = 0.0
    duplicate_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.annotators:
            if not _is_name(name):
                raise UserError(
                    f"--annotators {name!r} is no name for a folder; use letters, digits, '.', '_' and '-'"
                )
        folded = [name.casefold() for name in self.annotators]
        if not folded or len(set(folded)) < len(folded):
            raise UserError(f"--annotators {','.join(self.annotators)!r} must be different names")


def share_out(crops: Sequence[Crop], sharing: Sharing) -> dict[str, tuple[Task, ...]]:
    """The tasks of every annotator, balanced by decisions; a crop has one annotator and perhaps a second.

    With one annotator, duplicates go to a second package whose name ends in "-again".
    """
    names = list(sharing.annotators)
    order = _permutation(sharing, "order", len(crops))
    blind = set(_head_of(_permutation(sharing, "blind", len(crops)), sharing.blind_share))
    twice = _head_of(_permutation(sharing, "duplicates", len(crops)), sharing.duplicate_share)
    load = dict.fromkeys(names, 0)
    owner: dict[int, str] = {}
    for number in sorted(order, key=lambda number: -len(crops[number].regions)):  # stable: else as drawn
        owner[number] = _least(load, names)
        load[owner[number]] += len(crops[number].regions)
    second: dict[int, str] = {}
    again = [f"{names[0]}-again"] if len(names) == 1 else names
    load |= dict.fromkeys(set(again) - set(load), 0)
    for number in twice:
        second[number] = _least(load, [name for name in again if name != owner[number]])
        load[second[number]] += len(crops[number].regions)
    return _number(crops, owner, second, blind)


def _head_of(order: Sequence[int], share: float) -> list[int]:
    """The first `share` of an order, rounded up."""
    return list(order[: math.ceil(round(share * len(order), 9))])


def _permutation(sharing: Sharing, purpose: str, count: int) -> list[int]:
    return seeding.generator(sharing.seed, f"annotation/{purpose}", 0).permutation(count).tolist()


def _least(load: Mapping[str, int], names: Sequence[str]) -> str:
    return min(names, key=lambda name: load[name])


def _number(
    crops: Sequence[Crop], owner: Mapping[int, str], second: Mapping[int, str], blind: set[int]
) -> dict[str, tuple[Task, ...]]:
    """Tasks numbered through in the order of the images, duplicates among them: nothing tells them apart."""
    tasks: dict[str, list[Task]] = {name: [] for name in sorted({*owner.values(), *second.values()})}
    number = 0
    for index, crop in enumerate(crops):
        first = Task(number, crop, index in blind)
        tasks[owner[index]].append(first)
        number += 1
        if index in second:
            tasks[second[index]].append(replace(first, number=number, duplicate_of=first.number))
            number += 1
    return {name: tuple(own) for name, own in tasks.items()}
