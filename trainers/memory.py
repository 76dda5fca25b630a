"""MRNet: adversarial adaptation with memory regularisation (Zheng & Yang, IJCAI 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from losses.adversarial import discriminator_loss, generator_loss
from losses.class_balance import ClassWeights
from losses.memory import confident_entropy, memory_regularization
from losses.segmentation import weighted_cross_entropy
from networks.discriminators import MultiScaleDiscriminator
from networks.normalization import tracks_statistics
from networks.segmentation import SegmentationNetwork
from trainers.steps import Batches, Step, StepModule, StepOutput, detached
from trainers.supervised import SupervisedSettings, SupervisedStep, SupervisedTrainer
from utils.errors import UserError
from utils.maths import softmax
from utils.optimizers import build_adam
from utils.schedules import polynomial


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings(SupervisedSettings):
    """Settings of the target-domain terms and of the discriminators."""

    learning_rate_discriminator: float = 1e-4
    lambda_adv_target1: float = 2e-4  # auxiliary head
    lambda_adv_target2: float = 1e-3  # main head
    lambda_me_target: float = 0.0  # confident entropy
    lambda_kl_target: float = 0.0  # memory regularisation; 0.1 in the published runs
    target_terms_start: int = 15_000  # first 0-based iteration with the entropy and memory terms
    auxiliary_weight: float = 0.5  # of the auxiliary logits in every fusion of the heads
    unweighted_terms: bool = False  # the target forward and the adversarial terms at weight 0 too, for logs

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators are trained: both adversarial weights are positive."""
        return self.lambda_adv_target1 > 0 and self.lambda_adv_target2 > 0

    @property
    def ever_uses_target(self) -> bool:
        """Whether any term of weight above 0 looks at target images at some time of the run."""
        return self.uses_target(self.target_terms_start)

    def uses_target(self, iteration: int) -> bool:
        """Whether a term of weight above 0 looks at the target images in this iteration."""
        late = self.lambda_me_target > 0 or self.lambda_kl_target > 0
        early = self.lambda_adv_target1 > 0 or self.lambda_adv_target2 > 0
        return self.unweighted_terms or early or (late and iteration >= self.target_terms_start)


@contextmanager
def frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, the modules' parameters record no gradients; gradients still pass through to their inputs."""
    for module in modules:
        module.requires_grad_(False)
    try:
        yield
    finally:
        for module in modules:
            module.requires_grad_(True)


class MemoryRegularizedStep(SupervisedStep):
    """The generator's backward: labelled losses, then the terms on the unlabelled target.

    Source and target images go through the network one after the other: batch statistics must not mix the
    domains,
    and the running ones see the source first.

    Args:
        discriminators: (auxiliary, main); kept outside the module tree, since their parameters are not the
            generator's.
    """

    settings: MemorySettings

    def __init__(
        self,
        network: SegmentationNetwork,
        class_weights: ClassWeights,
        settings: MemorySettings,
        discriminators: tuple[MultiScaleDiscriminator, MultiScaleDiscriminator],
    ) -> None:
        super().__init__(network, class_weights, settings)
        self._discriminators = discriminators

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Total loss of the generator and what the discriminators need of its predictions.

        A target batch never has labels in training; where one has, as in the golden tests, they only measure.
        """
        source, target = batches["source"], batches.get("target")
        source_auxiliary, source_main = self.predict(source.image)
        loss, terms = self.segmentation_loss(source_auxiliary, source_main, source.label)
        if target is None:
            return StepOutput(loss, detached(terms))
        if not self.settings.uses_target(iteration) and target.label is None:
            self._update_statistics(target.image)
            return StepOutput(loss, detached(terms))

        auxiliary, main = self.predict(target.image)
        target_loss, target_terms = self.target_loss(auxiliary, main, iteration)
        terms.update(target_terms)
        if target.label is not None:
            with torch.no_grad():
                terms["loss/target_seg"] = weighted_cross_entropy(
                    main, target.label, self.class_weights.weight
                )
        carried_now = {}
        if self.settings.adversarial:
            carried_now = self._discriminator_inputs(source_auxiliary, source_main, auxiliary, main)
        return StepOutput(loss + target_loss, detached(terms), carried_now)

    def target_loss(
        self, auxiliary: Tensor, main: Tensor, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the adversarial, entropy and memory terms, and the unweighted terms."""
        settings = self.settings
        weighted: dict[str, tuple[float, Tensor]] = {}
        with frozen(self._discriminators):
            for name, weight, logits, discriminator in (
                ("loss/adv_aux", settings.lambda_adv_target1, auxiliary, self._discriminators[0]),
                ("loss/adv_main", settings.lambda_adv_target2, main, self._discriminators[1]),
            ):
                if weight > 0 or settings.unweighted_terms:
                    weighted[name] = (weight, generator_loss(discriminator(softmax(logits))))
        if iteration >= settings.target_terms_start:
            if settings.lambda_me_target > 0:
                entropy = confident_entropy(auxiliary, main, auxiliary_weight=settings.auxiliary_weight)
                weighted["loss/entropy"] = (settings.lambda_me_target, entropy)
            if settings.lambda_kl_target > 0:
                divergence = memory_regularization(
                    auxiliary, main, auxiliary_weight=settings.auxiliary_weight
                )
                weighted["loss/kl"] = (settings.lambda_kl_target, divergence)
        total = sum((weight * term for weight, term in weighted.values() if weight > 0), main.new_zeros(()))
        return total, {name: term for name, (_, term) in weighted.items()}

    def _discriminator_inputs(
        self, source_auxiliary: Tensor, source_main: Tensor, auxiliary: Tensor, main: Tensor
    ) -> dict[str, Tensor]:
        """Detached probabilities: both discriminators get the fused source prediction as real."""
        with torch.no_grad():
            return {
                "real": softmax(self.settings.auxiliary_weight * source_auxiliary + source_main),
                "fake_aux": softmax(auxiliary),
                "fake_main": softmax(main),
            }

    def _update_statistics(self, images: Tensor) -> None:
        """The target forward whose only effect is on the running statistics of the BatchNorm layers.

        The published second stage computes it with weights of zero; without a graph it costs a third.
        """
        if tracks_statistics(self.network):
            with torch.no_grad():
                self.network(images)


class DiscriminatorStep(StepModule):
    """The discriminators' backward: both losses in one, each feeding its own optimiser."""

    def __init__(self, discriminators: tuple[MultiScaleDiscriminator, MultiScaleDiscriminator]) -> None:
        super().__init__()
        self.auxiliary, self.main = discriminators

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Least-squares losses with the gradient penalty on the real side."""
        loss_auxiliary, penalty_auxiliary = discriminator_loss(
            self.auxiliary, carried["fake_aux"], carried["real"]
        )
        loss_main, penalty_main = discriminator_loss(self.main, carried["fake_main"], carried["real"])
        terms = {
            "loss/D_aux": loss_auxiliary,
            "loss/D_main": loss_main,
            "loss/D_penalty": penalty_auxiliary + penalty_main,
        }
        return StepOutput(loss_auxiliary + loss_main, detached(terms))


class MemoryRegularizedTrainer(SupervisedTrainer):
    """Labelled source, unlabelled target: segmentation, adversarial and memory terms.

    In the second stage the stream called "source" carries target images with pseudo labels.
    """

    settings: MemorySettings
    step_class: type[MemoryRegularizedStep] = MemoryRegularizedStep
    method = "mrnet"

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        discriminators: tuple[MultiScaleDiscriminator, MultiScaleDiscriminator],
        settings: MemorySettings,
        **loop: object,
    ) -> None:
        if not network.has_auxiliary_head:
            raise UserError(
                f"{type(self).__name__} compares two heads, but --network {network.spec.architecture} has "
                "one; use --network deeplab_two_head"
            )
        self.discriminators = discriminators
        super().__init__(network=network, settings=settings, **loop)

    def build_steps(self) -> list[Step]:
        """The generator's step, then the discriminators' when both adversarial weights are positive."""
        module = self.step_class(self.network, self.class_weights, self.settings, self.discriminators)
        steps = [self.segmentation_step(module)]
        if self.settings.adversarial:
            optimizers = {
                name: build_adam(
                    discriminator.parameters(),
                    lr=self.settings.learning_rate_discriminator,
                    betas=(0.9, 0.99),
                    implementation=self.settings.fused_optimizer,
                )
                for name, discriminator in zip(("D_aux", "D_main"), self.discriminators, strict=True)
            }
            steps.append(Step("discriminators", DiscriminatorStep(self.discriminators), optimizers))
        return steps

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Adds the discriminators' polynomial decay, which has no warm-up."""
        rates = super().learning_rates(iteration)
        if self.settings.adversarial:
            rate = polynomial(
                iteration,
                base=self.settings.learning_rate_discriminator,
                num_steps=self.settings.num_steps,
                power=self.settings.power,
            )
            rates |= {"D_aux": rate, "D_main": rate}
        return rates

    def method_modules(self) -> dict[str, nn.Module]:
        """Class weights and, where they are trained, the discriminators."""
        modules = super().method_modules()
        if self.settings.adversarial:
            modules |= {"D_aux": self.discriminators[0], "D_main": self.discriminators[1]}
        return modules
