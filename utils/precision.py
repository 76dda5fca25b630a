"""Autocast type of a run, and the switches of torch's backends."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from utils.errors import UserError

logger = logging.getLogger(__name__)

PrecisionName = Literal["fp32", "bf16", "fp16"]
_AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """What matrix products and convolutions are computed in; weights and optimizer state stay as they are.

    With "fp32" nothing is cast, so that networks in float64 stay in float64.
    """

    name: PrecisionName
    device_type: str = "cpu"

    def autocast(self) -> AbstractContextManager[None]:
        """Around a forward pass and its losses."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self.device_type, dtype=_AUTOCAST_TYPES[self.name])

    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss against underflow; does nothing except for fp16."""
        return torch.amp.GradScaler(self.device_type, enabled=self.name == "fp16")


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The precision named by --precision on this device.

    Args:
        name: "auto", "fp32", "bf16" or "fp16"; "auto" is bf16 on a GPU that computes in it, else fp32.

    Raises:
        UserError: an unknown name, fp16 without a GPU, or bf16 on a GPU without it.
    """
    if name not in ("auto", *get_args(PrecisionName)):
        raise UserError(f"--precision {name} is unknown: use auto, {', '.join(get_args(PrecisionName))}.")
    on_gpu = device.type == "cuda"
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return Precision("bf16" if has_bf16 else "fp32", device.type)
    if name == "fp16" and not on_gpu:
        raise UserError("--precision fp16 needs a GPU: use fp32, or bf16 to try mixed precision on the CPU.")
    if name == "bf16" and on_gpu and not has_bf16:
        gpu = torch.cuda.get_device_name(device)
        raise UserError(f"--precision bf16: {gpu} does not compute in bfloat16; use fp16 or fp32.")
    return Precision(name, device.type)


def configure_backends(
    *, device: torch.device, tf32: bool, deterministic: bool, cudnn_benchmark: bool
) -> None:
    """Sets how torch computes in this process, before the first CUDA operation.

    Args:
        tf32: float32 products on a GPU may round their factors to 10 bits of mantissa.
        deterministic: same bits on every run with the same library versions and GPU model; operations that
            cannot do that raise, and cuDNN's search for the fastest kernels stays off.
        cudnn_benchmark: search the fastest kernel for every input size; pays off when sizes repeat.
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.backends.cudnn.allow_tf32 = tf32
    if deterministic and cudnn_benchmark:
        logger.warning("deterministic mode switches the search for the fastest cuDNN kernels off")
    torch.backends.cudnn.benchmark = cudnn_benchmark and not deterministic
    torch.backends.cudnn.deterministic = deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(deterministic)


@contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, float32 products on a GPU keep all bits, whatever `configure_backends` chose.

    The scores that choose regions rank pixels by differences that TensorFloat-32 would round away.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
