"""RIPU's losses with gradients: written out with a dense kernel and gathered entries, against ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, compare
from losses.consistency import local_consistency
from losses.negative import negative_learning

SHAPE = (1, 19, 640, 1280)  # one image at the published size of the target
BLOCK = 40  # pixels; the boundaries of such squares are a tenth of the image
THRESHOLD = 0.05
EPSILON = 1e-6


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [result for device in devices for result in _compare_on(device)]


def _compare_on(device: str) -> list[Result]:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(SHAPE, generator=generator)).to(device).requires_grad_()
    blocks = torch.randint(0, SHAPE[1], (SHAPE[0], SHAPE[2] // BLOCK, SHAPE[3] // BLOCK), generator=generator)
    labels = blocks.repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2).to(device)

    def consistency() -> Tensor:
        return local_consistency(logits, labels)

    def negative() -> Tensor:
        return negative_learning(logits, threshold=THRESHOLD)

    pairs = {
        "local consistency": (lambda: _plain_consistency(logits, labels), consistency),
        "negative learning": (lambda: _plain_negative(logits), negative),
    }
    return [
        _compare_losses(f"{name}, {device}", logits, plain, ours) for name, (plain, ours) in pairs.items()
    ]


def _compare_losses(
    name: str, logits: Tensor, plain: Callable[[], Tensor], ours: Callable[[], Tensor]
) -> Result:
    def with_gradient(loss: Callable[[], Tensor]) -> float:
        value = loss()
        torch.autograd.grad(value, logits)
        return float(value.detach())  # read back, so that a GPU's work is timed

    torch.testing.assert_close(with_gradient(ours), with_gradient(plain), rtol=1e-4, atol=0)
    note = f"{SHAPE}, with gradients"
    return compare(name, lambda: with_gradient(plain), lambda: with_gradient(ours), note=note)


def _plain_consistency(logits: Tensor, labels: Tensor) -> Tensor:
    classes = logits.shape[1]
    laplacian = -torch.ones(1, 1, 3, 3, device=logits.device)
    laplacian[..., 1, 1] = 8
    boundary = (F.conv2d(labels[:, None].float(), laplacian, padding=1)[:, 0] != 0) & (labels != 255)
    probability = F.softmax(logits, dim=1)
    kernel = torch.full((classes, 1, 3, 3), 1 / 9, device=logits.device)
    mean = F.conv2d(F.pad(probability, (1, 1, 1, 1), "replicate"), kernel, groups=classes)
    return (probability - mean).abs().sum(1)[boundary].mean()


def _plain_negative(logits: Tensor) -> Tensor:
    probability = F.softmax(logits, dim=1)
    return -torch.log(1 - probability[probability < THRESHOLD] + EPSILON).mean()
