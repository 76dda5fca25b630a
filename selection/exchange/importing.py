"""Reads people's answers back and checks every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from selection.exchange.answers import OnConflict, RoundAnswers
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import pixel_owners
from selection.exchange.packages import FILE, Package, Task
from selection.exchange.shapes import CropAnswer
from selection.exchange.tools import TOOLS
from selection.rounds import UNANSWERED
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

SHOWN = 20  # lines of a list before "and so many more"


@dataclass(slots=True)
class ImportReport:
    """What was found in the packages.

    Attributes:
        crops: with answers that were taken over.
        pixels: queried pixels in them that have an answer.
        cannot_tell: pixels among these that were answered "cannot tell".
        outside: labelled pixels outside of the regions, which count for nothing.
        problems: files that cannot be used, in a line each.
        conflicts: pixels labelled twice with different classes that were settled, in a line per crop.
        gaps: queried pixels without a label in crops that are answered, in a line per crop.
        waiting: crops that are not answered yet, by the reason.
    """

    crops: int = 0
    pixels: int = 0
    cannot_tell: int = 0
    outside: int = 0
    problems: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    waiting: dict[str, int] = field(default_factory=dict)

    def refuse_problems(self) -> None:
        """Stops where a file cannot be used.

        Raises:
            UserError: lists the problems.
        """
        if self.problems:
            raise UserError(
                f"{len(self.problems)} problem(s), so nothing is stored; repair the files, or store the rest "
                f"by --skip-bad-files:\n{shown_list(self.problems)}"
            )


def shown_list(lines: Sequence[str]) -> str:
    """The first lines, indented, and how many more there are."""
    more = [f"  ... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*(f"  {' '.join(line.split())}" for line in lines[:SHOWN]), *more])


def find_packages(folders: Sequence[Path]) -> list[Path]:
    """The package folders among `folders` and directly below them.

    Raises:
        UserError: a folder holds none.
    """
    found: list[Path] = []
    for folder in folders:
        here = (
            [folder] if (folder / FILE).exists() else sorted(path.parent for path in folder.glob(f"*/{FILE}"))
        )
        if not here:
            raise UserError(f"{folder} holds no {FILE}; name a folder that `annotate.py export` wrote")
        found += [path for path in here if path not in found]
    return found


def read_packages(
    folders: Sequence[Path],
    answers: RoundAnswers,
    names: ClassNames,
    *,
    on_conflict: OnConflict = "error",
) -> ImportReport:
    """Adds the answers in package folders to those of the round.

    Args:
        folders: of packages, or folders of such.
        answers: of the round; what is good is added to it in memory, nothing is stored.
        names: of the classes.
        on_conflict: pixels labelled twice with different classes: "error": a problem, nothing of the crop is
            taken; "first": the shape that comes first in the file counts; "ignore": they become 255.

    Raises:
        UserError: a package belongs to another round, run or class space.
    """
    reader = _Reader(answers, names, on_conflict)
    packages = [(folder, Package.read(folder / FILE)) for folder in find_packages(folders)]
    for folder, package in packages:
        package.check(answers.queries, folder)
        if package.tool not in TOOLS:
            raise UserError(f"{folder / FILE} is of the unknown tool {package.tool!r}; restore it")
    for folder, package in packages:
        reader.read(folder, package)
    return reader.report


class _Reader:
    def __init__(self, answers: RoundAnswers, names: ClassNames, on_conflict: OnConflict) -> None:
        self.answers = answers
        self.names = names
        self.on_conflict = on_conflict
        self.report = ImportReport()
        self._owners: tuple[str, np.ndarray, np.ndarray] | None = None  # image, its pixels, their picks

    def read(self, folder: Path, package: Package) -> None:
        """Adds the answers of one package."""
        tool = TOOLS[package.tool]
        try:
            files = tool.Answers(folder, package, self.names)
        except UserError as error:
            self.report.problems.append(str(error))
            return
        self.report.problems += files.problems()
        for task in package.tasks:
            try:
                answer = files.read(task)
                if answer is None:
                    waiting = self.report.waiting
                    waiting[tool.NOT_ANSWERED] = waiting.get(tool.NOT_ANSWERED, 0) + 1
                else:
                    self._take(package.annotator, task, answer, files.source(task))
            except UserError as error:
                self.report.problems.append(str(error))

    def _take(self, annotator: str, task: Task, answer: CropAnswer, path: Path) -> None:
        """Adds the answer of one crop.

        Raises:
            UserError: it contradicts itself and --on-conflict says that this is an error.
        """
        crop, report = task.crop, self.report
        places, pixels = self._own(task, path)
        rows, columns = np.divmod(pixels, crop.image_size[1])
        inside = rows - crop.top, columns - crop.left
        classes, second = answer.first[inside], answer.second[inside]
        twice = second != UNANSWERED
        if twice.any():
            text = self._conflict(path, crop.image, classes[twice], second[twice])
            if self.on_conflict == "error":
                raise UserError(text)
            report.conflicts.append(text)
            if self.on_conflict == "ignore":
                classes[twice] = IGNORE_LABEL
        missing = int(np.count_nonzero(classes == UNANSWERED))
        if missing:
            report.gaps.append(
                f"{path}, image {crop.image}: {missing} of {len(classes)} queried pixels have no label"
            )
        self.answers.put(annotator, places, classes, blind=task.blind)
        report.crops += 1
        report.pixels += len(classes) - missing
        report.cannot_tell += int(np.count_nonzero(classes == IGNORE_LABEL))
        report.outside += int(np.count_nonzero(answer.first != UNANSWERED)) - (len(classes) - missing)

    def _own(self, task: Task, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Positions, in the round and in the image, of the pixels that a task asks about."""
        queries, name = self.answers.queries, task.crop.image
        if name not in queries:
            raise UserError(
                f"{path}: {FILE} names the image {name}, which is not in the round; restore {FILE}"
            )
        if self._owners is None or self._owners[0] != name:
            radius = queries.info.label_radius
            self._owners = name, queries[name].pixels(radius), pixel_owners(queries[name], radius)
        _, pixels, owners = self._owners
        own = np.flatnonzero(np.isin(owners, [region.pick for region in task.crop.regions]))
        return queries.slice_of(name).start + own, pixels[own]

    def _conflict(self, path: Path, image: str, first: np.ndarray, second: np.ndarray) -> str:
        pairs = {tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)}
        classes = ", ".join(" and ".join(map(self.names.name, pair)) for pair in sorted(pairs))
        return f"{path}, image {image}: {len(first)} pixels are labelled as two classes: {classes}"
