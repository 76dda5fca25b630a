"""Pictures of a training batch: image, label, prediction, uncertainty."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from networks.segmentation import SegmentationNetwork
from trainers.steps import Batches
from utils.class_spaces import class_space
from utils.maths import entropy, kl_divergence, log_softmax, upsample
from utils.pictures import colorize, contact_sheet, heat_map


@torch.no_grad()
def training_pictures(network: SegmentationNetwork, batches: Batches) -> dict[str, np.ndarray]:
    """One sheet per stream: the first image of the batch, its label if it has one, prediction and
    uncertainty.

    The uncertainty is KL(main || auxiliary) where the network has two heads, else the entropy, in nats,
    scaled to its
    maximum. The network is left in evaluation mode.

    Returns:
        (H, W, 3) uint8 sheets by name "train/<stream>".
    """
    network.eval()
    palette = class_space(network.spec.class_space).palette
    sheets = {}
    for stream, batch in batches.items():
        image = batch.image[:1]
        prediction, uncertainty = _predict(network, image)
        parts = [("image", image[0].permute(1, 2, 0).cpu().numpy().astype(np.uint8))]
        if batch.label is not None:
            parts.append(("label", colorize(batch.label[0].cpu().numpy(), palette)))
        parts.append(("prediction", colorize(prediction.cpu().numpy(), palette)))
        parts.append(("uncertainty", heat_map(uncertainty.cpu().numpy())))
        titles, pictures = zip(*parts, strict=True)
        sheets[f"train/{stream}"] = contact_sheet([list(pictures)], titles=list(titles))
    return sheets


def _predict(network: SegmentationNetwork, image: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted classes (H, W) uint8 and uncertainty (H, W) of one image (1, 3, H, W)."""
    output = network(image)
    size = tuple(image.shape[-2:])
    main = log_softmax(upsample(output.logits, size))
    if output.auxiliary_logits is None:
        uncertainty = entropy(main)
    else:
        uncertainty = kl_divergence(main, log_softmax(upsample(output.auxiliary_logits, size)))
    return main.argmax(dim=1)[0].to(torch.uint8), uncertainty[0].float()
