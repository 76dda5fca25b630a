"""Rectified losses of both heads with gradients: written out with softmaxes per term, against shared ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, compare
from losses.rectified import rectified_losses

SHAPE = (1, 19, 256, 512)  # one image at the published stage-II crop
AUXILIARY_SHARE = 0.5


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(device) for device in devices]


def _written_out(logits: Tensor, other: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    pixel_loss = F.cross_entropy(logits, labels, weight, ignore_index=255, reduction="none")
    probability = F.softmax(other, dim=1)
    variance = F.kl_div(F.log_softmax(logits, dim=1), probability, reduction="none").sum(1)
    return (pixel_loss * torch.exp(-variance)).mean() + variance.mean()


def _compare_on(device: str) -> Result:
    generator = torch.Generator().manual_seed(0)
    auxiliary, main = (torch.randn(SHAPE, generator=generator).to(device).requires_grad_() for _ in range(2))
    labels = torch.randint(0, SHAPE[1], (SHAPE[0], *SHAPE[2:]), generator=generator).to(device)
    weight = torch.rand(SHAPE[1], generator=generator).to(device) + 0.5

    def total(losses: tuple[Tensor, Tensor]) -> float:
        value = losses[1] + AUXILIARY_SHARE * losses[0]
        torch.autograd.grad(value, (auxiliary, main))
        return float(value.detach())

    def plain() -> float:
        heads = ((auxiliary, main), (main, auxiliary))
        return total(tuple(_written_out(*pair, labels, weight) for pair in heads))

    def ours() -> float:
        return total(rectified_losses(auxiliary, main, labels, weight))

    torch.testing.assert_close(ours(), plain(), rtol=1e-5, atol=0)
    return compare(f"rectified losses, {device}", plain, ours, note=f"{SHAPE}, with gradients")
