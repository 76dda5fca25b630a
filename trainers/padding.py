"""Images of a batch as a network should see them where they are smaller than the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from data_loaders.samples import Batch
from networks.segmentation import SegmentationNetwork


def neutral_padding(network: SegmentationNetwork, batch: Batch) -> Tensor:
    """(N, 3, H, W) floating RGB in [0, 255], at least float32; padding is what normalises to 0.

    No file holds that colour: it lies between two levels of uint8.
    """
    parameter = next(network.parameters())
    image = batch.image.to(torch.promote_types(parameter.dtype, torch.float32))
    if batch.content is None:
        return image
    height, width = image.shape[-2:]
    content = batch.content.to(image.device, non_blocking=True)
    rows = torch.arange(height, device=image.device) < content[:, :1]  # (N, H)
    columns = torch.arange(width, device=image.device) < content[:, 1:]  # (N, W)
    inside = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(inside, image, network.normalize.neutral_color().to(image))
