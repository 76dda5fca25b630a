"""What every annotator has said about the pixels of a round, kept with the round until it is complete."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from selection.queries import RoundQueries
from selection.round_files import pack_text, unpack_text
from selection.rounds import UNANSWERED, RoundFolder
from utils.class_spaces import IGNORE_LABEL

OnConflict = Literal["error", "first", "ignore"]
_UNKNOWN = "unknown"  # who answered, in a file without names


@dataclass(slots=True)
class RoundAnswers:
    """Answers by annotator.

    Attributes:
        queries: of the round.
        classes: by annotator, (P,) uint8 train ids; 255 = cannot tell, 254 = not answered.
        blind: by annotator, (P,) bool; where the prediction was not shown.
    """

    queries: RoundQueries
    classes: dict[str, np.ndarray] = field(default_factory=dict)
    blind: dict[str, np.ndarray] = field(default_factory=dict)

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
        for number, name in enumerate(json.loads(unpack_text(extras["annotators"]))):
            answers.classes[name] = extras[f"classes_{number}"].copy()
            answers.blind[name] = np.unpackbits(extras[f"blind_{number}"], count=queries.pixels).astype(bool)
        return answers

    def store(self, folder: RoundFolder, on_conflict: OnConflict = "first") -> None:
        """Writes the answers that count, and beside them who said what.

        Raises:
            UserError: the file cannot be written.
        """
        names = self.annotators
        extras = {"annotators": pack_text(json.dumps(names))}
        for number, name in enumerate(names):
            extras[f"classes_{number}"] = self.classes[name]
            extras[f"blind_{number}"] = np.packbits(self.blind[name])
        folder.write_answers(self.combined(on_conflict), queries=self.queries, **extras)

    @property
    def annotators(self) -> list[str]:
        """Who has answered, in the order in which answers count."""
        return sorted(self.classes)

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

    def combined(self, on_conflict: OnConflict = "first") -> np.ndarray:
        """(P,) uint8 answers that count: of several annotators the first, by name.

        Args:
            on_conflict: "ignore": pixels that two annotators see differently become 255.
        """
        first, _ = self.pairs()
        if on_conflict == "ignore":
            for classes in self.classes.values():
                first_differs = (classes != UNANSWERED) & (classes != first)
                first[first_differs] = IGNORE_LABEL
        return first
