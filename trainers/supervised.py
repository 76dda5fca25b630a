"""Supervised training on one labelled domain: the source-only baseline, warm-ups and upper bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.class_balance import ClassWeights
from losses.segmentation import hard_pixel_cross_entropy, weighted_cross_entropy
from networks.segmentation import SegmentationNetwork
from networks.spec import SegmentationOutput
from trainers.base import Trainer
from trainers.optimization import OptimizerSettings
from trainers.steps import Batches, Step, StepModule, StepOutput, detached
from utils.maths import upsample


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisedSettings(OptimizerSettings):
    """Settings of the segmentation losses and of the generator's optimiser (published defaults: methods'
    README table)."""

    lambda_seg: float = 0.1  # weight of the auxiliary head
    class_balance: bool = False
    often_balance: bool = False
    max_value: float = 2.0  # class weight of small and absent classes
    only_hard_label: float = 0.0  # percentile of the pixel losses below which pixels are dropped; 0 keeps all


def upsampled_logits(network: SegmentationNetwork, images: Tensor) -> tuple[Tensor | None, Tensor]:
    """Logits of the auxiliary head (None without one) and the main head, at the images' size."""
    output: SegmentationOutput = network(images)
    size = tuple(images.shape[-2:])
    auxiliary = output.auxiliary_logits
    return None if auxiliary is None else upsample(auxiliary, size), upsample(output.logits, size)


class SupervisedStep(StepModule):
    """Segmentation losses of both heads on the labelled domain.

    Args:
        network: the segmentation network; without an auxiliary head its loss is the main head's alone.
        class_weights: state of the class balancing, updated once per micro-batch.
        settings: loss weights.
        labelled: name of the labelled stream.
    """

    def __init__(
        self,
        network: SegmentationNetwork,
        class_weights: ClassWeights,
        settings: SupervisedSettings,
        *,
        labelled: str = "source",
    ) -> None:
        super().__init__()
        self.network = network
        self.class_weights = class_weights
        self.settings = settings
        self.labelled = labelled

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Loss = main + lambda_seg * auxiliary."""
        auxiliary, main = self.predict(batches[self.labelled].image)
        loss, terms = self.segmentation_loss(auxiliary, main, batches[self.labelled].label)
        return StepOutput(loss, detached(terms))

    def predict(self, images: Tensor) -> tuple[Tensor | None, Tensor]:
        """Logits of the auxiliary (None without one) and the main head, upsampled to the images' size."""
        return upsampled_logits(self.network, images)

    def segmentation_loss(
        self, auxiliary: Tensor | None, main: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of both heads' segmentation losses, and the unweighted terms."""
        weight = self.class_weights.update(labels)
        loss_auxiliary, loss_main = self.head_losses(auxiliary, main, labels, weight)
        terms = {"loss/seg_main": loss_main}
        loss = loss_main
        if loss_auxiliary is not None:
            terms["loss/seg_aux"] = loss_auxiliary
            loss = loss + self.settings.lambda_seg * loss_auxiliary
        return loss, terms

    def head_losses(
        self, auxiliary: Tensor | None, main: Tensor, labels: Tensor, weight: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Weighted cross entropy of (auxiliary, main) on the hardest pixels of each head."""
        loss_auxiliary = None if auxiliary is None else self._cross_entropy(auxiliary, labels, weight)
        return loss_auxiliary, self._cross_entropy(main, labels, weight)

    def _cross_entropy(self, logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        if self.settings.only_hard_label > 0:
            return hard_pixel_cross_entropy(logits, labels, weight, self.settings.only_hard_label).loss
        return weighted_cross_entropy(logits, labels, weight)


class SupervisedTrainer(Trainer):
    """Trains the segmentation network with SGD on one labelled stream, called "source".

    Keyword arguments beyond `Trainer`'s: `settings`, the loss and optimiser settings.
    """

    step_class: type[SupervisedStep] = SupervisedStep
    method = "source"

    def __init__(self, *, network: SegmentationNetwork, settings: SupervisedSettings, **loop: object) -> None:
        self.settings = settings
        reference = next(network.parameters())
        self.class_weights = ClassWeights(
            network.spec.num_classes,
            max_value=settings.max_value,
            class_balance=settings.class_balance,
            often_balance=settings.often_balance,
        ).to(reference.device, torch.promote_types(reference.dtype, torch.float32))
        super().__init__(network=network, **loop)

    def build_steps(self) -> list[Step]:
        """One step: the segmentation network's."""
        module = self.step_class(self.network, self.class_weights, self.settings)
        return [self.segmentation_step(module)]

    def segmentation_step(self, module: StepModule) -> Step:
        """The step that owns the segmentation network and its optimiser."""
        optimizer = self.settings.build(self.network)
        return Step("segmentation", module, {"segmentation": optimizer}, self.settings.max_grad_norm)

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Rate of every optimiser at a 0-based iteration."""
        return {"segmentation": self.settings.rate(iteration)}

    def method_modules(self) -> dict[str, nn.Module]:
        """State beside the network that a resumed run needs."""
        return {"class_weights": self.class_weights}
