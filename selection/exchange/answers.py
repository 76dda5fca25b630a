"""What every annotator has said about the pixels of a round, kept with the round until it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selection.exchange.packages import Package
from selection.queries import RoundQueries, joined
from selection.round_files import damaged, pack_text, unpack_text
from selection.rounds import UNANSWERED, RoundFolder
from utils.class_spaces import IGNORE_LABEL
from utils.folder_lock import FolderLock

OnConflict = Literal["error", "first", "ignore"]
POLICIES: tuple[OnConflict, ...] = ("error", "first", "ignore")
EARLIER = "earlier run"  # who answered: labels of another run; no annotator can have this name
_UNKNOWN = "unknown"  # likewise, in a file without names
_REMEDY = "restore it from a copy, or delete it and import the answers again"


@contextmanager
def import_lock(folder: RoundFolder, *, option: str = "--round") -> Iterator[None]:
    """From reading answers to writing them: of two at once the later one would undo the other.

    Raises:
        UserError: somebody else is at it; names the option that would choose another round.
    """
    lock = FolderLock(folder.folder / "import.lock", what="the round", option=option)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def key_of(package: Package) -> str:
    """Whose answers a package holds: two exports may mean different people by the same name."""
    return f"{package.annotator}@{package.export}" if package.export else package.annotator


ByImage = dict[str, np.ndarray]  # image name to (p,) values of its queried pixels


@dataclass(slots=True)
class RoundAnswers:
    """Answers by annotator and export (`key_of`), image by image: a round of whole images has too many pixels
    for arrays of all of them per annotator.

    Attributes:
        queries: of the round.
        classes: by annotator and image, (p,) uint8 train ids; 255 = cannot tell, 254 = not answered. Images
            of which an annotator said nothing are missing. Arrays are replaced, never written to.
        blind: likewise, (p,) bool; where the prediction was not shown.
        on_conflict: what pixels become that two annotators see differently: see `combined`.
    """

    queries: RoundQueries
    classes: dict[str, ByImage] = field(default_factory=dict)
    blind: dict[str, ByImage] = field(default_factory=dict)
    on_conflict: OnConflict = "error"

    @classmethod
    def load(cls, folder: RoundFolder, queries: RoundQueries) -> RoundAnswers:
        """What was stored so far.

        Raises:
            UserError: the file is damaged or belongs to other queries.
        """
        answers, extras = cls(queries), folder.answer_extras(queries)
        if "annotators" not in extras:
            stored = folder.answers(queries)
            if stored is not None:
                answers._take(_UNKNOWN, range(len(queries.images)), stored, np.zeros(queries.pixels, bool))
            return answers
        try:
            answers._take_extras(extras)
        except (KeyError, ValueError, TypeError) as error:
            path = folder.folder / "answers.npz"
            raise damaged(path, f"who answered what is incomplete: {error!r}", remedy=_REMEDY) from error
        return answers

    def _take_extras(self, extras: dict[str, np.ndarray]) -> None:
        everything = np.arange(len(self.queries.images))
        for number, name in enumerate(json.loads(unpack_text(extras["annotators"]))):
            images = extras.get(f"images_{number}", everything)  # absent: written by an earlier version
            classes = extras[f"classes_{number}"]
            count = int(np.diff(self.queries.offsets)[images].sum())
            if classes.shape != (count,) or classes.dtype != np.uint8:
                raise ValueError(f"classes_{number} has the shape {classes.shape}")
            blind = np.unpackbits(extras[f"blind_{number}"], count=count).view(bool)
            self._take(name, images.tolist(), classes, blind)
        policy = unpack_text(extras["on_conflict"]) if "on_conflict" in extras else self.on_conflict
        self.on_conflict = POLICIES[POLICIES.index(policy)]

    def _take(self, annotator: str, images: Iterable[int], classes: np.ndarray, blind: np.ndarray) -> None:
        """Takes an annotator's answers over, those of several images one after another."""
        own, hidden = self.classes.setdefault(annotator, {}), self.blind.setdefault(annotator, {})
        start = 0
        for query in (self.queries.images[number] for number in images):
            here = slice(start, start + len(query.predicted))
            start = here.stop
            if (classes[here] != UNANSWERED).any():
                own[query.name], hidden[query.name] = classes[here].copy(), blind[here].copy()

    def store(self, folder: RoundFolder) -> None:
        """Writes the answers that count, and beside them who said what and how contradictions are settled.

        Raises:
            UserError: the file cannot be written.
        """
        names = self.annotators
        extras = {"annotators": pack_text(json.dumps(names)), "on_conflict": pack_text(self.on_conflict)}
        images = {query.name: number for number, query in enumerate(self.queries.images)}
        for number, name in enumerate(names):
            own, hidden = self.classes[name], self.blind[name]
            extras[f"images_{number}"] = np.array([images[image] for image in own], np.int32)
            extras[f"classes_{number}"] = joined(list(own.values()), np.uint8)
            extras[f"blind_{number}"] = np.packbits(joined([hidden[image] for image in own], np.bool_))
        folder.write_answers(self.combined(), queries=self.queries, **extras)

    @property
    def annotators(self) -> list[str]:
        """Who has answered, in the order in which answers count."""
        return sorted(self.classes, key=lambda key: key.split("@"))

    def shown(self, key: str) -> str:
        """An annotator for people: the name alone where that is unique."""
        name = key.partition("@")[0]
        same = {key, *(other for other in self.classes if other.partition("@")[0] == name)}
        return name if len(same) == 1 else key

    def of(self, annotator: str, image: str) -> np.ndarray:
        """(p,) uint8 answers of an annotator about an image; all 254 where there are none."""
        classes = self.classes.get(annotator, {}).get(image)
        return self._nothing(image) if classes is None else classes

    def is_about(self, image: str) -> bool:
        """Whether anybody has said anything about an image."""
        return any(image in classes for classes in self.classes.values())

    def put(
        self, annotator: str, image: str, places: np.ndarray | slice, classes: np.ndarray, *, blind: bool
    ) -> None:
        """Takes answers over; 254 among them changes nothing, so that no answer is ever lost.

        Args:
            annotator: who answered.
            image: about which.
            places: (k,) positions among the queried pixels of the image.
            classes: (k,) uint8.
            blind: the prediction was not shown.
        """
        own, hidden = self.classes.setdefault(annotator, {}), self.blind.setdefault(annotator, {})
        said = classes != UNANSWERED
        if not said.any():
            return
        now = self.of(annotator, image).copy()
        shown = hidden[image].copy() if image in hidden else np.zeros(len(now), bool)
        now[places] = np.where(said, classes, now[places])
        shown[places] = np.where(said, blind, shown[places])
        own[image], hidden[image] = now, shown

    def pairs(self, image: str) -> tuple[np.ndarray, np.ndarray]:
        """(p,) uint8 the first annotator's answer, and that of a second one; 254 where there is none."""
        first, second = self._nothing(image), self._nothing(image)
        for classes in self._about(image):
            np.copyto(second, classes, where=(first != UNANSWERED) & (second == UNANSWERED))
            np.copyto(first, classes, where=first == UNANSWERED)
        return first, second

    def contradictions(self, image: str) -> tuple[np.ndarray, np.ndarray]:
        """(p,) uint8 the first annotator's answer and the next different one; 254 where all agree."""
        first, _ = self.pairs(image)
        other = self._nothing(image)
        for classes in self._about(image):
            differs = (classes != UNANSWERED) & (classes != first) & (other == UNANSWERED)
            np.copyto(other, classes, where=differs)
        return np.where(other == UNANSWERED, other, first), other

    def disputed(self) -> int:
        """How many pixels two annotators see differently."""
        return sum(
            int(np.count_nonzero(self.contradictions(query.name)[1] != UNANSWERED))
            for query in self.queries.images
            if len(self._about(query.name)) > 1
        )

    def combined(self, on_conflict: OnConflict | None = None) -> np.ndarray:
        """(P,) uint8 answers that count.

        Args:
            on_conflict: what pixels become that two annotators see differently. "error": 254, they stay open;
                "first": what the first annotator by name says; "ignore": 255. None: the round's own.
        """
        policy = on_conflict or self.on_conflict
        counting = np.full(self.queries.pixels, UNANSWERED, np.uint8)
        for query in self.queries.images:
            counting[self.queries.slice_of(query.name)] = self._combined(query.name, policy)
        return counting

    def _combined(self, image: str, policy: OnConflict) -> np.ndarray:
        first, second = self.pairs(image)
        if policy != "first" and (second != UNANSWERED).any():
            _, other = self.contradictions(image)
            first[other != UNANSWERED] = UNANSWERED if policy == "error" else IGNORE_LABEL
        return first

    def _about(self, image: str) -> list[np.ndarray]:
        """The answers about an image, in the order in which annotators count."""
        return [self.classes[name][image] for name in self.annotators if image in self.classes[name]]

    def _nothing(self, image: str) -> np.ndarray:
        return np.full(len(self.queries[image].predicted), UNANSWERED, np.uint8)
