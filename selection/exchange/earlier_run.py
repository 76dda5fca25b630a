"""Labels of whole images that another run has, taken over so that nobody labels an image twice."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from selection.exchange.answers import EARLIER, RoundAnswers, import_lock
from selection.queries import RoundQueries
from selection.rounds import UNANSWERED, RoundFolder
from selection.store import AnnotationStore
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

logger = logging.getLogger(__name__)


class EarlierLabels:
    """The labels of another run's round of whole images: complete, or as far as its people have come.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = Path(run)
        self._round = AnnotationStore(self.run / "queries").round(0)

    def check(self, class_space: str) -> None:
        """Refuses what cannot be taken over by a round whose classes are those of this space.

        Raises:
            UserError: no labels of whole images are there, or they are of other classes.
        """
        info = self._round.info()
        if info is None or not (self._round.has_labels() or self._round.has_answers()):
            raise UserError(
                f"--labels-from {self.run} has no labels; name the folder of a run of --method mada in which "
                f"some images were labelled ({self._round.folder} would hold labels.npz or answers.npz)"
            )
        if not info.whole_images:
            raise UserError(
                f"--labels-from {self.run} is a run of {info.method} about parts of images; name one of "
                "--method mada, which asks about whole ones"
            )
        if info.class_space != class_space:
            raise UserError(
                f"--labels-from {self.run} has labels of the classes {info.class_space}, this run trains "
                f"{class_space}; name a run of the same --classes"
            )

    def answer(self, folder: RoundFolder, queries: RoundQueries) -> list[str]:
        """Answers those images of a round that are labelled here and of which nothing is said there yet.

        What is answered stays as it is, so a second call changes nothing.

        Returns:
            The names of the images that were answered now.

        Raises:
            UserError: as `check`; an image has another size here; somebody imports answers at this moment.
        """
        with import_lock(folder, option="--snapshot-dir"):
            answers = RoundAnswers.load(folder, queries)
            silent = [query.name for query in queries.images if not answers.is_about(query.name)]
            if not silent:
                return []
            self.check(queries.info.class_space)
            taken = self._put(answers, silent)
            if taken:
                answers.store(folder)
        if taken or EARLIER not in answers.classes:
            level = logging.INFO if taken else logging.WARNING
            logger.log(level, "--labels-from %s labels %d of %d images", self.run, len(taken), len(silent))
        return taken

    def _put(self, answers: RoundAnswers, names: list[str]) -> list[str]:
        there = self._round.queries()
        assert there is not None  # labels and answers are refused without queries
        classes = self._classes(there)
        taken = []
        for name in names:
            if name not in there:
                continue
            size, here = there[name].size, answers.queries[name].size
            if size != here:
                raise UserError(
                    f"--labels-from {self.run}: image {name} was labelled at {size[1]}x{size[0]} pixels but "
                    f"is {here[1]}x{here[0]} here; name a run on the same images, or leave the option out"
                )
            own = classes[there.slice_of(name)]
            if (own != UNANSWERED).any():
                answers.put(EARLIER, name, slice(None), own, blind=False)
                taken.append(name)
        return taken

    def _classes(self, queries: RoundQueries) -> np.ndarray:
        """(P,) uint8 classes of that run, 254 = nobody has said."""
        labels, collected = self._round.labels(queries), self._round.answers(queries)
        if labels is None:
            assert collected is not None  # as `check` has seen
            return collected
        if collected is not None:  # --accept-partial has stored "cannot tell" where nobody had answered
            np.copyto(labels, collected, where=labels == IGNORE_LABEL)
        return labels
