"""How far the annotators of a round are, how well they agree, and what is left to pay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from selection.budget import SECONDS_PER_DECISION, WHOLE_IMAGE_HOURS, ImagePrice
from selection.exchange.answers import EARLIER, RoundAnswers, key_of
from selection.exchange.crops import pixel_owners, suggested_classes
from selection.exchange.packages import Package, Task
from selection.queries import RoundInfo, RoundQueries, covers_image, joined, offsets_of
from selection.rounds import UNANSWERED
from utils.class_spaces import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class AnnotatorStatus:
    """Counts of one annotator. A region is answered when all its pixels are; a whole image is one region.

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
        whole_images: whether the regions are whole images.
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
    whole_images: bool = False


Chosen = Iterable[tuple[str, np.ndarray | slice]]  # images, and (p,) bool or a slice of their queried pixels


class RoundRegions:
    """The regions of a round by their pixels.

    Attributes:
        first_pick: (N + 1,) where the picks of each image begin in the numbering of all picks.
        pixels: (picks,) how many pixels each pick owns; 0: a repeated pick, which is no region.
    """

    def __init__(self, queries: RoundQueries) -> None:
        self.queries = queries
        self.first_pick = offsets_of(len(query.picks) for query in queries.images)
        self._images = {query.name: number for number, query in enumerate(queries.images)}
        radius = queries.info.label_radius
        self._owners = {  # None: the first pick owns the whole image
            query.name: None
            if covers_image(query.picks, radius, query.size)
            else pixel_owners(query, radius).astype(np.int32)
            for query in queries.images
        }
        self.pixels = self._counts((query.name, slice(None)) for query in queries.images)

    def suggestion(self, image: str) -> np.ndarray:
        """(p,) uint8: what is suggested for every queried pixel of an image."""
        query, owners = self.queries[image], self._owners[image]
        radius = self.queries.info.label_radius
        return query.predicted if owners is None else suggested_classes(query, radius, owners)

    def of(self, package: Package) -> np.ndarray:
        """Numbers of the regions of a package."""
        return joined([self.of_task(task) for task in package.tasks], np.int64)

    def of_task(self, task: Task) -> np.ndarray:
        """Numbers of the regions of a task."""
        first = self.first_pick[self._images[task.crop.image]]
        return np.array([first + region.pick for region in task.crop.regions], np.int64)

    def all_of(self, chosen: Chosen) -> np.ndarray:
        """(picks,) bool: regions all of whose pixels are among the chosen ones."""
        return (self._counts(chosen) == self.pixels) & (self.pixels > 0)

    def _counts(self, chosen: Chosen) -> np.ndarray:
        """(picks,) int64: how many of the chosen pixels each pick owns."""
        counts = np.zeros(int(self.first_pick[-1]), np.int64)
        for image, places in chosen:
            number, owners = self._images[image], self._owners[image]
            own = counts[self.first_pick[number] : self.first_pick[number + 1]]
            if owners is not None:
                own += np.bincount(owners[places], minlength=len(own))
            elif isinstance(places, slice):
                own[0] += len(self.queries[image].predicted)
            else:
                own[0] += np.count_nonzero(places)
        return counts


def round_status(
    answers: RoundAnswers, packages: Sequence[Package], *, seconds_per_decision: float
) -> RoundStatus:
    """Counts everything.

    Args:
        answers: so far.
        packages: of the last export.
        seconds_per_decision: to find a region and say its class, or to label a whole image.
    """
    regions = RoundRegions(answers.queries)
    together = np.zeros((256, 256), np.int64)
    for first, second in map(answers.pairs, (query.name for query in answers.queries.images)):
        twice = second != UNANSWERED
        if twice.any():
            together += _pair_counts(first[twice], second[twice])
    is_answered = regions.all_of(
        (query.name, answers.pairs(query.name)[0] != UNANSWERED) for query in answers.queries.images
    )
    return RoundStatus(
        annotators=tuple(_annotators(answers, packages, regions)),
        regions=int(np.count_nonzero(regions.pixels)),
        answered=int(is_answered.sum()),
        agreement=Share(int(together.sum()), int(np.trace(together))),
        kappa=_kappa(together),
        as_suggested=_as_suggested(answers, regions, blind=False),
        as_hidden=_as_suggested(answers, regions, blind=True),
        contradictions=_unsettled(answers),
        decisions_left=_decisions_left(answers, packages, regions, is_answered),
        seconds_per_decision=seconds_per_decision,
        whole_images=answers.queries.info.whole_images,
    )


def effort(decisions: int, seconds: float, *, whole_images: bool) -> str:
    """How long one person takes for so many decisions, without breaks, in words."""
    if whole_images:
        return f"{decisions} images, {ImagePrice(decisions, seconds / 3600).words()}"
    hours = decisions * seconds / 3600
    return f"{decisions} decisions, about {hours:.1f} h at an assumed {seconds:g} s per decision"


def assumed_seconds(info: RoundInfo) -> float:
    """How long a decision of a round is assumed to take: a region, or a whole image."""
    return 3600 * WHOLE_IMAGE_HOURS if info.whole_images else SECONDS_PER_DECISION


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two flat uint8 arrays beyond chance: 1 = always, 0 = as often as by chance.

    None where it is not defined: without values, or when both hold one and the same value only.

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    return _kappa(_pair_counts(first, second))


def _pair_counts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(256, 256) int64: how often each value of `first` meets each of `second`; both flat uint8."""
    return np.bincount(first.astype(np.int32) * 256 + second, minlength=256**2).reshape(256, 256)


def _kappa(counts: np.ndarray) -> float | None:
    """Cohen's kappa of `_pair_counts`."""
    total = counts.sum()
    if not total:
        return None
    observed = float(np.trace(counts) / total)
    shares = [counts.sum(axis) / total for axis in (1, 0)]
    expected = float(shares[0] @ shares[1])
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def format_status(status: RoundStatus) -> str:
    """The status as lines of text."""
    width = max([20, *(len(one.name) for one in status.annotators)])
    asked = "images" if status.whole_images else "regions"
    crops = "" if status.whole_images else f" {'crops':>7}"  # a whole image is one
    lines = [f"{'annotator':<{width}}{crops} {asked:>8} {'answered':>9} {'cannot tell':>11} {'left':>7}"]
    for one in status.annotators:
        crops = "" if status.whole_images else f" {one.crops:>7}"
        lines.append(
            f"{one.name:<{width}}{crops} {one.regions:>8} {one.answered:>9} {one.cannot_tell:>11} "
            f"{one.left:>7}"
        )
    kappa = "not defined" if status.kappa is None else f"{status.kappa:.3f}"
    left = effort(status.decisions_left, status.seconds_per_decision, whole_images=status.whole_images)
    lines += [
        f"answered: {status.answered} of {status.regions} {asked}",
        f"agreement of two annotators: {status.agreement.text()}, Cohen's kappa {kappa}",
        f"answers equal to the suggestion: {status.as_suggested.text()} where it was shown, "
        f"{status.as_hidden.text()} where it was not",
        f"left: {left}",
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
    done = [regions.all_of(_answered_by(answers, key_of(package))) for package in packages]
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
        done = regions.all_of(_answered_by(answers, key_of(package)))
        for task in package.tasks:
            left = int(np.count_nonzero(~done[regions.of_task(task)]))
            if not left:
                continue
            what = task.stem if task.crop.is_whole else f"{left} of {task.decisions} regions of {task.stem}"
            verb = "is" if task.crop.is_whole else "are"
            lines.append(f"{package.annotator}: {what} {verb} open, image {task.crop.image}")
    classes = answers.combined()
    for query in answers.queries.images:
        own = classes[answers.queries.slice_of(query.name)]
        left = int(np.count_nonzero(own == UNANSWERED))
        if left:
            lines.append(f"image {query.name}: {left} of {len(own)} queried pixels are open")
    return lines


def _unsettled(answers: RoundAnswers) -> int:
    """Pixels that stay open because annotators see them differently."""
    return answers.disputed() if answers.on_conflict == "error" else 0


def _annotators(
    answers: RoundAnswers, packages: Sequence[Package], regions: RoundRegions
) -> list[AnnotatorStatus]:
    by_name = {key_of(package): package for package in packages}
    rows = []
    for name in sorted({*by_name, *answers.classes}, key=lambda key: key.split("@")):
        answered = regions.all_of(_answered_by(answers, name))
        cannot_tell = regions.all_of(_unknown_to(answers, name))
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
        done = regions.all_of(_answered_by(answers, key_of(package)))
        np.add.at(judges, own, 1)
        np.add.at(still_to_judge, own[~done[own]], 1)
    once = (regions.pixels > 0) & ~is_answered
    return int(np.where(judges > 1, still_to_judge, once).sum())


def _as_suggested(answers: RoundAnswers, regions: RoundRegions, *, blind: bool) -> Share:
    pixels = equal = 0
    for name, by_image in answers.classes.items():
        if name == EARLIER:  # another network made the suggestions
            continue
        for image, classes in by_image.items():
            shown = answers.blind[name][image] == blind
            judged = (classes != UNANSWERED) & (classes != IGNORE_LABEL) & shown
            pixels += int(judged.sum())
            equal += int((judged & (classes == regions.suggestion(image))).sum())
    return Share(pixels, equal)


def _answered_by(answers: RoundAnswers, key: str) -> Chosen:
    """Where an annotator has said something."""
    return ((image, classes != UNANSWERED) for image, classes in answers.classes.get(key, {}).items())


def _unknown_to(answers: RoundAnswers, key: str) -> Chosen:
    """Where an annotator cannot tell."""
    return ((image, classes == IGNORE_LABEL) for image, classes in answers.classes.get(key, {}).items())
