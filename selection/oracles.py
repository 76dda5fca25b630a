"""Who answers without people: the label files, as in the papers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from selection.queries import ImageQuery, RoundQueries, joined
from utils.errors import UserError


class Mapper(Protocol):
    """What `map` does, or `ThreadPoolExecutor().map`: results in the order of the items."""

    def __call__(
        self, function: Callable[[ImageQuery], np.ndarray], items: Iterable[ImageQuery], /
    ) -> Iterable[np.ndarray]: ...


class GroundTruthOracle:
    """Answers every query from the image's label.

    A region may cover ignored ground truth (255); it is paid for all the same, as in the originals.

    Args:
        read_label: (H, W) uint8 train ids of the image of that name, at the image's own size.
    """

    def __init__(self, read_label: Callable[[str], np.ndarray]) -> None:
        self.read_label = read_label

    def answer_image(self, query: ImageQuery, label_radius: int) -> np.ndarray:
        """(p,) uint8 classes of the queried pixels of one image, in the order of `ImageQuery.pixels`.

        Raises:
            UserError: the label's size is not the image's.
        """
        label = self.read_label(query.name)
        assert label.dtype == np.uint8, f"{query.name}: a label of {label.dtype}"
        if label.shape != query.size:
            sizes = [f"{size[1]}x{size[0]}" for size in (label.shape, query.size)]
            raise UserError(
                f"the label of {query.name} has {sizes[0]} pixels but the image has {sizes[1]}; labels that "
                "answer queries must have the size of the image."
            )
        return label.reshape(-1)[query.places(label_radius)]

    def answer_round(self, queries: RoundQueries, *, mapper: Mapper = map) -> np.ndarray:
        """(P,) uint8 classes of all queried pixels, in the order of the queries.

        Args:
            queries: of a round.
            mapper: `map`, or that of a thread pool: reading labels is most of the work.

        Raises:
            UserError: as `answer_image`.
        """
        radius = queries.info.label_radius
        return joined(list(mapper(lambda query: self.answer_image(query, radius), queries.images)), np.uint8)
