"""DIDA: DAFormer and a second level of interaction, between pixels and stored source instances (Yao & Li,
ICCV Workshops 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from data_loaders.samples import Batch
from losses.instance import aggregated_similarity, instance_loss
from losses.instance_bank import InstanceBank, non_negative
from networks.spec import SegmentationOutput
from trainers.loop_settings import Event, Interrupted, Outcome
from trainers.self_training import (
    Losses,
    SelfTrainingSettings,
    SelfTrainingStep,
    SelfTrainingTrainer,
    StudentPass,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DidaSettings(SelfTrainingSettings):
    """What DIDA adds to DAFormer."""

    instance_weight: float = 0.5
    calibrate: str = "student"  # class scores of the target: student | teacher (the paper's reading) | none
    smooth: float = 1.0  # below 1, similarities to the bank take part in choosing the pseudo labels
    bank_update_every: int = 50
    bank_momentum: float = 0.999
    bank_labels: str = "batch"  # positions that average the first image's features: the batch's, or its own
    bank_absent: str = "decay"  # entries of classes that the batch lacks: decay as published, or keep
    bank_fill_at: int = 0  # iterations after which an empty bank is filled from the student


class DidaStep(SelfTrainingStep):
    """Updates the bank from the source, and trains the mixture's similarities towards the teacher's."""

    settings: DidaSettings

    def __init__(self, *args: object, bank: InstanceBank, **keywords: object) -> None:
        super().__init__(*args, **keywords)
        self.bank = bank
        self._bank_terms: dict[str, Tensor] = {}

    @property
    def source_first(self) -> bool:
        """With smoothing the labels depend on the updated bank."""
        return self.settings.smooth < 1

    def on_source(self, source_pass: StudentPass, source: Batch, iteration: int) -> None:
        """Moves the bank towards the class means of the source, every `bank_update_every` iterations."""
        if not self.bank.is_full or iteration % self.settings.bank_update_every:
            return
        self.bank.update(
            non_negative(source_pass.output.features.detach()),
            source.label,
            iteration=iteration,
            momentum=self.settings.bank_momentum,
            own_image_only=self.settings.bank_labels == "own",
            keep_absent=self.settings.bank_absent == "keep",
        )
        self._bank_terms = self.bank.scalars()

    def label_bonus(self, taught: SegmentationOutput, size: tuple[int, int]) -> Tensor | None:
        """Similarities to the bank summed by class, times 1 - smooth."""
        if self.settings.smooth == 1 or not self.bank.is_full:
            return None
        similarity = aggregated_similarity(
            non_negative(taught.features),
            self.bank.features,
            self.bank.labels,
            num_classes=self.network.spec.num_classes,
            size=size,
        )
        return (1 - self.settings.smooth) * similarity

    def further_terms(self) -> dict[str, Tensor]:
        """How the bank stands, in iterations that updated it."""
        terms, self._bank_terms = self._bank_terms, {}
        return terms

    def further_losses(
        self, passes: Mapping[str, StudentPass], taught: SegmentationOutput, size: tuple[int, int]
    ) -> Losses:
        """The instance loss, once the bank is full."""
        if not self.bank.is_full or self.settings.instance_weight == 0:
            return {}
        mixed = passes["mixed"].output
        scores = {"student": mixed.logits.detach(), "teacher": taught.logits, "none": None}
        value = instance_loss(
            non_negative(mixed.features),
            non_negative(taught.features),
            self.bank.features,
            self.bank.labels,
            size=size,
            class_logits=scores[self.settings.calibrate],
            softmax=self.settings.calibrate == "teacher",
        )
        return {"instance": (self.settings.instance_weight, value)}


class DidaTrainer(SelfTrainingTrainer):
    """`SelfTrainingTrainer` with a bank of source instances.

    Keyword arguments beyond its: `bank`, and `fill_bank`, which fills an empty one from the student and
    returns whether it was allowed to finish.
    """

    method = "dida"
    settings: DidaSettings

    def __init__(
        self, *, bank: InstanceBank, fill_bank: Callable[[InstanceBank], bool] | None = None, **rest: object
    ) -> None:
        self.bank = bank
        self.fill_bank = fill_bank
        super().__init__(**rest)

    def make_step(self) -> DidaStep:
        """The step module of the method."""
        return DidaStep(
            self.network, self.settings, teacher=self.teacher, reference=self.reference, bank=self.bank
        )

    def method_modules(self) -> dict[str, nn.Module]:
        """The bank beside DAFormer's."""
        return {**super().method_modules(), "instance_bank": self.bank}

    def events(self) -> list[Event]:
        """The filling of a bank that was not loaded."""
        if self.fill_bank is None:
            return []
        at = self.settings.bank_fill_at
        return [Event("filling the instance bank", lambda done: done == at, self._fill, snapshot_first=True)]

    def _fill(self, iteration: int) -> Outcome:
        return None if self.fill_bank(self.bank) else Interrupted()
