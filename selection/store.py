"""All rounds of a run on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from selection.bought_labels import BoughtLabels, BoughtRound
from selection.imported import ImportedLabels, PublishedAnnotation
from selection.queries import RoundQueries
from selection.rounds import RoundFolder
from utils.errors import UserError

__all__ = ["AnnotationStore", "BoughtLabels"]


class AnnotationStore:
    """The folder `queries/` of a run: `round_00`, `round_01`, ..., and `imported.npz` (of an original run).

    Rounds are only added; a resumed run asks for the rounds its snapshot knows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._imported = self.folder / "imported.npz"

    def round(self, number: int) -> RoundFolder:
        """The folder of one round, which need not exist."""
        return RoundFolder(self.folder / f"round_{number:02d}")

    def complete_rounds(self) -> int:
        """How many consecutive rounds from round 0 on have labels; their content is not read."""
        number = 0
        while self.round(number).has_labels():
            number += 1
        return number

    def load(self, rounds: int) -> BoughtLabels:
        """The labels of the first `rounds` rounds, whatever else lies there.

        Raises:
            UserError: fewer rounds are there (annotations were deleted), or a file is damaged.
        """
        imported = self._read_imported()
        digest = hashlib.sha256()
        if imported is not None:
            digest.update(imported.digest().encode())
        bought: list[BoughtRound] = []
        for number in range(rounds):
            queries, classes = self._read_round(number, rounds)
            digest.update(queries.digest().encode())
            digest.update(classes)
            bought.append(BoughtRound.of(queries, classes, bought[-1] if bought else None))
        return BoughtLabels(bought, imported=imported, digest=digest.hexdigest())

    def digest(self, rounds: int) -> str:
        """Hex SHA-256 of everything asked and answered in the first `rounds` rounds: `load(rounds).digest`.

        The same after files were rewritten with the same content. Errors as `load`.
        """
        return self.load(rounds).digest

    def has_imported(self) -> bool:
        """Whether annotations of an original run were taken over."""
        return self._imported.exists()

    def import_annotations(self, annotations: Iterable[PublishedAnnotation]) -> None:
        """Takes over annotations of an original run; they count as bought before round 0.

        Raises:
            UserError: other annotations were imported already, or a round has begun without them.
        """
        imported = ImportedLabels.of(annotations)
        there = self._read_imported()
        if there is not None:
            if there.digest() != imported.digest():
                raise UserError(
                    f"{self._imported} holds other annotations and none are ever replaced; name another "
                    "--snapshot-dir."
                )
            return
        if self.round(0).info() is not None:
            raise UserError(
                f"{self.round(0).folder} was selected without the annotations to import; import them into a "
                "new run: name another --snapshot-dir."
            )
        imported.write(self._imported)

    def _read_imported(self) -> ImportedLabels | None:
        return ImportedLabels.read(self._imported) if self._imported.exists() else None

    def _read_round(self, number: int, rounds: int) -> tuple[RoundQueries, np.ndarray]:
        folder = self.round(number)
        queries = folder.queries()
        classes = None if queries is None else folder.labels(queries)
        if queries is None or classes is None:
            raise UserError(
                f"{folder.folder} has no {'queries' if queries is None else 'labels'} but this run has "
                f"bought {rounds} rounds: annotations were deleted; restore the folder, or start a new run."
            )
        return queries, classes
