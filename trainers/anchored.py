"""MADA's two stages of training: on the images that were bought, then with pseudo labels and soft alignment
to the target's anchors (Ning et al., ICCV 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.alignment import soft_alignment, updated_anchors
from losses.objective import batch_vector, class_means_of, predicted_classes
from losses.segmentation import weighted_cross_entropy
from networks.segmentation import SegmentationNetwork
from networks.spec import SegmentationOutput
from trainers.base import Trainer
from trainers.optimization import OptimizerSettings
from trainers.steps import Batches, Step, StepModule, StepOutput, detached
from trainers.supervised import upsampled_logits
from utils.schedules import polynomial_stepped_first


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchoredSettings(OptimizerSettings):
    """Weights of the terms, and the published optimiser."""

    optimizer: str = "sgd-plain"
    learning_rate: float = 1e-4
    weight_decay: float = 2e-4
    num_steps: int = 90_000
    head_scale: float = 1.0
    lambda_seg: float = 0.1  # an auxiliary head's share of the cross entropies, in networks that have one
    lambda_alignment: float = 0.7
    lambda_pseudo: float = 1.0
    anchor_momentum: float = 0.999
    batch_rule: str = (
        "last"  # which image of a batch speaks for a class: the last with it, as released; or mean
    )

    def rate(self, iteration: int) -> float:
        """Learning rate at a 0-based iteration: that of the step after it, as released."""
        return polynomial_stepped_first(
            iteration, base=self.learning_rate, num_steps=self.num_steps, power=self.power
        )


class Anchors(nn.Module):
    """The target's anchors (V, C, D), which follow the training; in snapshots."""

    values: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values.clone())


class AnchoredStep(StepModule):
    """Cross entropy on the bought and on the source images; with target images the second stage's terms too.

    The domains pass one after the other, bought images first: batch statistics must not mix them, and the
    running ones see them in the published order.
    """

    def __init__(self, network: SegmentationNetwork, settings: AnchoredSettings, anchors: Anchors) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.anchors = anchors

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Sum of the weighted terms; batches "active" and "source", in the second stage also "target"."""
        terms: dict[str, Tensor] = {}
        loss = self._labelled_loss(batches, "active", terms) + self._labelled_loss(batches, "source", terms)
        if "target" in batches:
            loss = loss + self._target_loss(self.network(batches["target"].image), terms)
        return StepOutput(loss, detached(terms))

    def _labelled_loss(self, batches: Batches, name: str, terms: dict[str, Tensor]) -> Tensor:
        """Cross entropy of all heads on a labelled domain."""
        auxiliary, main = upsampled_logits(self.network, batches[name].image)
        loss = terms[f"loss/{name}"] = weighted_cross_entropy(main, batches[name].label)
        if auxiliary is not None:
            term = terms[f"loss/{name}_aux"] = weighted_cross_entropy(auxiliary, batches[name].label)
            loss = loss + self.settings.lambda_seg * term
        return loss

    def _target_loss(self, output: SegmentationOutput, terms: dict[str, Tensor]) -> Tensor:
        """Cross entropy with the network's own labels, and alignment of the batch's vector, which moves one
        anchor."""
        settings = self.settings
        labels = predicted_classes(output.logits)
        terms["loss/pseudo"] = weighted_cross_entropy(output.logits, labels)
        loss = settings.lambda_pseudo * terms["loss/pseudo"]
        if settings.lambda_alignment == 0:
            return loss
        means = class_means_of(output.features, output.logits, None)
        vector = batch_vector(means.vectors, means.present, rule=settings.batch_rule)
        terms["loss/alignment"], distances = soft_alignment(vector, self.anchors.values)
        terms["distance/nearest"] = distances.min()
        moved = updated_anchors(
            self.anchors.values, vector.detach(), distances, momentum=settings.anchor_momentum
        )
        with torch.no_grad():
            self.anchors.values.copy_(moved)
        return loss + settings.lambda_alignment * terms["loss/alignment"]


class AnchoredTrainer(Trainer):
    """One stage: the first on streams "active" (bought images) and "source", the second also on "target".

    Keyword arguments beyond `Trainer`'s: `settings`, and the target's `anchors` (V, C, D), which the first
    stage does not look at.
    """

    method = "mada"

    def __init__(
        self, *, network: SegmentationNetwork, settings: AnchoredSettings, anchors: Tensor, **loop: object
    ) -> None:
        self.settings = settings
        self.anchors = Anchors(anchors)
        super().__init__(network=network, **loop)

    def build_steps(self) -> list[Step]:
        """One step with all terms."""
        module = AnchoredStep(self.network, self.settings, self.anchors)
        optimizer = self.settings.build(self.network)
        return [Step("segmentation", module, {"segmentation": optimizer}, self.settings.max_grad_norm)]

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Rate of the whole network at a 0-based iteration."""
        return {"segmentation": self.settings.rate(iteration)}

    def method_modules(self) -> dict[str, nn.Module]:
        """The anchors."""
        return {"anchors": self.anchors}
