"""One iteration of self-training in the released order, a backward for every loss, against one for their sum.

The plain way is that of the authors' loops: source images forward, cross entropy backward, feature distance
backward, then mixed images forward, cross entropy backward and, for DIDA, instance loss backward, all through
graphs that are kept for the next one. It uses the same losses and the same network as ours, which has one
backbone pass for both sets of images, and one backward. Dropout is off, as both ways would draw differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.drawn import CLASSES, drawn_batches, drawn_self_training
from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from losses.self_training import pixel_accuracy, pixel_cross_entropy
from networks.spec import NetworkSpec
from trainers.dida import DidaSettings, DidaStep, DidaTrainer
from trainers.padding import neutral_padding
from trainers.self_training import SelfTrainingSettings, SelfTrainingStep, SelfTrainingTrainer, StudentPass
from trainers.steps import Batches, StepOutput, detached
from utils.class_spaces import class_space
from utils.maths import upsample

IMAGES, BLOCK = 2, 32  # labels are squares of so many pixels: some cells of the last stage belong to a thing
COMMON = {
    "optimizer": "adamw",
    "learning_rate": 6e-5,
    "weight_decay": 0.01,
    "pseudo_threshold": 0.055,  # random networks reach it, so that pseudo labels count
    "feature_distance_classes": class_space("cityscapes19").things,
}
ITERATION = 1  # jitters and blurs, and updates no bank
CHECKED = (0, 1)  # iterations; the first one updates the bank
CHECKED_SIDE = 64  # of the images: float64 is slow
CPU_SIDE, GPU_SIDE = 128, 512


class ReleasedOrder(SelfTrainingStep):
    """Back-propagates every loss by itself as soon as it is known; only the last one is left to the loop."""

    def forward(self, batches: Batches, carried: Mapping[str, Tensor], iteration: int) -> StepOutput:
        """The last loss of the iteration, and the terms that ours logs."""
        self.joint = False
        source, target = batches["source"], batches["target"]
        size = tuple(target.image.shape[-2:])
        source_image, target_image = (
            neutral_padding(self.network, source),
            neutral_padding(self.network, target),
        )
        student = self._student({"source": source_image})["source"]
        self.on_source(student, source, iteration)
        terms = self._cross_entropy("source", student, source.label)
        distance = self._feature_distance(student, source, source_image)
        terms["loss/source"].backward(retain_graph=bool(distance))
        for name, (weight, value) in distance.items():
            (weight * value).backward()
            terms[f"loss/{name}"] = value
        taught = self._taught(target_image)
        labels = self.labels_of(taught, target)
        with torch.no_grad():
            mixture = self._mixture(source, source_image, target_image, labels, iteration, target.draws)
        student = self._student({"mixed": mixture.image})["mixed"]
        terms |= self._cross_entropy("mixed", student, mixture.label, mixture.weight)
        last = terms["loss/mixed"]
        for name, (weight, value) in self.further_losses({"mixed": student}, taught, size).items():
            last.backward(retain_graph=True)
            last = weight * value
            terms[f"loss/{name}"] = value
        return StepOutput(last, detached(terms))

    def _cross_entropy(
        self, name: str, student: StudentPass, label: Tensor, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        logits = upsample(student.output.logits, tuple(label.shape[-2:]), align_corners=False)
        return {
            f"loss/{name}": pixel_cross_entropy(logits, label, weight),
            f"accuracy/{name}": pixel_accuracy(logits, label),
        }


class ReleasedDidaOrder(ReleasedOrder, DidaStep):
    """The same with the instance loss."""


class ReleasedTrainer(SelfTrainingTrainer):
    """DAFormer in the released order."""

    def make_step(self) -> SelfTrainingStep:
        """The step with a backward for every loss."""
        return ReleasedOrder(self.network, self.settings, teacher=self.teacher, reference=self.reference)


class ReleasedDidaTrainer(DidaTrainer):
    """DIDA in the released order."""

    def make_step(self) -> DidaStep:
        """The step with a backward for every loss."""
        parts = {"teacher": self.teacher, "reference": self.reference, "bank": self.bank}
        return ReleasedDidaOrder(self.network, self.settings, **parts)


@dataclass(frozen=True, slots=True)
class Method:
    """A method, both ways."""

    name: str
    plain: type[SelfTrainingTrainer]
    ours: type[SelfTrainingTrainer]
    settings: type[SelfTrainingSettings]
    aim: str = ""  # for the note


DAFORMER = Method("DAFormer", ReleasedTrainer, SelfTrainingTrainer, SelfTrainingSettings)
DIDA = Method("DIDA", ReleasedDidaTrainer, DidaTrainer, DidaSettings, "aim 1.3x; ")


def transformer(backbone: str) -> NetworkSpec:
    """The DAFormer network with this Mix Transformer, without dropout."""
    options = {"drop_rate": 0.0, "drop_path_rate": 0.0}
    return NetworkSpec("daformer", backbone, CLASSES, "cityscapes19", options)


def deeplab(backbone: str) -> NetworkSpec:
    """A DeepLab without any BatchNorm: its normalisation is frozen."""
    return NetworkSpec("deeplab_v2", backbone, CLASSES, "cityscapes19", {"norm_style": "frozen"})


def run() -> list[Result]:
    """On the CPU, and with MiT-B5 at the published size on the GPU where there is one."""
    results = [
        _compare(method, spec, CPU_SIDE, torch.device("cpu"))
        for method, spec in (
            (DIDA, transformer("mit_b0")),
            (DAFORMER, transformer("mit_b0")),
            (DAFORMER, deeplab("resnet18")),
        )
    ]
    if torch.cuda.is_available():
        network, device = transformer("mit_b5"), torch.device("cuda")
        results += [_compare(method, network, GPU_SIDE, device) for method in (DIDA, DAFORMER)]
    return results


def _compare(method: Method, spec: NetworkSpec, side: int, device: torch.device) -> Result:
    check(method, spec, device)
    plain, ours = (
        drawn_self_training(kind, spec, _settings(method, side), device)
        for kind in (method.plain, method.ours)
    )
    batches = drawn_batches(IMAGES, side, side, device, block=BLOCK)
    for trainer in (plain, ours):  # optimizer states and gradients are there before memory is measured
        _iterate(trainer, batches)
    peaks = [
        peak_mib(lambda trainer=trainer: _iterate(trainer, batches), device.type) for trainer in (ours, plain)
    ]
    return compare(
        f"{method.name} iteration, {spec.architecture} {spec.backbone}, {device.type}",
        lambda: _iterate(plain, batches),
        lambda: _iterate(ours, batches),
        repeats=3,
        note=f"{IMAGES} + {IMAGES} x {side}x{side}; {method.aim}same gradients and weights; "
        f"peak {peaks[0]:.0f} MiB against {peaks[1]:.0f}",
    )


def check(method: Method, spec: NetworkSpec, device: torch.device, side: int = CHECKED_SIDE) -> None:
    """Both ways give the same losses, gradients, weights and buffers in float64."""
    plain, ours = (
        drawn_self_training(kind, spec, _settings(method, side), device, double=True)
        for kind in (method.plain, method.ours)
    )
    batches = drawn_batches(IMAGES, side, side, device, block=BLOCK)
    for iteration in CHECKED:
        plain.run_iteration(iteration, [batches])
        ours.run_iteration(iteration, [batches])
        terms, expected_terms = ours.meter.read(), plain.meter.read()
        assert expected_terms.keys() <= terms.keys()
        for name, expected in expected_terms.items():
            torch.testing.assert_close(terms[name], expected, rtol=1e-9, atol=1e-12, msg=name)
        gradients = zip(ours.network.named_parameters(), plain.network.parameters(), strict=True)
        for (name, parameter), expected in gradients:
            if parameter.requires_grad:
                _assert_close(name, parameter.grad, expected.grad)
    for name, expected in plain.network.state_dict().items():
        _assert_close(name, ours.network.state_dict()[name], expected)


def _assert_close(name: str, found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 * max(largest, 1e-6), msg=name)


def _settings(method: Method, side: int) -> SelfTrainingSettings:
    return method.settings(**COMMON, ignore_top=side // 32, ignore_bottom=side // 4)


def _iterate(trainer: SelfTrainingTrainer, batches: Batches) -> None:
    trainer.run_iteration(ITERATION, [batches])
    if trainer.world.device.type == "cuda":
        torch.cuda.synchronize()
