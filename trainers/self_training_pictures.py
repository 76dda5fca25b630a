"""Pictures of one iteration of self-training: what the student and the teacher saw and said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from losses.self_training import TeacherLabels
from networks.segmentation import SegmentationNetwork
from utils.class_spaces import class_space
from utils.maths import upsample
from utils.pictures import colorize, contact_sheet, heat_map


@dataclass(frozen=True, slots=True)
class Shown:
    """The first image of a micro-batch, as it went through an iteration.

    images: (3, H, W) RGB in [0, 255] by name: source, target, mixed, masked where there is one. labels:
    (H, W) uint8 by name: source, pseudo, mixed. confidence and weight: (H, W) of the pseudo label, in [0, 1].
    mask: (H, W) bool, True where the source is pasted.
    """

    images: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    confidence: Tensor
    weight: Tensor
    mask: Tensor

    @classmethod
    def first_of(
        cls,
        images: Mapping[str, Tensor],
        source_label: Tensor,
        target_image: Tensor,
        pseudo: TeacherLabels,
        mixed_label: Tensor,
        mask: Tensor,
    ) -> Shown:
        """The first image of each; views, so that nothing is computed unless it is drawn."""
        return cls(
            {name: image[0] for name, image in {**images, "target": target_image}.items()},
            {"source": source_label[0], "pseudo": pseudo.label[0], "mixed": mixed_label[0]},
            pseudo.confidence[0],
            pseudo.weight[0],
            mask[0],
        )


@torch.no_grad()
def self_training_pictures(network: SegmentationNetwork, shown: Shown) -> dict[str, np.ndarray]:
    """(H, W, 3) uint8 sheets by name: the two domains, their mixture, and the masked target where there is
    one.

    The predictions are the student's, in evaluation mode, in which it is left.
    """
    network.eval()
    palette = class_space(network.spec.class_space).palette
    pictures = {name: _pixels(image) for name, image in shown.images.items()}
    labels = {name: colorize(_array(label), palette) for name, label in shown.labels.items()}
    said = {
        name: colorize(_predict(network, image), palette)
        for name, image in shown.images.items()
        if name != "source"
    }
    sheets = {
        "train/domains": {
            "source": pictures["source"],
            "source label": labels["source"],
            "target": pictures["target"],
            "pseudo label": labels["pseudo"],
            "confidence": heat_map(_array(shown.confidence), high=1.0),
            "student on target": said["target"],
        },
        "train/mixture": {
            "mixed": pictures["mixed"],
            "mixed label": labels["mixed"],
            "pasted": heat_map(_array(shown.mask), low=0.0, high=1.0),
            "student on mixed": said["mixed"],
        },
    }
    if "masked" in pictures:
        sheets["train/masked"] = {"masked": pictures["masked"], "student on masked": said["masked"]}
        sheets["train/masked"]["weight"] = heat_map(_array(shown.weight), low=0.0, high=1.0)
    return {name: contact_sheet([list(parts.values())], titles=list(parts)) for name, parts in sheets.items()}


def _array(values: Tensor) -> np.ndarray:
    """On the host, with a type that numpy has."""
    return (values.to(torch.float32) if values.is_floating_point() else values).cpu().numpy()


def _pixels(image: Tensor) -> np.ndarray:
    return image.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def _predict(network: SegmentationNetwork, image: Tensor) -> np.ndarray:
    """Predicted classes (H, W) uint8 of one image (3, H, W)."""
    logits = upsample(network(image[None]).logits, tuple(image.shape[-2:]), align_corners=False)
    return logits.argmax(dim=1)[0].to(torch.uint8).cpu().numpy()
