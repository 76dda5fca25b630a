"""Active learning by regions: RIPU, and DWACA, which is RIPU with a weight per class in its score.

Training alternates with query rounds at fixed iterations: the network scores the target images, the oracle
answers for the best places, and the answers train from the next iteration on.

Sources: Xie et al., CVPR 2022 (RIPU); Guan & Yuan, as released (DWACA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_loaders.streams import SampleStream
from losses.consistency import local_consistency
from losses.negative import negative_learning
from losses.segmentation import weighted_cross_entropy
from networks.segmentation import SegmentationNetwork
from trainers.base import Evaluator, Trainer
from trainers.class_weighting import weights_from_scores
from trainers.loop_settings import Event, Interrupted, Outcome
from trainers.optimization import OptimizerSettings
from trainers.query_rounds import QueryRounds
from trainers.steps import Batches, Step, StepModule, StepOutput, detached
from trainers.supervised import upsampled_logits
from utils import distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSettings(OptimizerSettings):
    """Settings of the losses, of the schedule of rounds, and of DWACA's weights."""

    optimizer: str = "sgd-plain"
    num_steps: int = 62_500
    lambda_seg: float = 0.1  # weight of the cross entropy of an auxiliary head, in networks that have one
    lambda_consistency: float = 0.1  # local consistency on the source
    consistency: str = "l1"  # or kl
    lambda_negative: float = 1.0  # negative learning on the target
    negative_threshold: float = 0.05
    select_iterations: tuple[int, ...] = (10_000, 12_000, 14_000, 16_000, 18_000)
    class_weights_from: str = "none"  # validation, labelled, source: DWACA; none: RIPU
    dropout_schedule: str = "always"  # reference: off from an evaluation of the original to the next round
    dropout_period: int = 2000  # iterations between the original's evaluations


class ActiveStep(StepModule):
    """Cross entropy on the source and on what was bought of the target, local consistency on the source,
    negative learning on the target (Xie et al., CVPR 2022, Sec. 3.3).

    A batch without "source" trains on the target alone (source-free).
    """

    def __init__(self, network: SegmentationNetwork, settings: ActiveSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """The plain sum of the weighted terms."""
        settings = self.settings
        terms: dict[str, Tensor] = {}
        loss = torch.zeros((), device=batches["target"].image.device)
        if "source" in batches:
            logits, own_loss = self._supervised(batches, "source", terms)
            loss = loss + own_loss
            if settings.lambda_consistency > 0:
                consistency = local_consistency(logits, batches["source"].label, kind=settings.consistency)
                terms["loss/consistency"] = consistency
                loss = loss + settings.lambda_consistency * consistency
        logits, own_loss = self._supervised(batches, "target", terms)
        loss = loss + own_loss
        if settings.lambda_negative > 0:
            negative = negative_learning(logits, threshold=settings.negative_threshold)
            terms["loss/negative"] = negative
            loss = loss + settings.lambda_negative * negative
        return StepOutput(loss, detached(terms))

    def _supervised(self, batches: Batches, name: str, terms: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits of the main head at image size, and the cross entropy of all heads; 0 without a label."""
        auxiliary, main = upsampled_logits(self.network, batches[name].image)
        label = batches[name].label
        loss = terms[f"loss/{name}"] = weighted_cross_entropy(main, label)
        if auxiliary is not None:
            loss_auxiliary = terms[f"loss/{name}_aux"] = weighted_cross_entropy(auxiliary, label)
            loss = loss + self.settings.lambda_seg * loss_auxiliary
        return main, loss


def dropout_is_active(
    iteration: int, *, select_iterations: Sequence[int], period: int, schedule: str
) -> bool:
    """Whether the network is in training mode for the step at a 0-based iteration.

    "reference": DWACA's released loop evaluates every `period` iterations and before every selection, leaves
    the network in eval mode, and only a selection puts it back. "always" is RIPU's, which never evaluates.
    """
    if schedule == "always":
        return True
    evaluated = iteration // period * period  # the newest evaluation that is no selection's
    selected = max((chosen for chosen in select_iterations if chosen <= iteration), default=0)
    return selected >= evaluated


class ActiveTrainer(Trainer):
    """Trains on streams "target" (with what was bought) and, unless source-free, "source".

    Keyword arguments beyond `Trainer`'s:
        settings: losses and schedule.
        rounds: how regions are chosen and answered; its method names the snapshots' too.
        class_evaluator: scores classes for DWACA's weights, where they do not come from the evaluation.
    """

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        settings: ActiveSettings,
        rounds: QueryRounds,
        class_evaluator: Evaluator | None = None,
        **loop: object,
    ) -> None:
        self.settings = settings
        self.rounds = rounds
        self.method = rounds.method
        self.class_evaluator = class_evaluator
        super().__init__(network=network, **loop)

    def build_steps(self) -> list[Step]:
        """One step on both domains."""
        module = ActiveStep(self.network, self.settings)
        optimizer = self.settings.build(self.network)
        return [Step("segmentation", module, {"segmentation": optimizer}, self.settings.max_grad_norm)]

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Rate of the backbone at a 0-based iteration."""
        return {"segmentation": self.settings.rate(iteration)}

    def method_modules(self) -> dict[str, nn.Module]:
        """Which annotations trained the network."""
        return {"annotations": self.rounds.state}

    def set_mode(self, iteration: int) -> None:
        """Training mode, but without dropout where the reference forgot to leave eval mode."""
        settings = self.settings
        active = dropout_is_active(
            iteration,
            select_iterations=settings.select_iterations,
            period=settings.dropout_period,
            schedule=settings.dropout_schedule,
        )
        self.network.train()
        for layer in self.network.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.train(active)

    def events(self) -> list[Event]:
        """One query round after each of the chosen iterations."""
        return [
            Event(
                f"query round {number + 1} of {len(self.settings.select_iterations)}",
                due=lambda done, at=iteration: done == at,
                action=lambda iteration, number=number: self.run_round(number, iteration),
                rebuild_streams=True,
                snapshot_first=True,
            )
            for number, iteration in enumerate(self.settings.select_iterations)
        ]

    def rebuild_streams(self) -> Mapping[str, SampleStream]:
        """The same streams, whose new workers see the annotations of the rounds that are over.

        Raises:
            UserError: the annotations on disk are not those that the snapshot was trained with.
        """
        self.rounds.restore()
        return self.streams

    # a round

    def run_round(self, number: int, iteration: int) -> Outcome:
        """Selects, asks, stores and reports round `number`; picks up what a stopped process has left."""
        begun = distributed.from_rank_zero(self.rounds.store.round(number).info)
        weights = None if begun is None else begun.class_weights
        if begun is None and self.settings.class_weights_from != "none":
            scores = self._class_scores(number)
            if scores is None:
                return Interrupted()
            weights = weights_from_scores(scores, self.rounds.space, source=self.settings.class_weights_from)
        return self.rounds.run(number, iteration, class_weights=weights, run=self.run)

    def _class_scores(self, number: int) -> Mapping[str, float] | None:
        """ "val/iou/<class>" of the present network in percent; None when stopped."""
        chosen = self.settings.class_weights_from
        if chosen == "validation":
            return self.present_scores()
        if chosen == "labelled" and number == 0 and not self.rounds.store.has_imported():
            return {}  # nothing is bought that could be scored on: all classes count alike
        return self.class_evaluator(self.network)
