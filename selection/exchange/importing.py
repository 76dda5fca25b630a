"""Reads people's answers back and checks every one of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from selection.exchange.answers import OnConflict, RoundAnswers, key_of
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import pixel_owners, suggestion_map
from selection.exchange.import_report import ImportReport, shown_list
from selection.exchange.packages import FILE, PICTURES, Package, Task
from selection.exchange.shapes import CropAnswer
from selection.exchange.tools import TOOLS, AnswerFiles
from selection.rounds import UNANSWERED
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

__all__ = ["ImportReport", "find_packages", "read_packages", "shown_list"]

Places = tuple[np.ndarray | slice, np.ndarray | slice]  # rows and columns in a crop
WORK = (PICTURES, "labels", "answers.json")  # what a folder of a package may hold
FINISHED_IN_FILE = frozenset({"labelme"})  # formats whose files say themselves that a crop is finished
UNCHANGED = "they equal the suggestion; if people have looked at them, add --accept-unchanged"


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


def strays(folders: Sequence[Path]) -> list[str]:
    """Folders below `folders` that hold work without a package.json, in a line each."""
    found = [
        path
        for folder in folders
        if not (folder / FILE).exists()
        for path in sorted(folder.iterdir())
        if not (path / FILE).exists() and any((path / work).exists() for work in WORK)
    ]
    return [
        f"{path} holds crops or answers but no {FILE}; copy it back from the export" for path in sorted(found)
    ]


def read_packages(
    folders: Sequence[Path],
    answers: RoundAnswers,
    names: ClassNames,
    *,
    on_conflict: OnConflict = "error",
    accept_unchanged: bool = False,
) -> ImportReport:
    """Adds the answers in package folders to those of the round.

    Args:
        folders: of packages, or folders of such.
        answers: of the round; what is good is added to it in memory, nothing is stored.
        names: of the classes.
        on_conflict: pixels labelled twice with different classes: "error": a problem, nothing of the crop is
            taken; "first": the shape that comes first in the file counts; "ignore": they become 255.
        accept_unchanged: in formats without a mark for finished crops, those that still equal their
            suggestion are answers too.

    Raises:
        UserError: a package belongs to another round, run or class space.
    """
    packages = [(folder, Package.read(folder / FILE)) for folder in find_packages(folders)]
    for folder, package in packages:
        package.check(answers.queries, folder)
        if package.tool not in TOOLS:
            raise UserError(f"{folder / FILE} is of the unknown tool {package.tool!r}; restore it")
    reader = _Reader(answers, names, on_conflict, accept_unchanged=accept_unchanged)
    keys = [key_of(package) for _, package in packages]
    reader.copied = {key for key in keys if keys.count(key) > 1}
    reader.report.problems += strays(folders)
    for folder, package in packages:
        reader.read(folder, package)
    reader.report.contradictions = list(_contradictions(answers, names))
    return reader.report


class _Reader:
    def __init__(
        self, answers: RoundAnswers, names: ClassNames, on_conflict: OnConflict, *, accept_unchanged: bool
    ) -> None:
        self.answers = answers
        self.names = names
        self.on_conflict = on_conflict
        self.accept_unchanged = accept_unchanged
        self.report = ImportReport(unit="images" if answers.queries.info.whole_images else "crops")
        self.copied: set[str] = set()  # annotators of whom several packages are read
        self._stored = {key: dict(classes) for key, classes in answers.classes.items()}
        self._said: dict[tuple[str, str], np.ndarray] = {}  # of these, by image, what this import has taken
        self._owners: tuple[str, np.ndarray, np.ndarray] | None = None  # image, its pixels, their picks

    def read(self, folder: Path, package: Package) -> None:
        """Adds the answers of one package."""
        tool, key = TOOLS[package.tool], key_of(package)
        self.report.found.add(key)
        try:
            files = tool.Answers(folder, package, self.names)
        except UserError as error:
            self.report.problems.append(str(error))
            return
        self.report.problems += files.problems()
        for task in package.tasks:
            try:
                self._read_task(key, task, package, files)
            except UserError as error:
                self.report.problems.append(str(error))

    def _read_task(self, key: str, task: Task, package: Package, files: AnswerFiles) -> None:
        path = files.source(task)
        answer = files.read(task)
        places, inside = self._own(task, path)
        before = self._stored.get(key, {}).get(task.crop.image)
        stored = None if before is None or (before[places] == UNANSWERED).all() else before[places]
        if answer is None:
            self._wait(TOOLS[package.tool].NOT_ANSWERED)
            if stored is not None:
                self.report.withdrawn.append(f"{path}, image {task.crop.image}")
        elif stored is None and self._is_unchanged(task, package, answer.first[inside], inside):
            self._wait(UNCHANGED)
        else:
            self._take(key, task, answer, path, places, inside, stored)

    def _wait(self, reason: str) -> None:
        self.report.waiting[reason] = self.report.waiting.get(reason, 0) + 1

    def _is_unchanged(self, task: Task, package: Package, classes: np.ndarray, inside: Places) -> bool:
        """Whether nobody need have looked at a crop: its answers are those that it was exported with."""
        if self.accept_unchanged or task.blind or package.tool in FINISHED_IN_FILE:
            return False
        queries = self.answers.queries
        suggested = suggestion_map(task.crop, queries[task.crop.image], queries.info.label_radius)
        exported = TOOLS[package.tool].as_read(task.crop, suggested)
        return bool((classes == exported[inside]).all())

    def _take(
        self,
        key: str,
        task: Task,
        answer: CropAnswer,
        path: Path,
        places: np.ndarray | slice,
        inside: Places,
        stored: np.ndarray | None,
    ) -> None:
        """Adds the answer of one crop; `stored` are the annotator's earlier answers to it, if any.

        Raises:
            UserError: it contradicts itself and --on-conflict says that this is an error; it contradicts
                another copy of the same package.
        """
        crop, report = task.crop, self.report
        classes, second = answer.first[inside].flatten(), answer.second[inside].flatten()
        twice = second != UNANSWERED
        if twice.any():
            text = f"{path}, image {crop.image}: {_pairs(classes[twice], second[twice], self.names)}"
            if self.on_conflict == "error":
                raise UserError(text)
            report.conflicts.append(text)
            if self.on_conflict == "ignore":
                classes[twice] = IGNORE_LABEL
        self._check_copies(key, crop.image, places, classes, path)
        changed = 0 if stored is None else int(np.count_nonzero(_differ(stored, classes)))
        if changed:
            name = self.answers.shown(key)
            report.changed[name] = report.changed.get(name, 0) + changed
        missing = int(np.count_nonzero(classes == UNANSWERED))
        if missing:
            report.gaps.append(
                f"{path}, image {crop.image}: {missing} of {len(classes)} queried pixels have no label"
            )
        self.answers.put(key, crop.image, places, classes, blind=task.blind)
        report.crops += 1
        report.pixels += len(classes) - missing
        report.cannot_tell += int(np.count_nonzero(classes == IGNORE_LABEL))
        report.outside += int(np.count_nonzero(answer.first != UNANSWERED)) - (len(classes) - missing)

    def _check_copies(
        self, key: str, image: str, places: np.ndarray | slice, classes: np.ndarray, path: Path
    ) -> None:
        """Refuses an answer that another copy of the same package contradicts."""
        if key not in self.copied:
            return
        said = self._said.setdefault(
            (key, image), np.full(len(self.answers.queries[image].predicted), UNANSWERED, np.uint8)
        )
        copies = _differ(said[places], classes)
        if copies.any():
            raise UserError(
                f"{path}, image {image}: another folder of this import, a copy of the same package, "
                f"answers {np.count_nonzero(copies)} pixels differently; name one of the copies"
            )
        said[places] = np.where(classes == UNANSWERED, said[places], classes)

    def _own(self, task: Task, path: Path) -> tuple[np.ndarray | slice, Places]:
        """The pixels that a task asks about: their places among the image's queried ones, and in the crop."""
        queries, name = self.answers.queries, task.crop.image
        if name not in queries:
            raise UserError(
                f"{path}: {FILE} names the image {name}, which is not in the round; restore {FILE}"
            )
        if task.crop.is_whole:
            return slice(None), (slice(None), slice(None))
        if self._owners is None or self._owners[0] != name:
            radius = queries.info.label_radius
            self._owners = name, queries[name].pixels(radius), pixel_owners(queries[name], radius)
        _, pixels, owners = self._owners
        own = np.flatnonzero(np.isin(owners, [region.pick for region in task.crop.regions]))
        rows, columns = np.divmod(pixels[own], task.crop.image_size[1])
        return own, (rows - task.crop.top, columns - task.crop.left)


def _differ(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Where both say something, and not the same."""
    return (before != UNANSWERED) & (now != UNANSWERED) & (before != now)


def _pairs(first: np.ndarray, second: np.ndarray, names: ClassNames) -> str:
    """How many pixels are labelled as two classes, and which."""
    codes = np.minimum(first, second).astype(np.int32) * 256 + np.maximum(first, second)
    pairs = {divmod(code, 256) for code in np.unique(codes).tolist()}
    classes = ", ".join(" and ".join(map(names.name, pair)) for pair in sorted(pairs))
    return f"{len(first)} pixels are labelled as two classes: {classes}"


def _contradictions(answers: RoundAnswers, names: ClassNames) -> Iterator[str]:
    """A line for every image about which two annotators disagree."""
    for query in answers.queries.images:
        first, second = answers.contradictions(query.name)
        differs = second != UNANSWERED
        if differs.any():
            who = [
                answers.shown(key)
                for key in answers.annotators
                if (answers.of(key, query.name)[differs] != UNANSWERED).any()
            ]
            text = _pairs(first[differs], second[differs], names)
            yield f"image {query.name}, {' and '.join(who)}: {text}"
