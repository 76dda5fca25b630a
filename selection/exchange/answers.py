"""What every annotator has said about the pixels of a round, kept with the round until it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selection.exchange.packages import Package
from selection.queries import RoundQueries
from selection.round_files import damaged, pack_text, unpack_text
from selection.rounds import UNANSWERED, RoundFolder
from utils.class_spaces import IGNORE_LABEL

OnConflict = Literal["error", "first", "ignore"]
POLICIES: tuple[OnConflict, ...] = ("error", "first", "ignore")
_UNKNOWN = "unknown"  # who answered, in a file without names
_REMEDY = "restore it from a copy, or delete it and import the answers again"


def key_of(package: Package) -> str:
    """Whose answers a package holds: two exports may mean different people by the same name."""
    return f"{package.annotator}@{package.export}" if package.export else package.annotator


@dataclass(slots=True)
class RoundAnswers:
    """Answers by annotator and export (`key_of`).

    Attributes:
        queries: of the round.
        classes: by annotator, (P,) uint8 train ids; 255 = cannot tell, 254 = not answered.
        blind: by annotator, (P,) bool; where the prediction was not shown.
        on_conflict: what pixels become that two annotators see differently: see `combined`.
    """

    queries: RoundQueries
    classes: dict[str, np.ndarray] = field(default_factory=dict)
    blind: dict[str, np.ndarray] = field(default_factory=dict)
    on_conflict: OnConflict = "error"

    @classmethod
    def load(cls, folder: RoundFolder, queries: RoundQueries) -> RoundAnswers:
        """What was stored so far.

        Raises:
            UserError: the file is damaged or belongs to other queries.
        """
        answers, stored = cls(queries), folder.answers(queries)
        if stored is None:
            return answers
        extras = folder.answer_extras(queries)
        if "annotators" not in extras:
            answers.classes[_UNKNOWN] = stored.copy()
            answers.blind[_UNKNOWN] = np.zeros(queries.pixels, bool)
            return answers
        try:
            answers._take_extras(extras)
        except (KeyError, ValueError, TypeError) as error:
            path = folder.folder / "answers.npz"
            raise damaged(path, f"who answered what is incomplete: {error!r}", remedy=_REMEDY) from error
        return answers

    def _take_extras(self, extras: dict[str, np.ndarray]) -> None:
        count = self.queries.pixels
        for number, name in enumerate(json.loads(unpack_text(extras["annotators"]))):
            classes = extras[f"classes_{number}"]
            if classes.shape != (count,) or classes.dtype != np.uint8:
                raise ValueError(f"classes_{number} has the shape {classes.shape}")
            self.classes[name] = classes.copy()
            self.blind[name] = np.unpackbits(extras[f"blind_{number}"], count=count).astype(bool)
        policy = unpack_text(extras["on_conflict"]) if "on_conflict" in extras else self.on_conflict
        self.on_conflict = POLICIES[POLICIES.index(policy)]

    def store(self, folder: RoundFolder) -> None:
        """Writes the answers that count, and beside them who said what and how contradictions are settled.

        Raises:
            UserError: the file cannot be written.
        """
        names = self.annotators
        extras = {"annotators": pack_text(json.dumps(names)), "on_conflict": pack_text(self.on_conflict)}
        for number, name in enumerate(names):
            extras[f"classes_{number}"] = self.classes[name]
            extras[f"blind_{number}"] = np.packbits(self.blind[name])
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

    def of(self, annotator: str) -> np.ndarray:
        """(P,) uint8 answers of an annotator; all 254 for one who has not answered."""
        classes = self.classes.get(annotator)
        return np.full(self.queries.pixels, UNANSWERED, np.uint8) if classes is None else classes

    def put(self, annotator: str, places: np.ndarray, classes: np.ndarray, *, blind: bool) -> None:
        """Takes answers over; 254 among them changes nothing, so that no answer is ever lost.

        Args:
            annotator: who answered.
            places: (k,) positions in the flat order of the round.
            classes: (k,) uint8.
            blind: the prediction was not shown.
        """
        if annotator not in self.classes:
            self.classes[annotator] = self.of(annotator)
            self.blind[annotator] = np.zeros(self.queries.pixels, bool)
        said = classes != UNANSWERED
        self.classes[annotator][places[said]] = classes[said]
        self.blind[annotator][places[said]] = blind

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) uint8 the first annotator's answer, and that of a second one; 254 where there is none."""
        first = np.full(self.queries.pixels, UNANSWERED, np.uint8)
        second = first.copy()
        for name in self.annotators:
            classes = self.classes[name]
            np.copyto(second, classes, where=(first != UNANSWERED) & (second == UNANSWERED))
            np.copyto(first, classes, where=first == UNANSWERED)
        return first, second

    def contradictions(self) -> tuple[np.ndarray, np.ndarray]:
        """(P,) uint8 the first annotator's answer and the next different one; 254 where all agree."""
        first, _ = self.pairs()
        other = np.full_like(first, UNANSWERED)
        for name in self.annotators:
            classes = self.classes[name]
            differs = (classes != UNANSWERED) & (classes != first) & (other == UNANSWERED)
            np.copyto(other, classes, where=differs)
        return np.where(other == UNANSWERED, other, first), other

    def combined(self, on_conflict: OnConflict | None = None) -> np.ndarray:
        """(P,) uint8 answers that count.

        Args:
            on_conflict: what pixels become that two annotators see differently. "error": 254, they stay open;
                "first": what the first annotator by name says; "ignore": 255. None: the round's own.
        """
        policy = on_conflict or self.on_conflict
        first, _ = self.pairs()
        if policy != "first":
            _, other = self.contradictions()
            first[other != UNANSWERED] = UNANSWERED if policy == "error" else IGNORE_LABEL
        return first
