"""A network whose features are colours, and samples with chosen classes, for tests of filling a bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_loaders.samples import Sample
from networks.spec import NetworkSpec, SegmentationOutput
from utils.class_spaces import class_space

SPACE = class_space("idd7")
SIZE = (12, 16)  # H, W


class Pooled(nn.Module):
    """Features are the colours at stride 4; batch norm and dropout show whether it is in eval mode."""

    feature_channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.spec = NetworkSpec("pooled", "none", SPACE.num_classes, SPACE.name)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> SegmentationOutput:
        """RGB images in, colours out."""
        features = self.dropout(self.norm(F.avg_pool2d(images.float(), 4) / 255))
        return SegmentationOutput(logits=features, features=features)


class Striped:
    """Images of noise whose rows show the given classes, and some ignored pixels; 5 of them."""

    def __init__(self, classes: Sequence[int], *, rare: int | None = None) -> None:
        """`rare` is shown in one draw of ten only."""
        self.classes = classes
        self.rare = rare

    def __len__(self) -> int:
        return 5

    def sample(self, index: int, generator: np.random.Generator) -> Sample:
        """One draw."""
        image = torch.from_numpy(generator.integers(0, 256, (3, *SIZE), dtype=np.uint8))
        shown = generator.permutation(self.classes)
        if self.rare is not None and generator.random() > 0.1:
            shown = shown[shown != self.rare]
        label = torch.from_numpy(shown[np.arange(SIZE[0]) % len(shown)].astype(np.uint8))
        label = label[:, None].repeat(1, SIZE[1])
        label[:, -3:] = 255
        return Sample(image, label, f"{index}.png", SIZE)
