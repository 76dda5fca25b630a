"""Class weights that follow how often, and how much, each class was seen (MRNet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils import distributed
from utils.class_spaces import IGNORE_LABEL

SMALL_CLASS_PIXELS = 64 * 64  # per image; the authors do not scale it with the crop
MEMORY = 0.9  # share of the past in the running mean


def class_counts(labels: Tensor, num_classes: int) -> Tensor:
    """Pixels of each class on this rank: (C,) int64, without waiting for a GPU.

    One pass on the CPU. On CUDA a comparison with every class, which takes C bytes a pixel for a moment (20
    MB at the published stage I): unlike bincount it learns no size from the device, and unlike scattered
    additions it does not collide where neighbours have the same class.

    Args:
        labels: uint8 or int64 of any shape; ids outside [0, num_classes) are not counted.
        num_classes: C.
    """
    flat = labels.reshape(-1)
    if flat.is_cuda:
        classes = torch.arange(num_classes, dtype=flat.dtype, device=flat.device)
        return (flat == classes[:, None]).sum(dim=1)
    if flat.dtype.is_signed:
        flat = flat.where(flat >= 0, IGNORE_LABEL)
    return torch.bincount(flat, minlength=num_classes)[:num_classes]


class ClassWeights(nn.Module):
    """Weight of each class in the segmentation losses, renewed from the labels of every global batch.

    With the counts of one batch of N images over all ranks, before any hard-pixel selection:

        small  = max_value where count < 64 * 64 * N, else 1
        seen   = max_value where often_balance and count == 0, else 1
        often  = 0.9 * often + 0.1 * seen
        weight = small * often

    Both buffers are part of snapshots; the module works in the type it is moved to (`.double()`).

    Source: the authors' released code of Zheng & Yang, IJCV 2021 (the paper only cites CBST); the running
    mean and the absolute pixel count are the code's. `tests/goldens/test_mrnet_class_weights.py` pins them.
    """

    often: Tensor
    weight: Tensor

    def __init__(
        self, num_classes: int, *, max_value: float, class_balance: bool, often_balance: bool
    ) -> None:
        """`max_value` is the weight of small and of absent classes; without `class_balance` all are 1."""
        super().__init__()
        self.max_value = max_value
        self.class_balance = class_balance
        self.often_balance = often_balance
        self.register_buffer("often", torch.ones(num_classes))
        self.register_buffer("weight", torch.ones(num_classes))

    @torch.no_grad()
    def update(self, labels: Tensor) -> Tensor:
        """Takes this rank's (N, H, W) labels in and returns the (C,) weights that hold from this batch on."""
        if not self.class_balance:
            return self.weight
        counts = distributed.all_reduce_sum(class_counts(labels, len(self.weight)))
        images = labels.shape[0] * distributed.world_size()
        one = torch.ones_like(self.often)
        small = torch.where(counts < SMALL_CLASS_PIXELS * images, self.max_value * one, one)
        absent = (counts == 0) & self.often_balance
        seen = torch.where(absent, self.max_value * one, one)
        self.often.mul_(MEMORY).add_(seen, alpha=1 - MEMORY)
        self.weight.copy_(small * self.often)
        return self.weight

    def extra_repr(self) -> str:
        """Settings, for the log."""
        return (
            f"max_value={self.max_value}, class_balance={self.class_balance}, "
            f"often_balance={self.often_balance}"
        )
