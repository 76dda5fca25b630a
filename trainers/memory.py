"""MRNet: adversarial adaptation with memory regularisation (Zheng & Yang, IJCAI 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

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
    has_auxiliary_head: bool = True  # what the trainer's network has

    @property
    def adversarial_weights(self) -> tuple[float, ...]:
        """Weights of the adversarial terms of all heads, the auxiliary first where there is one."""
        main = (self.lambda_adv_target2,)
        return (self.lambda_adv_target1, *main) if self.has_auxiliary_head else main

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators are trained: the adversarial weights of all heads are positive."""
        return all(weight > 0 for weight in self.adversarial_weights)

    @property
    def ever_uses_target(self) -> bool:
        """Whether any term of weight above 0 looks at target images at some time of the run."""
        return self.uses_target(self.target_terms_start)

    def uses_target(self, iteration: int) -> bool:
        """Whether a term of weight above 0 looks at the target images in this iteration."""
        late = self.lambda_me_target > 0 or self.lambda_kl_target > 0
        early = any(weight > 0 for weight in self.adversarial_weights)
        return self.unweighted_terms or early or (late and iteration >= self.target_terms_start)


def head_names(count: int) -> tuple[str, ...]:
    """Names of so many heads, in the order of all that comes by head here; one head is the main one."""
    return ("aux", "main")[-count:]


def make_discriminators(network: SegmentationNetwork) -> tuple[MultiScaleDiscriminator, ...]:
    """One fresh discriminator for every head, on the network's device (torch's global generator)."""
    device = next(network.parameters()).device
    heads = 2 if network.has_auxiliary_head else 1
    return tuple(MultiScaleDiscriminator(network.spec.num_classes).to(device) for _ in range(heads))


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
        discriminators: (auxiliary, main), or (main,) of a network with one head; kept outside the module
            tree, since their parameters are not the generator's.
    """

    settings: MemorySettings

    def __init__(
        self,
        network: SegmentationNetwork,
        class_weights: ClassWeights,
        settings: MemorySettings,
        discriminators: tuple[MultiScaleDiscriminator, ...],
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
        self, auxiliary: Tensor | None, main: Tensor, iteration: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum of the adversarial, entropy and memory terms, and the unweighted terms."""
        settings = self.settings
        weighted = self._adversarial_terms(_of_heads(auxiliary, main))
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

    def _adversarial_terms(self, heads: Mapping[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        """Weight and least-squares loss of every head that has a weight."""
        weighted = {}
        weights = self.settings.adversarial_weights
        with frozen(self._discriminators):
            for (name, logits), weight, discriminator in zip(
                heads.items(), weights, self._discriminators, strict=True
            ):
                if weight > 0 or self.settings.unweighted_terms:
                    weighted[f"loss/adv_{name}"] = (weight, generator_loss(discriminator(softmax(logits))))
        return weighted

    def _discriminator_inputs(
        self, source_auxiliary: Tensor | None, source_main: Tensor, auxiliary: Tensor | None, main: Tensor
    ) -> dict[str, Tensor]:
        """Detached probabilities: all discriminators get the fused source prediction as real."""
        with torch.no_grad():
            fused = source_main
            if source_auxiliary is not None:
                fused = self.settings.auxiliary_weight * source_auxiliary + source_main
            heads = _of_heads(auxiliary, main)
            return {
                "real": softmax(fused),
                **{f"fake_{name}": softmax(logits) for name, logits in heads.items()},
            }

    def _update_statistics(self, images: Tensor) -> None:
        """The target forward whose only effect is on the running statistics of the BatchNorm layers.

        The published second stage computes it with weights of zero; without a graph it costs a third.
        """
        if tracks_statistics(self.network):
            with torch.no_grad():
                self.network(images)


class DiscriminatorStep(StepModule):
    """The discriminators' backward: all losses in one, each feeding its own optimiser."""

    def __init__(self, discriminators: tuple[MultiScaleDiscriminator, ...]) -> None:
        super().__init__()
        names = head_names(len(discriminators))
        self.discriminators = nn.ModuleDict(zip(names, discriminators, strict=True))

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """Least-squares losses with the gradient penalty on the real side."""
        terms, penalties = {}, []
        for name, discriminator in self.discriminators.items():
            loss, penalty = discriminator_loss(discriminator, carried[f"fake_{name}"], carried["real"])
            terms[f"loss/D_{name}"] = loss
            penalties.append(penalty)
        total = sum(terms.values())
        return StepOutput(total, detached({**terms, "loss/D_penalty": sum(penalties)}))


class MemoryRegularizedTrainer(SupervisedTrainer):
    """Labelled source, unlabelled target: segmentation, adversarial and memory terms.

    A network with one head trains with that head's terms; memory regularisation compares two. In the second
    stage the stream called "source" carries target images with pseudo labels.
    """

    settings: MemorySettings
    step_class: type[MemoryRegularizedStep] = MemoryRegularizedStep
    method = "mrnet"

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        discriminators: tuple[MultiScaleDiscriminator, ...],
        settings: MemorySettings,
        **loop: object,
    ) -> None:
        if not network.has_auxiliary_head:
            self.check_one_head(settings, network.spec.architecture)
            settings = replace(settings, has_auxiliary_head=False)
        self.discriminators = discriminators
        self.discriminator_names = tuple(f"D_{name}" for name in head_names(len(discriminators)))
        super().__init__(network=network, settings=settings, **loop)

    def check_one_head(self, settings: MemorySettings, architecture: str) -> None:
        """Whether the terms in use make sense for a network with one head.

        Raises:
            UserError: one of them compares two.
        """
        if settings.lambda_kl_target > 0:
            given = f"--lambda-kl-target {settings.lambda_kl_target:g}"
            raise UserError(
                f"{given}: memory regularisation compares two heads, but --network {architecture} has one; "
                "give 0, or use --network deeplab_two_head"
            )

    def build_steps(self) -> list[Step]:
        """The generator's step, then the discriminators' when the adversarial weights are positive."""
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
                for name, discriminator in self._named_discriminators()
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
            rates |= dict.fromkeys(self.discriminator_names, rate)
        return rates

    def method_modules(self) -> dict[str, nn.Module]:
        """Class weights and, where they are trained, the discriminators."""
        modules = super().method_modules()
        if self.settings.adversarial:
            modules |= dict(self._named_discriminators())
        return modules

    def _named_discriminators(self) -> Iterator[tuple[str, MultiScaleDiscriminator]]:
        return zip(self.discriminator_names, self.discriminators, strict=True)


def _of_heads(auxiliary: Tensor | None, main: Tensor) -> dict[str, Tensor]:
    """Logits by the names of the heads."""
    return {"main": main} if auxiliary is None else {"aux": auxiliary, "main": main}
