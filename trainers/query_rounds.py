"""The query rounds of a run: what is chosen, who answers, what is bought so far. Regions and whole images
alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from selection.bought_labels import BoughtLabels
from selection.published_masks import export_store
from selection.rounds import RoundFolder, RoundInfo, RoundQueries
from selection.store import AnnotationStore
from trainers.loop_settings import Interrupted, Outcome
from trainers.query_reports import report_round
from trainers.shared_folder import check_seen_everywhere
from trainers.target_images import BoughtLabelReader, TargetImages
from utils import distributed
from utils.class_spaces import ClassSpace
from utils.errors import UserError, alike_everywhere
from utils.runs import Run


class RoundSettings(Protocol):
    """What every kind of round says of itself, for its record."""

    setting: str
    score: str
    network_input: str
    seed: int
    pictures: int

    @property
    def budget(self) -> object: ...
    @property
    def rounds(self) -> int: ...
    @property
    def label_radius(self) -> int: ...
    @property
    def exclusion_radius(self) -> int: ...


class Query(Protocol):
    """Carries a selection out on all processes: `QueryRound` (regions), `ImageRound` (whole images)."""

    images: TargetImages
    settings: RoundSettings

    @property
    def asked(self) -> int:
        """How many images a round asks about."""
        ...

    def select(self, folder: RoundFolder, info: RoundInfo, bought: BoughtLabels) -> RoundQueries | None:
        """The queries of a round, read or selected now; None when a stop signal cut it short. Collective."""
        ...


class Oracle(Protocol):
    """Who answers the queries of a round."""

    def answer(self, folder: RoundFolder, queries: RoundQueries) -> Outcome:
        """Puts the labels of all queried pixels into the folder; an outcome says why not. Collective."""
        ...


class AnnotationState(nn.Module):
    """What a snapshot says about the annotations: how many rounds trained it, and what was bought in them."""

    rounds: Tensor
    digest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rounds", torch.zeros((), dtype=torch.int64))
        self.register_buffer("digest", torch.zeros(32, dtype=torch.uint8))

    def set(self, bought: BoughtLabels) -> None:
        """Describes these annotations from now on."""
        self.rounds.fill_(bought.rounds)
        self.digest.copy_(torch.frombuffer(bytearray.fromhex(bought.digest), dtype=torch.uint8))

    def is_of(self, bought: BoughtLabels) -> bool:
        """Whether these are the annotations that the state describes."""
        return bytes(self.digest.tolist()).hex() == bought.digest


@dataclass(slots=True, kw_only=True)
class QueryRounds:
    """Every rank must call its methods.

    Attributes:
        query: how places are chosen.
        store: the annotations of the run.
        reader: gives the training images of the target their bought labels.
        oracle: answers.
        space: classes in use.
        method: "ripu", "dwaca" or "mada", for the records.
        class_weights_from: what class weights are measured on, for the records.
        write_masks: keep the originals' gtMask and gtIndicator up to date beside the store.
        identity: of the run's settings, hex; the rounds of another run are refused.
        state: which annotations trained the network; belongs into snapshots.
    """

    query: Query
    store: AnnotationStore
    reader: BoughtLabelReader
    oracle: Oracle
    space: ClassSpace
    method: str
    class_weights_from: str = "none"
    write_masks: bool = False
    identity: str = ""
    state: AnnotationState = field(default_factory=AnnotationState)

    def __post_init__(self) -> None:
        self.state.set(self.reader.bought)

    def check(self, iterations: Iterable[int]) -> None:
        """Refuses the rounds of another run, before anything is trained and its first round would refuse.

        Args:
            iterations: at which the rounds of the run are held, in order.

        Raises:
            UserError: a round on disk is not one of this run.
        """
        for number, iteration in enumerate(iterations):
            folder = self.store.round(number)
            begun = folder.info()
            if begun is not None:
                folder.begin(self._info(number, iteration, begun.class_weights))

    def run(
        self,
        number: int,
        iteration: int,
        *,
        class_weights: tuple[float, ...] | None = None,
        run: Run | None = None,
    ) -> Outcome:
        """Selects, asks, stores and reports round `number`; picks up what a stopped process has left."""
        queries = self.select(number, iteration, class_weights=class_weights)
        return Interrupted() if queries is None else self.buy(queries, run=run)

    def select(
        self, number: int, iteration: int, *, class_weights: tuple[float, ...] | None = None
    ) -> RoundQueries | None:
        """The round's queries, selected now unless they are on disk; None when stopped."""
        info = self._info(number, iteration, class_weights)
        return self.query.select(self.store.round(number), info, self.reader.bought)

    def buy(self, queries: RoundQueries, *, run: Run | None = None) -> Outcome:
        """Has the queries answered, unless they are, takes the labels over and reports the round."""
        number = queries.info.number
        folder = self.store.round(number)
        answered = distributed.from_rank_zero(folder.has_labels)
        outcome = None if answered else self.oracle.answer(folder, queries)
        if outcome is not None:
            return outcome
        check_seen_everywhere(folder.labels_path, "the labels of the round")
        self.take_over(self.store.load(number + 1))
        if self.write_masks:
            self._write_masks(queries)
        if distributed.is_main():
            report_round(
                self.store,
                queries,
                space=self.space,
                images=self.query.images,
                pictures=self.query.settings.pictures,
                run=run,
            )
        return None

    def take_over(self, bought: BoughtLabels) -> None:
        """Trains with these annotations from the next streams on."""
        self.reader.bought = bought
        self.state.set(bought)

    def restore(self) -> None:
        """Reads the annotations that the state of a snapshot describes.

        Raises:
            UserError: the annotations on disk are not those that the snapshot was trained with.
        """
        rounds = int(self.state.rounds)
        if not self.state.is_of(self.reader.bought):
            with alike_everywhere():
                self.reader.bought = self.store.load(rounds)
        if not self.state.is_of(self.reader.bought):
            raise UserError(
                f"the annotations in {self.store.folder} are not those that trained the snapshot ({rounds} "
                "rounds); put the folder back as it was, or start anew in another --snapshot-dir",
                everywhere=True,
            )

    def _write_masks(self, queries: RoundQueries) -> None:
        """Every rank writes those of its share of the images."""
        names = [queries.images[place].name for place in distributed.shard(len(queries.images))]
        export_store(self.reader.bought, names, self.store.folder)

    def _info(self, number: int, iteration: int, weights: tuple[float, ...] | None) -> RoundInfo:
        query = self.query.settings
        return RoundInfo(
            number=number,
            iteration=iteration,
            method=self.method,
            setting=query.setting,
            label_radius=query.label_radius,
            exclusion_radius=query.exclusion_radius,
            budget=str(query.budget),
            rounds=query.rounds,
            class_space=self.space.name,
            image_list=self.query.images.fingerprint,
            images=self.query.asked,
            seed=query.seed,
            class_weights=weights,
            score=query.score,
            network_input=query.network_input,
            class_weights_from=self.class_weights_from,
            run=self.identity,
        )
