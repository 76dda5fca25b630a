"""Training iterations at the published sizes on a GPU: images/s and peak memory of each precision.

Stage I: two source and two target images of 1024x512, both discriminators, memory regularisation.
DAFormer and DIDA: two source and two target images of 512x512, MiT-B5, with dropout. Every way is compared
with plain float32. Without a CUDA device there is nothing to measure, and no rows.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks.drawn import CLASSES, drawn_batches, drawn_self_training, drawn_trainer
from benchmarks.harness import Result
from networks.spec import NetworkSpec
from trainers.base import Trainer
from trainers.dida import DidaSettings, DidaTrainer
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
from trainers.self_training import SelfTrainingSettings, SelfTrainingTrainer
from trainers.steps import Batches
from utils.class_spaces import class_space
from utils.precision import Precision, PrecisionName, configure_backends

BACKBONE, IMAGES, HEIGHT, WIDTH = "resnet101_caffe", 2, 512, 1024
WARM_UP, MEASURED = 8, 20  # iterations; compiling and cuDNN's search end in the warm-up
SETTINGS = MemorySettings(  # of launch/recipes/gta5_to_cityscapes_mrnet.args, after its gate has opened
    lambda_kl_target=0.1,
    target_terms_start=0,
    lambda_seg=0.5,
    class_balance=True,
    often_balance=True,
    max_value=7.0,
    only_hard_label=80,
)

SIDE, BLOCK = 512, 32  # of the crops, and of the squares that their labels consist of
MIT_B5 = NetworkSpec("daformer", "mit_b5", CLASSES, "cityscapes19", {})
SELF_TRAINING = {
    "optimizer": "adamw",
    "learning_rate": 6e-5,
    "weight_decay": 0.01,
    "feature_distance_classes": class_space("cityscapes19").things,
}
METHODS: dict[str, tuple[type[SelfTrainingTrainer], SelfTrainingSettings]] = {
    "DAFormer": (SelfTrainingTrainer, SelfTrainingSettings(**SELF_TRAINING)),
    "DIDA": (DidaTrainer, DidaSettings(**SELF_TRAINING)),
}
PUBLISHED = "published DAFormer: 1.44 s and 9.8 GB on an RTX 2080 Ti, for context"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to compute the same iteration."""

    name: str
    precision: PrecisionName = "fp32"
    tf32: bool = False
    channels_last: bool = False
    compiled: bool = False


WAYS = (
    Way("fp32"),
    Way("TF32", tf32=True),
    Way("bf16", "bf16", tf32=True),
    Way("bf16, channels_last", "bf16", tf32=True, channels_last=True),
    Way("bf16, channels_last, compile", "bf16", tf32=True, channels_last=True, compiled=True),
)
SELF_TRAINING_WAYS = (*WAYS[:3], Way("bf16, compile", "bf16", tf32=True, compiled=True))


def run() -> list[Result]:
    """One row per way, `plain` being fp32; no rows, and a line that says so, without a CUDA device."""
    if not torch.cuda.is_available():
        print("training_step: no CUDA device, nothing to measure", file=sys.stderr)
        return []
    device = torch.device("cuda")
    batches = drawn_batches(IMAGES, HEIGHT, WIDTH, device)
    rows = compare_ways("stage I", WAYS, lambda way: _stage_one(way, device), batches)
    batches = drawn_batches(IMAGES, SIDE, SIDE, device, block=BLOCK)
    for method in METHODS:
        name = f"{method} {MIT_B5.backbone}"
        rows += compare_ways(
            name,
            SELF_TRAINING_WAYS,
            lambda way, method=method: self_training(method, MIT_B5, way, device),
            batches,
            note=PUBLISHED,
        )
    return rows


def compare_ways(
    name: str, ways: Sequence[Way], make: Callable[[Way], Trainer], batches: Batches, *, note: str = ""
) -> list[Result]:
    """One row per way of one method; the first way is the plain one.

    Args:
        name: of the method.
        ways: each is measured with a trainer of its own.
        make: the trainer of a way, on the device of `batches`.
        batches: of every iteration.
        note: further text of the rows.
    """
    image = batches["source"].image
    count, (height, width) = len(image), image.shape[-2:]
    place = torch.cuda.get_device_name() if image.is_cuda else "CPU"
    measured = [_measure(way, make, batches, image.device) for way in ways]
    plain_s, _ = measured[0]
    return [
        Result(
            f"{name} iteration, {way.name}",
            plain_s,
            seconds,
            f"{count} + {count} x {width}x{height} on {place}: {2 * count / seconds:.1f} images/s, "
            f"peak {gib:.1f} GiB" + (f"; {note}" if note else ""),
        )
        for way, (seconds, gib) in zip(ways, measured, strict=True)
    ]


def self_training(method: str, spec: NetworkSpec, way: Way, device: torch.device) -> SelfTrainingTrainer:
    """The trainer of a method of METHODS."""
    kind, settings = METHODS[method]
    precision = Precision(way.precision, device.type)
    settings = replace(settings, compile=way.compiled)
    return drawn_self_training(kind, spec, settings, device, precision=precision)


def _stage_one(way: Way, device: torch.device) -> MemoryRegularizedTrainer:
    return drawn_trainer(
        MemoryRegularizedTrainer,
        BACKBONE,
        SETTINGS,
        device,
        precision=Precision(way.precision, device.type),
        channels_last=way.channels_last,
        compiled=way.compiled,
    )


def _measure(
    way: Way, make: Callable[[Way], Trainer], batches: Batches, device: torch.device
) -> tuple[float, float]:
    """Seconds of one iteration, and peak memory of a GPU's tensors in GiB (NaN on a CPU)."""
    torch.compiler.reset()  # what the way before compiled
    gc.collect()
    configure_backends(device=device, tf32=way.tf32, deterministic=False, cudnn_benchmark=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = make(way)
    for iteration in range(WARM_UP):
        trainer.run_iteration(iteration, [batches])
    _wait(device)
    start = time.perf_counter()
    for iteration in range(WARM_UP, WARM_UP + MEASURED):
        trainer.run_iteration(iteration, [batches])
    _wait(device)
    seconds = (time.perf_counter() - start) / MEASURED
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return seconds, peak


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
