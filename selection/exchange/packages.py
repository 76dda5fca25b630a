"""A package: the crops of one annotator in a folder, with a file that says what they belong to."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from selection.exchange.crops import Crop
from selection.rounds import RoundQueries
from utils import seeding
from utils.errors import UserError
from utils.files import write_atomically

FORMAT_VERSION = 1
FILE = "package.json"
PICTURES = "crops"
PREVIEWS = "previews"


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
    """

    annotator: str
    tool: str
    round: int
    queries: str
    class_space: str
    run: str
    tasks: tuple[Task, ...] = field(repr=False)

    @property
    def decisions(self) -> int:
        """How many regions the annotator is to judge."""
        return sum(task.decisions for task in self.tasks)

    def write(self, path: Path) -> None:
        """Writes package.json, or the copy that the run keeps."""
        head = {name: getattr(self, name) for name in _HEAD}
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
            return cls(**{name: values[name] for name in _HEAD}, tasks=tasks)
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror or error}; name an exported folder"
            ) from error
        except UserError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error!r}); restore it, it must not be edited") from error

    def check(self, queries: RoundQueries, where: Path) -> None:
        """Refuses a package of another round or run.

        Raises:
            UserError: says which round it belongs to.
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


_HEAD = ("annotator", "tool", "round", "queries", "class_space", "run")


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
            if not re.fullmatch(r"\w[\w.-]*", name):
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
