"""Who answers the queries of a round: label files, or people."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from selection.budget import WHOLE_IMAGE_HOURS, ImagePrice
from selection.exchange.earlier_run import EarlierLabels
from selection.oracles import GroundTruthOracle
from selection.rounds import UNANSWERED, RoundFolder, RoundQueries
from trainers.inference import ImageProgress, prefetch
from trainers.loop_settings import Interrupted, Outcome, WaitForLabels
from utils import distributed
from utils.class_spaces import IGNORE_LABEL
from utils.stopping import never

logger = logging.getLogger(__name__)


class TruthOracle:
    """Answers from label files, split over the processes: the published setting.

    Args:
        read_label: (H, W) uint8 train ids of the image of that name, at the image's own size.
        num_workers: threads of this process that read labels.
        stop: asked after every image; true on any rank ends the work.
    """

    def __init__(
        self,
        read_label: Callable[[str], np.ndarray],
        *,
        num_workers: int = 2,
        stop: Callable[[], bool] = never,
    ) -> None:
        self.oracle = GroundTruthOracle(read_label)
        self.num_workers = num_workers
        self.stop = stop

    def answer(self, folder: RoundFolder, queries: RoundQueries) -> Outcome:
        """Writes the labels of all queried pixels. Collective.

        Raises:
            UserError: a label that is missing or of another size than its image.
        """
        mine = [queries.images[place] for place in distributed.shard(len(queries.images))]
        progress = ImageProgress("reading the answers", len(mine))
        radius = queries.info.label_radius
        answers: list[np.ndarray] = []
        for answer in prefetch(lambda query: self.oracle.answer_image(query, radius), mine, self.num_workers):
            answers.append(answer)
            progress.advance()
            if self.stop():
                break
        if distributed.any_rank(len(answers) < len(mine), what="the answers of a round"):
            return Interrupted()
        everyone = distributed.all_gather_objects(np.concatenate([np.empty(0, np.uint8), *answers]))
        answers.clear()  # of whole images they are large
        distributed.from_rank_zero(
            lambda: folder.write_labels(
                everyone[0] if len(everyone) == 1 else np.concatenate(everyone), queries=queries
            )
        )
        return None


class PeopleOracle:
    """People answer, by way of `annotate.py`; the run ends until they have.

    Args:
        run: the run folder as the user named it, for the message.
        price: what all rounds ask of people, in words; of a round of whole images it is counted anew.
        accept_partial: go on with what is answered; the rest counts as "cannot tell".
        hours_per_image: that a person is assumed to take for a whole image.
        earlier: labels of another run, which answer what they can before people are waited for.
    """

    def __init__(
        self,
        run: str,
        price: str,
        *,
        accept_partial: bool = False,
        hours_per_image: float = WHOLE_IMAGE_HOURS,
        earlier: EarlierLabels | None = None,
    ) -> None:
        self.run = run
        self.price = price
        self.accept_partial = accept_partial
        self.hours_per_image = hours_per_image
        self.earlier = earlier

    def answer(self, folder: RoundFolder, queries: RoundQueries) -> Outcome:
        """Takes the imported answers over where they are complete, or accepted as they are. Collective.

        Raises:
            UserError: as `EarlierLabels.answer`; answers that are damaged.
        """
        return distributed.from_rank_zero(lambda: self._take_over(folder, queries))

    def _take_over(self, folder: RoundFolder, queries: RoundQueries) -> Outcome:
        if self.earlier is not None:
            self.earlier.answer(folder, queries)
        answers = folder.answers(queries)
        if answers is None or (len(answers) and (answers == UNANSWERED).all()):
            task = self._task(queries, len(queries.images))
            return WaitForLabels(f"{task}, nothing is answered yet. {self._how()}")
        left, missing = int(np.count_nonzero(answers == UNANSWERED)), _open_images(queries, answers)
        if left and not self.accept_partial:
            share = (len(answers) - left) * 1000 // len(answers) / 10  # 100 % only where nothing is left
            return WaitForLabels(
                f"{self._task(queries, len(missing))}, {left} of {len(answers)} pixels are not answered "
                f"({share:.1f} % are; `python annotate.py status {self.run} --list` lists them). To go on "
                f"without them, add --accept-partial to the command. {self._how()}"
            )
        if left:
            logger.warning(
                "--accept-partial: %d of %d queried pixels are not answered and stay unlabelled; "
                "%d images lack some, the first %s",
                left,
                len(answers),
                len(missing),
                missing[0],
            )
        answers[answers == UNANSWERED] = IGNORE_LABEL
        folder.write_labels(answers, queries=queries)
        return None

    def _task(self, queries: RoundQueries, left: int) -> str:
        """What people are to do; `left` images are not answered completely."""
        info, images = queries.info, len(queries.images)
        if info.whole_images:
            count = f"{left}" if left == images else f"{left} of {images}"
            effort = ImagePrice(left, self.hours_per_image).words()
            return f"people are to label {count} whole images ({effort})"
        return f"people are to label round {info.number + 1} of {info.rounds} (all rounds: {self.price})"

    def _how(self) -> str:
        only = " --unanswered" if self.earlier is not None else ""  # nobody labels again what that run has
        return (
            f"Write the work out with `python annotate.py export {self.run} --to labelme --out DIR{only}`, "
            f"have it labelled, read it back with `python annotate.py import {self.run} DIR`"
        )


def _open_images(queries: RoundQueries, answers: np.ndarray) -> list[str]:
    """Names of the images that lack answers."""
    return [
        query.name
        for query, first, last in zip(queries.images, queries.offsets[:-1], queries.offsets[1:], strict=True)
        if (answers[first:last] == UNANSWERED).any()
    ]
