"""A few tiny pictures in the Cityscapes format, and networks and snapshots that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import networks
from data_loaders.description import load_description
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec, SegmentationOutput
from utils import snapshots

SIZE = (64, 32)  # W, H
RED_STEP = 10  # the red value of a drawn pixel is its class times this


def draw_cityscapes(root: Path, split: str, count: int, *, labelled: bool = True, seed: int = 0) -> list[str]:
    """Writes images whose red channel tells the class, with label id maps; returns the image names."""
    table = load_description("cityscapes").label_table("cityscapes19")
    raw_ids = np.array([np.flatnonzero(table == index)[0] for index in range(19)], np.uint8)
    rng = np.random.default_rng(seed)
    names = []
    for number in range(count):
        city = ("aachen", "bremen")[number % 2]
        stem = f"{city}_{number:06d}_000019"
        blocks = rng.integers(0, 19, (SIZE[1] // 8, SIZE[0] // 8), np.uint8)
        classes = blocks.repeat(8, 0).repeat(8, 1)
        image = rng.integers(0, 256, (*classes.shape, 3), np.uint8)
        image[..., 0] = classes * RED_STEP
        _write(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", image[..., ::-1])
        if labelled:
            label = raw_ids[classes]
            label[:2] = 0  # unlabelled rows
            _write(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", label)
        names.append(f"{city}/{stem}_leftImg8bit.png")
    return sorted(names)


def _write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


class RedReader(nn.Module):
    """Knows the classes of the drawn images by their red channel; half size, two heads, one unused buffer."""

    has_auxiliary_head = True

    def __init__(self, *, class_space: str = "cityscapes19", wrong_class: int | None = None) -> None:
        super().__init__()
        self.spec = NetworkSpec("red_reader", "none", 19, class_space)
        self.wrong_class = wrong_class  # is taken for its successor
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> SegmentationOutput:
        """Logits that fall with the distance to each class's red value."""
        assert not self.training
        red = images[:, :1, ::2, ::2].to(self.sharpness.dtype) / RED_STEP
        logits = -self.sharpness * (red - torch.arange(19).view(1, 19, 1, 1)).abs()
        if self.wrong_class is not None:
            logits[:, self.wrong_class] = logits[:, self.wrong_class] - 100
            logits[:, self.wrong_class + 1] = logits[:, self.wrong_class + 1] + 12
        return SegmentationOutput(logits, auxiliary_logits=0.5 * logits)


def small_network(
    num_classes: int = 19, class_space: str = "cityscapes19", seed: int = 0
) -> SegmentationNetwork:
    """A quarter-width network with random weights and logits that are far from equal."""
    torch.manual_seed(seed)
    options = {"head_channels": 8, "bottleneck_channels": 8, "dilations": [1, 2]}
    spec = NetworkSpec("deeplab_two_head", "resnet18_quarter", num_classes, class_space, options)
    network = networks.build(spec)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("head.1.weight"):
                parameter.normal_(0, 2)
    return network


def write_snapshot(
    path: Path,
    network: SegmentationNetwork,
    *,
    iteration: int = 7,
    evaluation: Mapping[str, Any] | None = None,
) -> Path:
    """A snapshot in our format with the parts that inference reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "format_version": snapshots.FORMAT_VERSION,
        "network": network.spec.to_dict(),
        "weights": network.state_dict(),
        "teacher": None,
        "iteration": iteration,
        "evaluation": dict(evaluation or {"input_size_target": list(SIZE)}),
    }
    snapshots.save(path, state)
    return path
