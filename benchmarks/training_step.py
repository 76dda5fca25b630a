"""Stage-I iterations at the published size on a GPU: images/s and peak memory of each precision.

Two source and two target images of 1024x512, both discriminators, memory regularisation. Every way is
compared with plain float32. Without a CUDA device there is nothing to measure, and no rows.
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass

import torch

from benchmarks.drawn import drawn_batches, drawn_trainer
from benchmarks.harness import Result
from trainers.memory import MemoryRegularizedTrainer, MemorySettings
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


def run() -> list[Result]:
    """One row per way, `plain` being fp32; no rows, and a line that says so, without a CUDA device."""
    if not torch.cuda.is_available():
        print("training_step: no CUDA device, nothing to measure", file=sys.stderr)
        return []
    measured = {way.name: _measure(way) for way in WAYS}
    plain_s, _ = measured["fp32"]
    note = f"{IMAGES} + {IMAGES} x {WIDTH}x{HEIGHT} on {torch.cuda.get_device_name()}"
    return [
        Result(
            f"stage I iteration, {name}",
            plain_s,
            seconds,
            f"{note}: {2 * IMAGES / seconds:.1f} images/s, peak {gib:.1f} GiB",
        )
        for name, (seconds, gib) in measured.items()
    ]


def _measure(way: Way) -> tuple[float, float]:
    """Seconds of one iteration and peak memory of the tensors in GiB."""
    gc.collect()
    torch.cuda.empty_cache()
    device = torch.device("cuda")
    configure_backends(device=device, tf32=way.tf32, deterministic=False, cudnn_benchmark=True)
    trainer = drawn_trainer(
        MemoryRegularizedTrainer,
        BACKBONE,
        SETTINGS,
        device,
        precision=Precision(way.precision, "cuda"),
        channels_last=way.channels_last,
        compiled=way.compiled,
    )
    batches = drawn_batches(IMAGES, HEIGHT, WIDTH, device)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM_UP):
        trainer.run_iteration(0, [batches])
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(MEASURED):
        trainer.run_iteration(0, [batches])
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / MEASURED, torch.cuda.max_memory_allocated() / 2**30
