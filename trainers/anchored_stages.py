"""MADA as one run: the anchors of the source, the choice of images and their labels, stage 1, the anchors of
the target, stage 2 (Ning et al., ICCV 2021).

The released code takes eight scripts for it, whose files the user renames in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_loaders.streams import SampleStream
from networks.segmentation import SegmentationNetwork
from trainers.anchored import AnchoredSettings, AnchoredTrainer
from trainers.loop_settings import EndOfRun, Event, Interrupted, Outcome
from trainers.query_rounds import QueryRounds
from trainers.shared_folder import check_seen_everywhere
from utils import snapshots
from utils.errors import UserError
from utils.maths import at_least_float32
from utils.phases import PHASES, reaches

logger = logging.getLogger(__name__)

DOMAINS = ("source", "target")
CHOICE = "choice of the images to be labelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """Which phases there are, and how the second stage begins.

    Attributes:
        steps: iterations of stage 1 and of stage 2; 0 for a first stage that is done already.
        second_from: "best" on the target's validation images in stage 1, as published, or its "last" weights;
            "last" too where nothing is evaluated.
        stop_after: one of PHASES, after which the run ends.
    """

    steps: tuple[int, int]
    second_from: str = "best"
    stop_after: str = PHASES[-1]

    @property
    def buys(self) -> bool:
        """Whether images are chosen and labelled: not where target anchors alone are wanted."""
        return self.steps[0] > 0 or self.stop_after != "target-anchors"

    def reaches(self, phase: str) -> bool:
        """Whether the run comes to this phase before it ends."""
        return reaches(self.stop_after, phase)


class StageState(nn.Module):
    """What a snapshot says about the stage: 1 or 2, and which anchors were given. On the CPU, so that asking
    waits for no device.

    Args:
        given: hex SHA-256 of the anchors or vectors of "source" and of "target" that files give; "" where the
            run describes the images.
    """

    number: Tensor

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__()
        self.register_buffer("number", torch.ones((), dtype=torch.int64))
        for domain in DOMAINS:
            digest = bytes.fromhex(given.get(domain, "")) or bytes(32)
            self.register_buffer(f"{domain}_given", torch.frombuffer(bytearray(digest), dtype=torch.uint8))

    def given(self, domain: str) -> Tensor:
        """(32,) uint8 digest; zeros where the images are described."""
        return self.get_buffer(f"{domain}_given")


class StagedTrainer(AnchoredTrainer):
    """Trains on "active" (bought images) and "source", in stage 2 also on "target".

    Keyword arguments beyond `AnchoredTrainer`'s:
        anchors_shape: (V, C, D) of the target's anchors.
        plan: the phases.
        rounds: chooses and buys the images, in one round.
        source_anchors: what the choice goes by, (V, C, D); None when a stop signal cut it short. Collective.
        target_anchors: of the target as the network of stage 1 sees it; likewise.
        make_streams: the streams of stage 1 or 2 for what is bought by now.
        given: of `StageState`.
    """

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        settings: AnchoredSettings,
        anchors_shape: tuple[int, int, int],
        plan: StagePlan,
        rounds: QueryRounds,
        source_anchors: Callable[[], Tensor | None],
        target_anchors: Callable[[], Tensor | None],
        make_streams: Callable[[int], Mapping[str, SampleStream]],
        given: Mapping[str, str] | None = None,
        **loop: object,
    ) -> None:
        self.plan = plan
        self.rounds = rounds
        self.source_anchors = source_anchors
        self.target_anchors = target_anchors
        self.make_streams = make_streams
        self.stage = StageState(given or {})
        weight = next(network.parameters())
        anchors = torch.zeros(anchors_shape, dtype=at_least_float32(weight).dtype, device=weight.device)
        super().__init__(network=network, settings=settings, anchors=anchors, **loop)

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Rate of the whole network at a 0-based iteration: the schedule begins anew in stage 2."""
        return super().learning_rates(iteration - self._begun())

    def iterations_of_stage(self) -> int:
        """Updates in the present stage."""
        return self.iteration - self._begun()

    def _begun(self) -> int:
        """Iterations before the present stage."""
        return self.plan.steps[0] if int(self.stage.number) == 2 else 0

    def method_modules(self) -> dict[str, nn.Module]:
        """Anchors, stage, and which annotations trained the network."""
        return {**super().method_modules(), "stage": self.stage, "annotations": self.rounds.state}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over a state made by `state()`; one of a run for target anchors alone goes on with the choice
        of images.

        Raises:
            UserError: on every rank: anchors that are still to be used are not those of the run's beginning.
        """
        here = {domain: self.stage.given(domain).clone() for domain in DOMAINS}
        super().load_state(state)
        chosen = bool(self.rounds.reader.bought.rounds)
        pending = {"source": not chosen, "target": int(self.stage.number) == 1}
        for domain in DOMAINS:
            if pending[domain] and not torch.equal(self.stage.given(domain), here[domain]):
                raise UserError(
                    f"the anchors of the {domain} would come from elsewhere than when the run began "
                    f"(--{domain}-anchors{', --source-vectors' if domain == 'source' else ''}); give what "
                    "was given then, or another --snapshot-dir",
                    everywhere=True,
                )
        if self.plan.buys and not chosen:
            self.waiting_event = CHOICE

    def rebuild_streams(self) -> Mapping[str, SampleStream]:
        """The streams of the present stage; none before images are bought.

        Raises:
            UserError: the annotations on disk are not those that the snapshot was trained with, or no pixel
                of any image has a label.
        """
        self.rounds.restore()
        if not self.rounds.reader.bought.rounds:
            return {}
        return self.make_streams(int(self.stage.number))

    def events(self) -> list[Event]:
        """The choice of images before everything, and the beginning of stage 2."""
        first = self.plan.steps[0]
        choice = Event(
            CHOICE,
            due=lambda done: done == 0 and self.plan.buys,
            action=self._choose_and_buy,
            rebuild_streams=True,
            snapshot_first=True,
        )
        second = Event(
            "beginning of stage 2",
            due=lambda done: done == first,
            action=self._begin_stage_2,
            rebuild_streams=True,
            snapshot_first=True,
        )
        return [choice, second]

    # the phases between which the loop trains

    def _choose_and_buy(self, iteration: int) -> Outcome:
        plan = self.plan
        if not plan.reaches("selection"):
            made = self.source_anchors() is not None
            return EndOfRun("anchors of the source") if made else Interrupted()
        queries = self.rounds.select(0, iteration)
        if queries is None:
            return Interrupted()
        images = f"{len(queries.images)} images"
        if not plan.reaches("labels"):
            return EndOfRun(f"selection of {images}")
        outcome = self.rounds.buy(queries, run=self.run)
        if outcome is None and not plan.reaches("stage-1"):
            return EndOfRun(f"labels of {images}")
        return outcome

    def _begin_stage_2(self, iteration: int) -> Outcome:
        plan = self.plan
        if iteration > 0 and not self._end_stage_1(iteration):
            return Interrupted()
        ends_here = iteration == self.loop.num_steps_stop and plan.reaches("stage-2")  # --num-steps-stop
        if ends_here or not plan.reaches("target-anchors"):
            return EndOfRun("stage 1")
        if self.settings.lambda_alignment > 0 or not plan.reaches("stage-2"):
            anchors = self.target_anchors()
            if anchors is None:
                return Interrupted()
            self.anchors.values.copy_(anchors)
        if not plan.reaches("stage-2"):
            return EndOfRun("anchors of the target")
        for optimizer in self.optimizers.values():
            optimizer.state.clear()  # a new optimizer, as where the original starts its next script
        self.stage.number.fill_(2)
        return None

    def _end_stage_1(self, iteration: int) -> bool:
        """Scores the last weights and takes the best ones on; False when stopped."""
        if self.evaluator is not None and self.present_scores() is None:
            return False
        if self.run is None:
            return True
        chosen, words = iteration, "last"
        if self.plan.second_from == "best" and self.best_at >= 0:
            chosen, words = self.best_at, f"best on target val: mIoU {self.best:.2f}"
        path = self.run.snapshots.file_of(chosen)
        check_seen_everywhere(path, f"the snapshot of iteration {chosen}")
        if self.world.is_main:  # the mark also keeps the snapshot
            self.run.snapshots.mark("stage1", path, words)
        logger.info("the result of stage 1 is iteration %d (%s)", chosen, words)
        if chosen != iteration:
            self._take_weights(path)
        return True

    def _take_weights(self, path: Path) -> None:
        state = snapshots.read(path)
        self.network.load_state_dict(state["weights"])
        if self.teacher is not None and state["teacher"] is not None:
            self.teacher.network.load_state_dict(state["teacher"])
        self.metrics = dict(state["metrics"])
