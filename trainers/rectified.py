"""Rectifying: pseudo-label learning weighted by the agreement of the two heads (Zheng & Yang, IJCV 2021)."""

from __future__ import annotations

from torch import Tensor

from losses.rectified import rectified_losses
from trainers.memory import MemoryRegularizedStep, MemoryRegularizedTrainer, MemorySettings
from utils.errors import UserError


class RectifiedStep(MemoryRegularizedStep):
    """Trusts each pseudo label by the agreement of the heads; never drops easy pixels, as released."""

    def head_losses(
        self, auxiliary: Tensor | None, main: Tensor, labels: Tensor, weight: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Rectified losses of (auxiliary, main)."""
        return rectified_losses(auxiliary, main, labels, weight)


class RectifiedTrainer(MemoryRegularizedTrainer):
    """Fine-tunes on fixed pseudo labels; everything but the segmentation loss is the memory-regularised
    trainer's."""

    step_class = RectifiedStep
    method = "rectified"

    def check_one_head(self, settings: MemorySettings, architecture: str) -> None:
        """Rectifying always compares two heads.

        Raises:
            UserError: the network has one.
        """
        raise UserError(
            "--pseudo-label-loss rectified weighs pixels by the agreement of two heads, but --network "
            f"{architecture} has one; give --pseudo-label-loss plain, or use --network deeplab_two_head"
        )
