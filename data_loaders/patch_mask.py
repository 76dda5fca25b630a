"""Masked consistency: square patches of an image blanked at random.

Source: Hoyer et al., CVPR 2023 (MIC): patches of 64 pixels, 70 % of them masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils import seeding

STREAM = "patch_mask"


def patch_mask(
    size: tuple[int, int],
    *,
    block: int = 64,
    ratio: float = 0.7,
    seed: int,
    draws: Sequence[int],
    device: torch.device | str,
) -> Tensor:
    """Which pixels stay, (N, 1, H, W) bool: the image is cut into squares, each blanked as a whole or not.

    Args:
        size: (H, W) of the images.
        block: side of a square in pixels; the last row and column of squares end at the image border.
        ratio: probability in [0, 1] that a square is blanked.
        seed: the seed of the run.
        draws: N draw numbers; the mask of an image depends on its own alone.
        device: where the mask is wanted; the host does not wait for it.
    """
    height, width = size
    cells = -(-height // block), -(-width // block)
    kept = np.stack([seeding.generator(seed, STREAM, draw).random(cells) >= ratio for draw in draws])
    mask = torch.from_numpy(kept)[:, None].to(device, non_blocking=True)
    mask = mask.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
    return mask[:, :, :height, :width]
