"""ClassMix: half of the classes of the source images, pasted onto the target images.

The set of classes is that of the global batch: the caller reduces `present_values` over the ranks. Each image
draws its own half of the set from its own generator, so some of the classes drawn may be absent from it.
Nothing here makes the host wait for a GPU.

Source: Olsson et al., WACV 2021 (ClassMix); Tranheden et al., WACV 2021 (DACS). That the set is the batch's,
not the image's, and that 255 is one of its members, follows the code released with DAFormer;
`tests/goldens/test_dida_classmix.py` pins masks and mixtures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils import seeding

LABEL_VALUES = 256  # 0..254 and 255, the ignored label
STREAM = "class_mix"


def present_values(labels: Tensor) -> Tensor:
    """Which label values occur: (256,) bool on the device of (N, H, W) uint8 or int64 labels in [0, 255]."""
    present = torch.zeros(LABEL_VALUES, dtype=torch.bool, device=labels.device)
    # not bincount: it learns its size from the device, and the host would wait for it
    return present.index_fill_(0, labels.reshape(-1).long(), True)


def class_keys(seed: int, draws: Sequence[int]) -> Tensor:
    """One number in [0, 1) per image and label value, (N, 256) float64 on the CPU.

    Args:
        seed: the seed of the run.
        draws: N draw numbers; image and keys belong together on any rank and in any batch.
    """
    keys = [seeding.generator(seed, STREAM, draw).random(LABEL_VALUES) for draw in draws]
    return torch.from_numpy(np.stack(keys))


def choose_classes(present: Tensor, keys: Tensor) -> Tensor:
    """The ceil(n / 2) of n present values with the smallest keys, for each image.

    Args:
        present: (256,) bool, the set to draw from.
        keys: (N, 256) from `class_keys`, on any device.

    Returns:
        (N, 256) bool on the device of `present`; nothing is chosen from an empty set.
    """
    keys = keys.to(present.device, non_blocking=True)  # a blocking copy would wait for the GPU's queue
    order = keys.masked_fill(~present, torch.inf).argsort(dim=1)  # absent values last
    rank = order.argsort(dim=1)
    return rank < (present.sum() + 1) // 2


def class_mask(labels: Tensor, chosen: Tensor) -> Tensor:
    """Where a chosen value lies: (N, H, W) bool, from labels in [0, 255] and (N, 256) `chosen`."""
    return chosen.gather(1, labels.flatten(1).long()).view(labels.shape)


def mix(mask: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """The source where `mask` is set, else the target.

    Args:
        mask: (N, H, W) bool.
        source: (N, 3, H, W) images or (N, H, W) maps.
        target: like `source`; the i-th source goes onto the i-th target.
    """
    return torch.where(mask[:, None] if target.dim() == 4 else mask, source, target)
