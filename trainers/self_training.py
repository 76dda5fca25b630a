"""DAFormer: online self-training on a mixture of both domains, with an averaged teacher (Hoyer et al.,
CVPR 2022). Its parts can be switched one by one, down to plain DACS (Tranheden et al., WACV 2021), and masked
image consistency added (Hoyer et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from data_loaders.class_mix import choose_classes, class_keys, class_mask, mix, present_values
from data_loaders.patch_mask import patch_mask
from data_loaders.photometric import StrongAugmentation
from data_loaders.samples import Batch
from losses.feature_distance import feature_distance, feature_mask
from losses.self_training import TeacherLabels, pixel_accuracy, pixel_cross_entropy, teacher_labels
from networks.mit import DropPath
from networks.normalization import mixes_images
from networks.segmentation import SegmentationNetwork
from networks.spec import SegmentationOutput
from trainers.base import Trainer
from trainers.optimization import OptimizerSettings
from trainers.padding import neutral_padding
from trainers.reference import BackboneReference
from trainers.self_training_pictures import Shown, self_training_pictures
from trainers.steps import Batches, Step, StepModule, StepOutput, detached
from trainers.teacher import Teacher
from utils import distributed
from utils.maths import upsample

Losses = dict[str, tuple[float, Tensor]]  # weight and unweighted value by name
_DROPPING = (nn.Dropout, nn.Dropout2d, DropPath)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTrainingSettings(OptimizerSettings):
    """What is mixed, how pseudo labels are trusted, and the weights of the terms; DAFormer's by default."""

    seed: int = 0  # of mixing and augmentation
    lambda_seg: float = 0.1  # an auxiliary head's share of every cross entropy, in networks that have one
    pseudo_threshold: float = 0.968  # the share of pixels at least so confident is every pixel's weight
    ignore_top: int = 15  # rows of the target crop without weight
    ignore_bottom: int = 120
    mix: str = "class"  # none: the augmented target alone
    jitter_strength: float = 0.2
    jitter_threshold: float = 0.2  # colours are jittered in a share of 1 - threshold of the iterations
    blur: bool = True  # in half of the iterations
    teacher_augmentation: bool = False  # the teacher sees an augmented copy of the target
    feature_distance_weight: float = 0.005
    feature_distance_classes: tuple[int, ...] = ()
    feature_distance_min_share: float = 0.75
    masked_consistency: float = 0.0  # weight; 0: off
    mask_block: int = 64  # pixels
    mask_ratio: float = 0.7  # of the blocks that are blanked
    compile: bool = False


@dataclass(frozen=True, slots=True)
class StudentPass:
    """What the student makes of some images: the last backbone stage, and the heads' output."""

    deepest: Tensor
    output: SegmentationOutput


@dataclass(frozen=True, slots=True)
class Mixture:
    """Source pixels of some classes on target images: (N, 3, H, W) RGB in [0, 255], and (N, H, W) label,
    weight and mask (source)."""

    image: Tensor
    label: Tensor
    weight: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class Outside:
    """What a step looks at but does not train, kept out of its module tree."""

    teacher: Teacher
    reference: BackboneReference | None  # of the feature distance


class SelfTrainingStep(StepModule):
    """One backward for all losses: source, feature distance, mixture, and what a subclass adds."""

    settings: SelfTrainingSettings

    def __init__(
        self,
        network: SegmentationNetwork,
        settings: SelfTrainingSettings,
        *,
        teacher: Teacher,
        reference: BackboneReference | None,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.outside = Outside(teacher, reference)
        # Batch statistics must not see two domains at once; without any, one pass over all images is faster.
        self.joint = not mixes_images(network)
        compiled = torch.compile if settings.compile else lambda function: function
        self._encode, self._decode = compiled(network.encode), compiled(network.decode)
        augment = {"jitter_strength": settings.jitter_strength, "blur": settings.blur}
        augment |= {"seed": settings.seed, "jitter_threshold": settings.jitter_threshold}
        self.augment = StrongAugmentation(stream="strong_augmentation", **augment)
        self.augment_masked = StrongAugmentation(stream="masked_augmentation", **augment)
        self.augment_teacher = StrongAugmentation(stream="teacher_augmentation", **augment)
        self.shown: Shown | None = None  # first images of the newest micro-batch, for pictures

    @property
    def source_first(self) -> bool:
        """Whether the teacher's labels depend on what `on_source` makes of the source."""
        return False

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """The sum of all weighted losses of one micro-batch."""
        source, target = batches["source"], batches["target"]
        images = {"source": neutral_padding(self.network, source)}
        passes: dict[str, StudentPass] = {}
        if self.source_first:
            passes = self._student(images)
            self.on_source(passes["source"], source, iteration)
        with torch.no_grad(), torch.autocast(source.image.device.type, enabled=False):
            target_image = neutral_padding(self.network, target)
            seen = target_image
            if self.settings.teacher_augmentation:
                seen = self.augment_teacher(target_image, iteration=iteration, draws=target.draws)
        taught = self._taught(seen)
        labels = self.labels_of(taught, target)
        with torch.no_grad(), torch.autocast(source.image.device.type, enabled=False):
            mixture = self._mixture(source, images["source"], target_image, labels, iteration, target.draws)
            images["mixed"] = mixture.image
            if self.settings.masked_consistency > 0:
                images["masked"] = self._masked(target_image, iteration, target.draws)
        passes |= self._student({name: image for name, image in images.items() if name not in passes})
        if not self.source_first:
            self.on_source(passes["source"], source, iteration)
        losses, terms = self._cross_entropies(passes, source, mixture, labels)
        losses |= self._feature_distance(passes["source"], source, images["source"])
        losses |= self.further_losses(passes, taught, tuple(target.image.shape[-2:]))
        self.shown = Shown.first_of(images, source.label, target_image, labels, mixture.label, mixture.mask)
        loss = sum(
            (weight * value for weight, value in losses.values()), passes["mixed"].deepest.new_zeros(())
        )
        terms |= {f"loss/{name}": value for name, (_, value) in losses.items()} | self.further_terms()
        return StepOutput(loss, detached(terms))

    # what a subclass adds

    def on_source(self, source_pass: StudentPass, source: Batch, iteration: int) -> None:
        """Called once the student has seen the source images, before any loss."""

    def labels_of(self, taught: SegmentationOutput, target: Batch) -> TeacherLabels:
        """Pseudo labels of the target images from the teacher's output."""
        settings, size = self.settings, tuple(target.image.shape[-2:])
        return teacher_labels(
            upsample(taught.logits, size, align_corners=False),
            threshold=settings.pseudo_threshold,
            ignore_top=settings.ignore_top,
            ignore_bottom=settings.ignore_bottom,
            bonus=self.label_bonus(taught, size),
            content=target.content,
        )

    def label_bonus(self, taught: SegmentationOutput, size: tuple[int, int]) -> Tensor | None:
        """(N, C, H, W) added to the teacher's probabilities before its labels are chosen; None: nothing."""
        return None

    def further_losses(
        self, passes: Mapping[str, StudentPass], taught: SegmentationOutput, size: tuple[int, int]
    ) -> Losses:
        """Losses of the method beyond DAFormer's."""
        return {}

    def further_terms(self) -> dict[str, Tensor]:
        """Scalars to log beside losses and accuracies."""
        return {}

    # the parts

    def _neutral(self, image: Tensor) -> Tensor:
        return self.network.normalize.neutral_color().to(image)

    @torch.no_grad()
    def _taught(self, images: Tensor) -> SegmentationOutput:
        return self.outside.teacher.network(images)

    def _student(self, images: Mapping[str, Tensor]) -> dict[str, StudentPass]:
        """The student on several sets of images; one backbone pass for all where none sees another."""
        if self.joint:
            stages = self._encode(torch.cat(list(images.values())))
            counts = [len(image) for image in images.values()]
            parts = list(zip(*(stage.split(counts) for stage in stages), strict=True))
            return {
                name: StudentPass(part[-1], self._decode(part))
                for name, part in zip(images, parts, strict=True)
            }
        passes = {}
        for name, image in images.items():
            stages = self._encode(image)
            passes[name] = StudentPass(stages[-1], self._decode(stages))
        return passes

    def _mixture(
        self,
        source: Batch,
        source_image: Tensor,
        target_image: Tensor,
        labels: TeacherLabels,
        iteration: int,
        draws: tuple[int, ...],
    ) -> Mixture:
        """ClassMix, then colour jitter and blur of the mixed image."""
        mask = self.source_mask(source)
        image = mix(mask, source_image, target_image)
        return Mixture(
            self.augment(image, iteration=iteration, draws=draws),
            mix(mask, source.label, labels.label),
            mix(mask, torch.ones_like(labels.weight), labels.weight),
            mask,
        )

    def source_mask(self, source: Batch) -> Tensor:
        """(N, H, W) bool, True where the source image is pasted: pixels of half of the classes that occur in
        the global batch."""
        if self.settings.mix == "none":
            return torch.zeros_like(source.label, dtype=torch.bool)
        present = present_values(source.label)
        present = distributed.all_reduce_max(present.to(torch.int32)) > 0
        keys = class_keys(self.settings.seed, source.draws).to(present.device, non_blocking=True)
        return class_mask(source.label, choose_classes(present, keys))

    def _masked(self, target_image: Tensor, iteration: int, draws: tuple[int, ...]) -> Tensor:
        """The augmented target with random blocks blanked."""
        settings = self.settings
        image = self.augment_masked(target_image, iteration=iteration, draws=draws)
        kept = patch_mask(
            tuple(image.shape[-2:]),
            block=settings.mask_block,
            ratio=settings.mask_ratio,
            seed=settings.seed,
            draws=draws,
            device=image.device,
        )
        return torch.where(kept, image, self._neutral(image))

    def _cross_entropies(
        self, passes: Mapping[str, StudentPass], source: Batch, mixture: Mixture, labels: TeacherLabels
    ) -> tuple[Losses, dict[str, Tensor]]:
        """Cross entropy of every pass, of both heads where there are two, and what else is logged."""
        truths = {
            "source": (1.0, source.label, None),
            "mixed": (1.0, mixture.label, mixture.weight),
            "masked": (self.settings.masked_consistency, labels.label, labels.weight),
        }
        losses: Losses = {}
        terms = {"pseudo/confident_share": labels.ratio}
        for name, done in passes.items():
            weight, label, pixel_weight = truths[name]
            size = tuple(label.shape[-2:])
            logits = upsample(done.output.logits, size, align_corners=False)
            losses[name] = (weight, pixel_cross_entropy(logits, label, pixel_weight))
            terms[f"accuracy/{name}"] = pixel_accuracy(logits, label)
            if done.output.auxiliary_logits is not None:
                auxiliary = upsample(done.output.auxiliary_logits, size, align_corners=False)
                value = pixel_cross_entropy(auxiliary, label, pixel_weight)
                losses[f"{name}_aux"] = (weight * self.settings.lambda_seg, value)
        return losses, terms

    def _feature_distance(self, source_pass: StudentPass, source: Batch, images: Tensor) -> Losses:
        """Distance of the student's last stage to the reference's, on things of the source."""
        reference, settings = self.outside.reference, self.settings
        if reference is None:
            return {}
        mask = feature_mask(
            source.label,
            tuple(source_pass.deepest.shape[-2:]),
            classes=settings.feature_distance_classes,
            num_classes=self.network.spec.num_classes,
            min_share=settings.feature_distance_min_share,
        )
        value = feature_distance(source_pass.deepest, reference.features(images), mask)
        return {"feature_distance": (settings.feature_distance_weight, value)}


def _stop_dropping(teacher: nn.Module) -> None:
    """For good: the teacher trains on, as its BatchNorm normalises with the batch, but without dropout."""
    teacher.train()
    for module in teacher.modules():
        if isinstance(module, _DROPPING):
            module.eval()


class SelfTrainingTrainer(Trainer):
    """Labelled source and unlabelled target images; needs the loop's teacher (`ema_decay` above 0).

    Keyword arguments beyond `Trainer`'s: `settings`, and `reference`, the backbone of the feature distance
    (None where its weight is 0).
    """

    method = "daformer"
    settings: SelfTrainingSettings

    def __init__(
        self,
        *,
        network: SegmentationNetwork,
        settings: SelfTrainingSettings,
        reference: BackboneReference | None,
        **loop: object,
    ) -> None:
        assert (reference is None) == (settings.feature_distance_weight == 0), "a reference for its distance"
        self.settings = settings
        self.reference = reference
        super().__init__(network=network, **loop)

    def build_steps(self) -> list[Step]:
        """One step with all losses."""
        assert self.teacher is not None, "self-training needs a teacher"
        _stop_dropping(self.teacher.network)
        if self.settings.compile:
            self.teacher.network.compile()
        self.step = self.make_step()
        optimizer = self.settings.build(self.network)
        return [Step("segmentation", self.step, {"segmentation": optimizer}, self.settings.max_grad_norm)]

    def make_step(self) -> SelfTrainingStep:
        """The step module of the method."""
        return SelfTrainingStep(self.network, self.settings, teacher=self.teacher, reference=self.reference)

    def learning_rates(self, iteration: int) -> dict[str, float]:
        """Rate of the student's backbone at a 0-based iteration."""
        return {"segmentation": self.settings.rate(iteration)}

    def method_modules(self) -> dict[str, nn.Module]:
        """The reference, of which snapshots keep a digest."""
        return {} if self.reference is None else {"reference": self.reference}

    def pictures(self, batches: Batches) -> dict[str, np.ndarray]:
        """Images, labels, pseudo labels with their confidence, and the mixture of the newest iteration."""
        return self_training_pictures(self.network, self.step.shown)
