"""The segmentation network's optimiser and its learning rates, as all methods without a special one use
them."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer

from networks.segmentation import SegmentationNetwork
from trainers.parameter_groups import segmentation_parameter_groups
from utils.optimizers import build_adam, build_sgd
from utils.schedules import polynomial_under_warm_up, polynomial_with_warm_up


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """Settings of the segmentation network's optimiser."""

    optimizer: str = "sgd"  # MRNet's: Nesterov, repeated updates; sgd-plain: heavy-ball, each once; or adamw
    learning_rate: float = 2.5e-4  # of the backbone
    head_scale: float = 10.0  # learning rate of the heads relative to the backbone's
    momentum: float = 0.9
    weight_decay: float = 5e-4
    num_steps: int = 100_000  # length of the polynomial decay, not of the run
    power: float = 0.9
    warm_up: int = 0  # iterations
    warm_up_schedule: str = "flat"  # rises to the base rate (MRNet); "decaying": scales the decay (DAFormer)
    warm_up_ratio: float = 1e-6  # "decaying": share of the rate at iteration 0
    backbone_norm_decay: bool = True  # False: no weight decay for its LayerNorm and BatchNorm (DAFormer)
    quirks: str = "published"
    fused_optimizer: str = "torch"
    max_grad_norm: float | None = None

    def rate(self, iteration: int) -> float:
        """Learning rate of the backbone at a 0-based iteration."""
        common = {"base": self.learning_rate, "num_steps": self.num_steps, "power": self.power}
        if self.warm_up_schedule == "decaying":
            return polynomial_under_warm_up(
                iteration,
                **common,
                warm_up=self.warm_up,
                ratio=self.warm_up_ratio,
            )
        return polynomial_with_warm_up(iteration, **common, warm_up=self.warm_up)

    def build(self, network: SegmentationNetwork) -> Optimizer:
        """The optimiser of all parameters that train; groups carry their "lr_scale"."""
        repeated = self.quirks if self.optimizer == "sgd" else "fixed"
        groups = segmentation_parameter_groups(
            network, quirks=repeated, norm_decay=self.backbone_norm_decay, head_scale=self.head_scale
        )
        if self.optimizer == "adamw":
            return build_adam(
                groups,
                lr=self.learning_rate,
                betas=(0.9, 0.999),
                weight_decay=self.weight_decay,
                decoupled=True,
                implementation=self.fused_optimizer,
            )
        return build_sgd(
            groups,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.optimizer == "sgd",
            implementation=self.fused_optimizer,
        )
