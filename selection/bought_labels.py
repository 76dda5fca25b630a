"""The bought labels in memory: picks and classes, from which full-size maps are made when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from selection.imported import ImportedLabels
from selection.queries import RoundQueries, joined, offsets_of, queried_places
from selection.regions import squares
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

Size = tuple[int, int]


class BoughtLabels:
    """What is known about every image after some rounds; read-only, picklable, cheap in loader workers.

    A round of 1026 3x3 squares takes about 13 KB per image, a round of whole images a byte per pixel. Where
    rounds overlap, the later answer counts.

    Attributes:
        rounds: how many rounds are in it.
        digest: hex; equal for equal bought labels, whatever files they were read from.
    """

    def __init__(
        self, rounds: Sequence[BoughtRound] = (), *, imported: ImportedLabels | None = None, digest: str = ""
    ) -> None:
        self.rounds = len(rounds)
        self.digest = digest
        self._rounds = tuple(rounds)
        self._imported = imported
        self._sizes = _common_sizes(rounds, imported)

    def size_of(self, name: str) -> Size | None:
        """(H, W) of an image; None where nothing was ever asked about it."""
        return self._sizes.get(name)

    def mask(self, name: str, size: Size | None = None) -> np.ndarray:
        """(H, W) uint8 bought train ids; 255 where nothing was bought, or where the answer was "ignore".

        Args:
            name: of the image.
            size: (H, W) of the image, checked; None: the stored one.

        Raises:
            UserError: the image had another size when it was queried.
            KeyError: `size` is None and nothing was ever asked about the image.
        """
        size = self._checked(name, size)
        mask = np.full(size, IGNORE_LABEL, np.uint8)
        if self._imported is not None:
            self._imported.label(name, mask)
        for bought in self._rounds:
            bought.label(name, mask)
        return mask

    def selected(self, name: str, size: Size | None = None) -> np.ndarray:
        """(H, W) bool: the pixels that were asked about, also those answered "ignore". Errors as `mask`."""
        selected = np.zeros(self._checked(name, size), bool)
        if self._imported is not None:
            self._imported.mark_selected(name, selected)
        for bought in self._rounds:
            bought.mark(name, selected, bought.label_radius)
        return selected

    def blocked(self, name: str, size: Size | None = None) -> np.ndarray:
        """(H, W) bool: the pixels that may not be picked again (exclusion squares). Errors as `mask`."""
        blocked = np.zeros(self._checked(name, size), bool)
        if self._imported is not None:
            self._imported.mark_blocked(name, blocked)
        for bought in self._rounds:
            bought.mark(name, blocked, bought.exclusion_radius)
        return blocked

    def names_with_labels(self) -> tuple[str, ...]:
        """Images with at least one bought pixel whose class is not 255, in the order first asked about."""
        return self._names_with_labels

    @cached_property
    def _names_with_labels(self) -> tuple[str, ...]:
        return tuple(name for name in self._sizes if self._has_labels(name))

    def _has_labels(self, name: str) -> bool:
        """The last round's classes always count, earlier ones where no later round asked again."""
        labelled = [bought.has_labels(name) for bought in self._rounds if name in bought.numbers]
        if labelled and labelled[-1]:
            return True
        if any(labelled) or (self._imported is not None and name in self._imported.numbers):
            return bool((self.mask(name) != IGNORE_LABEL).any())
        return False

    def _checked(self, name: str, size: Size | None) -> Size:
        stored = self._sizes.get(name)
        if size is None:
            if stored is None:
                raise KeyError(f"nothing was asked about {name}, so its size is not known")
            return stored
        size = (int(size[0]), int(size[1]))
        if stored is not None and stored != size:
            raise UserError(
                f"image {name} is {size[1]}x{size[0]} pixels now but was {stored[1]}x{stored[0]} when its "
                "labels were bought; put the images of that time back, or start a new run."
            )
        return size


@dataclass(frozen=True, slots=True, eq=False)
class BoughtRound:
    """Picks and classes of one round in flat arrays, image after image.

    Attributes:
        numbers: image name to its place in the round.
        sizes: (N, 2) int32 (H, W).
        picks: (n, 2) uint16 of all images; those of image i are `pick_offsets[i]:pick_offsets[i + 1]`.
        classes: (P,) uint8, in the order of the queried pixels, with their own offsets.
    """

    numbers: dict[str, int]
    sizes: np.ndarray
    picks: np.ndarray
    pick_offsets: np.ndarray
    classes: np.ndarray
    class_offsets: np.ndarray
    label_radius: int
    exclusion_radius: int

    @classmethod
    def of(cls, queries: RoundQueries, classes: np.ndarray, previous: BoughtRound | None) -> BoughtRound:
        """A round with its (P,) answers; shares the name table of the previous round where it is the same."""
        assert classes.shape == (queries.pixels,)
        numbers = {query.name: number for number, query in enumerate(queries.images)}
        return cls(
            previous.numbers if previous is not None and previous.numbers == numbers else numbers,
            np.array([query.size for query in queries.images], np.int32).reshape(-1, 2),
            joined([query.picks for query in queries.images], np.uint16).reshape(-1, 2),
            offsets_of(len(query.picks) for query in queries.images),
            classes,
            queries.offsets,
            queries.info.label_radius,
            queries.info.exclusion_radius,
        )

    def label(self, name: str, mask: np.ndarray) -> None:
        """Writes the bought classes of an image into its (H, W) mask."""
        number = self.numbers.get(name)
        if number is not None:
            classes = self._classes(number)
            mask.reshape(-1)[queried_places(self._picks(number), self.label_radius, mask.shape)] = classes

    def mark(self, name: str, marked: np.ndarray, radius: int) -> None:
        """Sets the squares of this radius around the picks of an image in its (H, W) map."""
        number = self.numbers.get(name)
        if number is not None:
            marked |= squares(self._picks(number), radius, marked.shape)

    def has_labels(self, name: str) -> bool:
        """Whether a pixel of the image was bought in this round whose class is not 255."""
        number = self.numbers.get(name)
        return number is not None and bool((self._classes(number) != IGNORE_LABEL).any())

    def _picks(self, number: int) -> np.ndarray:
        return self.picks[self.pick_offsets[number] : self.pick_offsets[number + 1]]

    def _classes(self, number: int) -> np.ndarray:
        return self.classes[self.class_offsets[number] : self.class_offsets[number + 1]]


def _common_sizes(rounds: Sequence[BoughtRound], imported: ImportedLabels | None) -> dict[str, Size]:
    """The size of every image, by name.

    Raises:
        UserError: an image has different sizes in different rounds.
    """
    sizes: dict[str, Size] = dict(imported.sizes) if imported is not None else {}
    for number, bought in enumerate(rounds):
        for name, (height, width) in zip(bought.numbers, bought.sizes.tolist(), strict=True):
            known = sizes.setdefault(name, (height, width))
            if known != (height, width):
                raise UserError(
                    f"image {name} is {width}x{height} pixels in round {number} but {known[1]}x{known[0]} "
                    "before; the rounds are of different image folders: start a new run."
                )
    return sizes
