"""How far the annotators of a round are, how well they agree, and what is left to pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selection.exchange.answers import RoundAnswers, key_of
from selection.exchange.crops import pixel_owners, suggested_classes
from selection.exchange.packages import Package, Task
from selection.queries import RoundQueries, joined, offsets_of
from selection.rounds import UNANSWERED
from utils.class_spaces import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class AnnotatorStatus:
    """Counts of one annotator. A region is answered when all its pixels are.

    `crops` and `regions` are those of the package; `cannot_tell` are answered regions without any class.
    """

    name: str
    crops: int
    regions: int
    answered: int
    cannot_tell: int

    @property
    def left(self) -> int:
        """Regions of the package that are not answered."""
        return max(self.regions - self.answered, 0)


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many pixels."""

    pixels: int
    equal: int

    def text(self) -> str:
        """As a percentage with its base."""
        return (
            f"{100 * self.equal / self.pixels:.1f} % of {self.pixels} pixels" if self.pixels else "no pixels"
        )


@dataclass(frozen=True, slots=True)
class RoundStatus:
    """Where a round stands.

    Attributes:
        annotators: in the order in which answers count.
        regions: of the round.
        answered: regions that somebody has answered.
        agreement: pixels that two annotators have answered, and those answered alike ("cannot tell" is an
            answer of its own).
        kappa: Cohen's, of these pixels; None where it is not defined (no pixels, or only one class).
        as_suggested: answers with a class that are the suggested one, where the suggestion was shown.
        as_hidden: the same where it was not shown: without anchoring both shares are about equal.
        contradictions: pixels that annotators see differently while nobody has said how to settle that.
        decisions_left: judgements that are still to be made, second opinions included.
        seconds_per_decision: assumed.
    """

    annotators: tuple[AnnotatorStatus, ...]
    regions: int
    answered: int
    agreement: Share
    kappa: float | None
    as_suggested: Share
    as_hidden: Share
    contradictions: int
    decisions_left: int
    seconds_per_decision: float

    @property
    def hours_left(self) -> float:
        """Of one person, without breaks."""
        return self.decisions_left * self.seconds_per_decision / 3600


class RoundRegions:
    """The regions of a round by their pixels.

    Attributes:
        first_pick: (N + 1,) where the picks of each image begin in the numbering of all picks.
        region: (P,) int32, the pick that owns a pixel, in that numbering.
        pixels: (picks,) how many pixels each pick owns; 0: a repeated pick, which is no region.
        suggestion: (P,) uint8, what is suggested for a pixel.
    """

    def __init__(self, queries: RoundQueries) -> None:
        radius = queries.info.label_radius
        self.first_pick = offsets_of(len(query.picks) for query in queries.images)
        self._images = {query.name: number for number, query in enumerate(queries.images)}
        owners = [pixel_owners(query, radius) for query in queries.images]
        numbered = [
            (own + start).astype(np.int32) for own, start in zip(owners, self.first_pick, strict=False)
        ]
        self.region = joined(numbered, np.int32)
        self.pixels = np.bincount(self.region, minlength=int(self.first_pick[-1]))
        suggested = [
            suggested_classes(query, radius, own) for query, own in zip(queries.images, owners, strict=True)
        ]
        self.suggestion = joined(suggested, np.uint8)

    def of(self, package: Package) -> np.ndarray:
        """Numbers of the regions of a package."""
        return joined([self.of_task(task) for task in package.tasks], np.int64)

    def of_task(self, task: Task) -> np.ndarray:
        """Numbers of the regions of a task."""
        first = self.first_pick[self._images[task.crop.image]]
        return np.array([first + region.pick for region in task.crop.regions], np.int64)

    def all_of(self, chosen: np.ndarray) -> np.ndarray:
        """(picks,) bool: regions all of whose pixels are among the chosen (P,) bool ones."""
        counts = np.bincount(self.region[chosen], minlength=len(self.pixels))
        return (counts == self.pixels) & (self.pixels > 0)


def round_status(
    answers: RoundAnswers, packages: Sequence[Package], *, seconds_per_decision: float
) -> RoundStatus:
    """Counts everything.

    Args:
        answers: so far.
        packages: of the last export.
        seconds_per_decision: to find a region and say its class.
    """
    regions = RoundRegions(answers.queries)
    first, second = answers.pairs()
    is_answered = regions.all_of(first != UNANSWERED)
    twice = second != UNANSWERED
    return RoundStatus(
        annotators=tuple(_annotators(answers, packages, regions)),
        regions=int(np.count_nonzero(regions.pixels)),
        answered=int(is_answered.sum()),
        agreement=Share(int(twice.sum()), int((first[twice] == second[twice]).sum())),
        kappa=cohens_kappa(first[twice], second[twice]),
        as_suggested=_as_suggested(answers, regions, blind=False),
        as_hidden=_as_suggested(answers, regions, blind=True),
        contradictions=_unsettled(answers),
        decisions_left=_decisions_left(answers, packages, regions, is_answered),
        seconds_per_decision=seconds_per_decision,
    )


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two flat uint8 arrays beyond chance: 1 = always, 0 = as often as by chance.

    None where it is not defined: without values, or when both hold one and the same value only.

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    if not len(first):
        return None
    observed = float((first == second).mean())
    shares = [np.bincount(values, minlength=256) / len(values) for values in (first, second)]
    expected = float(shares[0] @ shares[1])
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def format_status(status: RoundStatus) -> str:
    """The status as lines of text."""
    width = max([20, *(len(one.name) for one in status.annotators)])
    header = (
        f"{'annotator':<{width}} {'crops':>7} {'regions':>8} {'answered':>9} {'cannot tell':>11} {'left':>7}"
    )
    lines = [header] + [
        f"{one.name:<{width}} {one.crops:>7} {one.regions:>8} {one.answered:>9} {one.cannot_tell:>11} "
        f"{one.left:>7}"
        for one in status.annotators
    ]
    kappa = "not defined" if status.kappa is None else f"{status.kappa:.3f}"
    lines += [
        f"answered: {status.answered} of {status.regions} regions",
        f"agreement of two annotators: {status.agreement.text()}, Cohen's kappa {kappa}",
        f"answers equal to the suggestion: {status.as_suggested.text()} where it was shown, "
        f"{status.as_hidden.text()} where it was not",
        f"left: {status.decisions_left} decisions, about {status.hours_left:.1f} h at an assumed "
        f"{status.seconds_per_decision:g} s per decision",
    ]
    if status.contradictions:
        lines.append(
            f"annotators contradict each other in {status.contradictions} pixels, which stay open until an "
            "import settles them (--on-conflict first or ignore)"
        )
    return "\n".join(lines)


def with_open_work(answers: RoundAnswers, packages: Sequence[Package]) -> list[str]:
    """Annotators of these packages who have not answered all their regions."""
    if not packages:
        return []
    regions = RoundRegions(answers.queries)
    done = [regions.all_of(answers.of(key_of(package)) != UNANSWERED) for package in packages]
    return [
        package.annotator
        for package, answered in zip(packages, done, strict=True)
        if not answered[regions.of(package)].all()
    ]


def open_work(answers: RoundAnswers, packages: Sequence[Package]) -> list[str]:
    """What is open, in a line per crop of each annotator, then in a line per image of the round."""
    regions = RoundRegions(answers.queries)
    lines = []
    for package in packages:
        done = regions.all_of(answers.of(key_of(package)) != UNANSWERED)
        for task in package.tasks:
            left = int(np.count_nonzero(~done[regions.of_task(task)]))
            if left:
                lines.append(
                    f"{package.annotator}: {left} of {task.decisions} regions of {task.stem} are open, image "
                    f"{task.crop.image}"
                )
    classes = answers.combined()
    for query in answers.queries.images:
        own = classes[answers.queries.slice_of(query.name)]
        left = int(np.count_nonzero(own == UNANSWERED))
        if left:
            lines.append(f"image {query.name}: {left} of {len(own)} queried pixels are open")
    return lines


def _unsettled(answers: RoundAnswers) -> int:
    """Pixels that stay open because annotators see them differently."""
    if answers.on_conflict != "error":
        return 0
    return int(np.count_nonzero(answers.contradictions()[1] != UNANSWERED))


def _annotators(
    answers: RoundAnswers, packages: Sequence[Package], regions: RoundRegions
) -> list[AnnotatorStatus]:
    by_name = {key_of(package): package for package in packages}
    rows = []
    for name in sorted({*by_name, *answers.classes}, key=lambda key: key.split("@")):
        classes = answers.of(name)
        answered = regions.all_of(classes != UNANSWERED)
        cannot_tell = regions.all_of(classes == IGNORE_LABEL)
        own = regions.of(by_name[name]) if name in by_name else np.flatnonzero(answered)
        crops = len(by_name[name].tasks) if name in by_name else 0
        counts = int(answered[own].sum()), int(cannot_tell[own].sum())
        rows.append(AnnotatorStatus(answers.shown(name), crops, len(own), *counts))
    return rows


def _decisions_left(
    answers: RoundAnswers, packages: Sequence[Package], regions: RoundRegions, is_answered: np.ndarray
) -> int:
    """A region that two people are to judge costs a decision of each, any other one that of anybody."""
    judges, still_to_judge = np.zeros(len(regions.pixels), np.int64), np.zeros(len(regions.pixels), np.int64)
    for package in packages:
        own = regions.of(package)
        done = regions.all_of(answers.of(key_of(package)) != UNANSWERED)
        np.add.at(judges, own, 1)
        np.add.at(still_to_judge, own[~done[own]], 1)
    once = (regions.pixels > 0) & ~is_answered
    return int(np.where(judges > 1, still_to_judge, once).sum())


def _as_suggested(answers: RoundAnswers, regions: RoundRegions, *, blind: bool) -> Share:
    pixels = equal = 0
    for name, classes in answers.classes.items():
        judged = (classes != UNANSWERED) & (classes != IGNORE_LABEL) & (answers.blind[name] == blind)
        pixels += int(judged.sum())
        equal += int((classes[judged] == regions.suggestion[judged]).sum())
    return Share(pixels, equal)
