"""Which whole images a run asks about, and why: their scores, a list, or labels that they have already."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from selection.anchor_files import list_name, positions_name, remaining_positions, write_list, write_positions
from selection.budget import Budget
from selection.image_distance import ImageScores, select_images
from utils import seeding
from utils.files import write_atomically

logger = logging.getLogger(__name__)

SCORES_NAME = "scores.csv"


def random_scores(count: int, seed: int) -> ImageScores:
    """`count` down to 1 in a random order that follows from the seed."""
    values = np.empty(count)
    order = seeding.generator(seed, "random-images", 0).permutation(count)
    values[order] = np.arange(count, 0, -1)
    return ImageScores(values, "random order")


def entropy_scores(entropies: np.ndarray) -> ImageScores:
    """The (N,) mean pixel entropies of the images."""
    return ImageScores(entropies, "mean pixel entropy in nats")


@dataclass(frozen=True, slots=True, eq=False)
class ImageChoice:
    """The images that are asked about, as positions in the list of all.

    Attributes:
        chosen: (n,) int64, ascending: by their scores, or by a list.
        known: (k,) int64, ascending: labelled before, and asked about too.
        scores: of all images; None where a list chose.
    """

    chosen: np.ndarray
    known: np.ndarray
    scores: ImageScores | None = None

    @property
    def asked(self) -> np.ndarray:
        """(n + k,) int64, ascending."""
        return np.union1d(self.chosen, self.known).astype(np.int64)

    def extent(self, budget: Budget | None) -> str:
        """How much it is, for names of files: "0.05" where nothing but 5% was chosen, else "148images"."""
        by_share = self.scores is not None and budget is not None and budget.unit == "percent"
        if by_share and len(self.known) == 0:
            return f"{(Decimal(repr(float(budget.amount))) / 100).normalize():f}"
        return f"{len(self.asked)}images"

    def foremost(self, count: int) -> list[int]:
        """Up to `count` positions, of what was chosen first and there the highest scores first."""
        order = self.chosen
        if self.scores is not None:
            order = order[np.argsort(-self.scores.values[order], kind="stable")]
        return [*order.tolist(), *self.known.tolist()][:count]

    def caption(self, position: int) -> str:
        """What its scores say about an image; nothing where a list chose."""
        if self.scores is None:
            return ""
        text = f"{self.scores.measure}: {self.scores.values[position]:.4g}"
        return text if self.scores.nearest is None else f"{text}, nearest {self.scores.nearest[position]}"


def choose_images(scores: ImageScores, known: np.ndarray, count: int) -> ImageChoice:
    """The images with the highest scores among those that are not known.

    Args:
        scores: of all images.
        known: positions that are asked about whatever their scores.
        count: of all that are asked about.

    Raises:
        UserError: a score is not finite.
    """
    known = np.unique(known).astype(np.int64)
    wanted = count - len(known)
    others = remaining_positions(len(scores.values), known)
    assert 0 <= wanted <= len(others), (count, len(known), len(scores.values))
    chosen = others[select_images(scores.values[others], wanted)] if wanted else others[:0]
    return ImageChoice(chosen, known, scores)


def write_choice(folder: Path, choice: ImageChoice, names: Sequence[str], budget: Budget | None) -> None:
    """Writes the published list and index of the images that are asked about, and all scores as a table.

    Columns of the table: name, score, nearest anchor, chosen (1: asked about), by (what it is asked for:
    "score", "image-list" or "labelled-list").

    Args:
        folder: of the lists.
        names: of all target images.
        budget: None where a list chose.
    """
    asked, extent = choice.asked, choice.extent(budget)
    path = folder / list_name(extent)
    write_list(path, [names[position] for position in asked])
    write_positions(folder / positions_name(extent), asked)
    write_atomically(folder / SCORES_NAME, _table(choice, names).encode("utf-8", "surrogateescape"))
    logger.info("%s; %s", _in_words(choice, len(names)), path)


def _table(choice: ImageChoice, names: Sequence[str]) -> str:
    reasons = np.full(len(names), "", object)
    reasons[choice.chosen] = "image-list" if choice.scores is None else "score"
    reasons[choice.known] = "labelled-list"
    values = nearest = [""] * len(names)
    if choice.scores is not None:
        values = [repr(value) for value in choice.scores.values.tolist()]
        nearest = nearest if choice.scores.nearest is None else choice.scores.nearest.tolist()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "score", "nearest anchor", "chosen", "by"])
    for name, value, anchor, reason in zip(names, values, nearest, reasons, strict=True):
        writer.writerow([name, value, anchor, int(reason != ""), reason])
    return table.getvalue()


def _in_words(choice: ImageChoice, total: int) -> str:
    known = f", {len(choice.known)} others are known" if len(choice.known) else ""
    if choice.scores is None or len(choice.chosen) == 0:
        return f"{len(choice.chosen)} of {total} images are given{known}"
    values = choice.scores.values
    own = values[choice.chosen]
    return (
        f"chose {len(own)} of {total} images by {choice.scores.measure}, {own.min():.4g} to {own.max():.4g} "
        f"where all have {values.min():.4g} to {values.max():.4g}{known}"
    )
