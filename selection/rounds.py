"""One round on disk, from its beginning to its labels; see `RoundFolder`."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selection.queries import ImageQuery, RoundInfo, RoundQueries, count_values
from selection.round_files import (
    damaged,
    pack_queries,
    pack_text,
    read_arrays,
    unpack_queries,
    unpack_text,
    write_arrays,
)
from utils.class_spaces import CLASS_SPACES, IGNORE_LABEL
from utils.errors import UserError
from utils.files import write_atomically

__all__ = ["UNANSWERED", "ImageQuery", "RoundFolder", "RoundInfo", "RoundQueries"]

logger = logging.getLogger(__name__)

UNANSWERED = 254  # in answers that are still being collected; 255 is an answer: "cannot tell"

_ASK_AGAIN = "restore it from a copy, or delete the whole round folder to select and ask again"
_ANSWER_AGAIN = "restore it from a copy, or delete it and import the answers again"


class RoundFolder:
    """The files of one round. Rank 0 writes them all, except the parts.

    1. `begin` writes round.json.
    2. While images are being selected, any rank writes finished ones with `write_part`. A restarted run, with
       any number of processes, reads all parts and selects only what is missing. A damaged part is left out
       with a warning, so its images are selected again.
    3. `write_queries` puts all queries into queries.npz and removes the parts. From here on nothing is
       selected again: the queries are read.
    4. `write_answers` keeps answers of people while they are being collected (answers.npz).
    5. `write_labels` ends the round with labels.npz.

    Files appear whole or not at all; a finished file is never replaced by another content.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.info_path = self.folder / "round.json"
        self._parts = self.folder / "parts"
        self.queries_path = self.folder / "queries.npz"
        self._answers = self.folder / "answers.npz"
        self.labels_path = self.folder / "labels.npz"

    def info(self) -> RoundInfo | None:
        """The settings of the round; None before it began.

        Raises:
            UserError: round.json is damaged, or missing beside queries.
        """
        if not self.info_path.exists():
            if self.queries_path.exists():
                raise UserError(f"{self.info_path} is missing beside {self.queries_path.name}; {_ASK_AGAIN}.")
            return None
        try:
            return RoundInfo.from_dict(json.loads(self.info_path.read_bytes()))
        except OSError as error:
            raise UserError(
                f"cannot read {self.info_path}: {error.strerror or error}; {_ASK_AGAIN}."
            ) from error
        except (ValueError, TypeError) as error:
            raise damaged(self.info_path, error, remedy=_ASK_AGAIN) from error

    def begin(self, info: RoundInfo) -> None:
        """Starts the round, or checks that the one that is there has the same settings.

        Raises:
            UserError: the folder holds a round with other settings (all differences are named).
        """
        there = self.info()
        if there is None:
            write_atomically(self.info_path, json.dumps(info.to_dict(), indent=1) + "\n", durable=True)
            return
        self._check_same(there, info)

    # Selecting.

    def write_part(self, queries: Sequence[ImageQuery]) -> None:
        """Keeps finished images of a round that is being selected; one file per call."""
        info = self.info()
        assert info is not None, f"{self.folder}: a part is written before the round began"
        assert queries, "an empty part"
        for query in queries:
            assert len(query.predicted) == len(query.pixels(info.label_radius)), query.name
        # The name follows from the images, so no two ranks ever write the same file.
        names = "\0".join(query.name for query in queries)
        digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
        arrays = {"info": _packed_info(info), **pack_queries(queries)}
        write_arrays(self._parts / f"part_{digest[:32]}.npz", arrays)

    def read_parts(self) -> dict[str, ImageQuery]:
        """All images that were selected so far, by name; damaged parts are left out with a warning.

        Raises:
            UserError: round.json is damaged.
        """
        info = self.info()
        found: dict[str, ImageQuery] = {}
        for path in sorted(self._parts.glob("part_*.npz")):
            try:
                images = _read_queries(path, remedy="its images are selected again")
            except UserError as error:
                logger.warning("%s", error)
                continue
            if images.info != info:
                logger.warning("%s is of another round; its images are selected again.", path)
                continue
            found.update({query.name: query for query in images.images})
        return found

    def part_names(self) -> set[str]:
        """Names of the images in readable parts."""
        return set(self.read_parts())

    def assemble(self, names: Sequence[str]) -> RoundQueries:
        """The queries of all images from the parts, in the order of the image list; none may be missing."""
        info = self.info()
        parts = self.read_parts()
        missing = [name for name in names if name not in parts]
        assert info is not None, f"{self.folder}: the round has not begun"
        assert not missing, f"{len(missing)} images are not selected yet, such as {missing[0]}"
        return RoundQueries(info, [parts[name] for name in names])

    # Asking.

    def queries(self) -> RoundQueries | None:
        """All queries; None while images are still being selected.

        Raises:
            UserError: a file is damaged, or the queries are not of the round in round.json.
        """
        if not self.queries_path.exists():
            return None
        there = self.info()
        assert there is not None  # info() refuses queries without settings
        stored = _read_queries(self.queries_path, remedy=_ASK_AGAIN)
        self._check_same(there, stored.info)
        if len(stored.images) != there.images:
            reason = f"{len(stored.images)} of {there.images} images"
            raise damaged(self.queries_path, reason, remedy=_ASK_AGAIN)
        return RoundQueries(stored.info, stored.images)

    def write_queries(self, queries: RoundQueries) -> None:
        """Ends the selection: writes all queries, then removes the parts.

        Raises:
            UserError: other queries are there already.
        """
        assert queries.info == self.info(), "the queries are of another round"
        there = self.queries()
        if there is None:
            write_arrays(
                self.queries_path, {"info": _packed_info(queries.info), **pack_queries(queries.images)}
            )
        elif there.digest() != queries.digest():
            raise UserError(f"{self.queries_path} holds other queries, perhaps asked already; {_ASK_AGAIN}.")
        shutil.rmtree(self._parts, ignore_errors=True)

    # Answering.

    def answers(self, queries: RoundQueries | None = None) -> np.ndarray | None:
        """(P,) uint8 answers of people so far, in the order of the queries; 254: unanswered; None: no file.

        Raises:
            UserError: the file is damaged or belongs to other queries.
        """
        arrays = self._read_classes(self._answers, queries)
        return None if arrays is None else arrays["classes"]

    def has_answers(self) -> bool:
        """Whether answers of people are being collected; their content is not read."""
        return self._answers.exists()

    def answer_extras(self, queries: RoundQueries | None = None) -> dict[str, np.ndarray]:
        """What was stored beside the answers; empty without a file. Errors as `answers`."""
        arrays = self._read_classes(self._answers, queries) or {}
        return {name: array for name, array in arrays.items() if name not in ("classes", "digest")}

    def write_answers(
        self, classes: np.ndarray, *, queries: RoundQueries | None = None, **extras: np.ndarray
    ) -> None:
        """Replaces the answers that are being collected.

        Args:
            classes: (P,) uint8 train ids, 255 = cannot tell, 254 = unanswered.
            queries: of this round, where the caller has them; otherwise they are read.
            extras: further arrays to keep beside them, of any shape, no objects.

        Raises:
            UserError: a class is outside the class space; the round has no queries; the disk is full.
        """
        self._write_classes(self._answers, classes, queries, extras, unanswered=True)

    def labels(self, queries: RoundQueries | None = None) -> np.ndarray | None:
        """(P,) uint8 classes of all queried pixels, in the order of the queries; None until complete.

        Raises:
            UserError: the file is damaged, belongs to other queries, or holds classes outside the space.
        """
        arrays = self._read_classes(self.labels_path, queries)
        if arrays is None:
            return None
        _check_classes(arrays["classes"], self._begun(), self.labels_path, unanswered=False)
        return arrays["classes"]

    def has_labels(self) -> bool:
        """Whether the labels are complete; their content is not read."""
        return self.labels_path.exists()

    def write_labels(self, classes: np.ndarray, *, queries: RoundQueries | None = None) -> None:
        """Ends the round with the (P,) uint8 classes of all queried pixels (255: ignored).

        Raises:
            UserError: a pixel is unanswered (254), a class is outside the space, or other labels are there.
        """
        queries = queries or self._asked()
        there = self.labels(queries)
        if there is None:
            self._write_classes(self.labels_path, classes, queries, {}, unanswered=False)
        elif not np.array_equal(there, classes):
            raise UserError(
                f"{self.labels_path} holds other labels and bought labels are never replaced; "
                "move the file away if the new ones shall take their place."
            )

    def _read_classes(self, path: Path, queries: RoundQueries | None) -> dict[str, np.ndarray] | None:
        """The arrays of an answers or labels file, after checking that they belong to the queries."""
        if not path.exists():
            return None
        arrays = read_arrays(path, remedy=_ANSWER_AGAIN)
        queries = queries or self._asked()
        classes, digest = arrays.get("classes"), arrays.get("digest")
        if classes is None or digest is None or classes.dtype != np.uint8:
            raise damaged(path, "an array is missing", remedy=_ANSWER_AGAIN)
        if unpack_text(digest) != queries.digest() or classes.shape != (queries.pixels,):
            raise UserError(
                f"{path} does not belong to {self.queries_path}: it answers other queries; {_ANSWER_AGAIN}."
            )
        return arrays

    def _write_classes(
        self,
        path: Path,
        classes: np.ndarray,
        queries: RoundQueries | None,
        extras: dict[str, np.ndarray],
        *,
        unanswered: bool,
    ) -> None:
        queries = queries or self._asked()
        assert classes.dtype == np.uint8, classes.dtype
        assert classes.shape == (queries.pixels,), f"{classes.shape} classes, {queries.pixels} queried pixels"
        _check_classes(classes, queries.info, path, unanswered=unanswered)
        write_arrays(path, {"classes": classes, "digest": pack_text(queries.digest()), **extras})

    def _asked(self) -> RoundQueries:
        queries = self.queries()
        if queries is None:
            raise UserError(
                f"{self.queries_path} is missing; start the training again: it selects and writes it."
            )
        return queries

    def _begun(self) -> RoundInfo:
        info = self.info()
        assert info is not None  # whoever calls has read queries, and info() refuses those without settings
        return info

    def _check_same(self, there: RoundInfo, here: RoundInfo) -> None:
        different = there.differences(here)
        if different:
            raise UserError(
                f"{self.folder} belongs to another run or other settings: {'; '.join(different)}. "
                "Start with the settings it was made with, or name another --snapshot-dir."
            )


class _StoredQueries:
    """Settings and queries of one file; a part holds some images of the round only."""

    def __init__(self, info: RoundInfo, images: list[ImageQuery]) -> None:
        self.info = info
        self.images = images


def _read_queries(path: Path, *, remedy: str) -> _StoredQueries:
    arrays = read_arrays(path, remedy=remedy)
    try:
        info = RoundInfo.from_dict(json.loads(unpack_text(arrays["info"])))
        return _StoredQueries(info, unpack_queries(arrays))
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, error, remedy=remedy) from error


def _packed_info(info: RoundInfo) -> np.ndarray:
    return pack_text(json.dumps(info.to_dict()))


def _check_classes(classes: np.ndarray, info: RoundInfo, path: Path, *, unanswered: bool) -> None:
    """Refuses what is no class of the round's class space.

    A space of the user's own is known only after its description file was read; without it, 0..253 pass.
    """
    space = CLASS_SPACES.get(info.class_space)
    num_classes = space.num_classes if space else UNANSWERED
    counts = count_values(classes)
    counts[:num_classes] = 0
    counts[IGNORE_LABEL] = 0
    if unanswered:
        counts[UNANSWERED] = 0
    elif counts[UNANSWERED]:
        raise UserError(
            f"{path}: {counts[UNANSWERED]} of {len(classes)} queried pixels are unanswered; answer them."
        )
    if counts.any():
        raise UserError(
            f"{path}: classes {np.flatnonzero(counts).tolist()} are not train ids 0..{num_classes - 1} of "
            f"{info.class_space} or {IGNORE_LABEL}; {_ANSWER_AGAIN}."
        )
