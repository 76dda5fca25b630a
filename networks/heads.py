"""Classification heads of the DeepLab family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

NormStyle = Literal["bn", "in", "gn"]
LARGEST_GROUP_COUNT = 32
SQUEEZE = 16  # reduction of the squeeze-and-excitation layer
CLASSIFIER_STD = 0.001  # of the two-head network's classifiers
SUMMED_STD = 0.01  # of the single-head network's convolutions


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """Settings of a pyramid head.

    head_channels: channels of each of the five branches. bottleneck_channels: of their fusion. drop_rate:
    share of fused channels dropped before the classifier. dilations: of the 3x3 branches, in map pixels.
    """

    norm_style: NormStyle = "bn"
    use_se: bool = False
    drop_rate: float = 0.1
    head_channels: int = 256
    bottleneck_channels: int = 512
    dilations: Sequence[int] = (6, 12, 18, 24)


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate in (0, 1) computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // SQUEEZE)
        self.se = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        gate = self.se(x.mean((2, 3)))  # (N, channels)
        return x * gate[:, :, None, None]


class PyramidHead(nn.Module):
    """Atrous pyramid, optional channel attention, 3x3 fusion without activation, dropout, 1x1 classifier.

    Source: Zheng & Yang, IJCAI 2020, as in the authors' released code. Norm layers always train.
    """

    def __init__(self, in_channels: int, num_classes: int, options: HeadOptions) -> None:
        super().__init__()
        width, fused = options.head_channels, options.bottleneck_channels
        branches = [nn.Conv2d(in_channels, width, 1)]
        branches += [nn.Conv2d(in_channels, width, 3, padding=d, dilation=d) for d in options.dilations]
        self.conv2d_list = nn.ModuleList(
            nn.Sequential(branch, norm_layer(options.norm_style, width), nn.ReLU(inplace=True))
            for branch in branches
        )
        joined = width * len(branches)
        fusion = nn.Conv2d(joined, fused, 3, padding=1)
        nn.init.kaiming_normal_(fusion.weight, mode="fan_in", nonlinearity="relu")
        nn.init.zeros_(fusion.bias)
        attention = [SqueezeExcitation(joined)] if options.use_se else []
        self.bottleneck = nn.Sequential(*attention, fusion, norm_layer(options.norm_style, fused))
        classifier = nn.Conv2d(fused, num_classes, 1, bias=False)
        nn.init.normal_(classifier.weight, 0.0, CLASSIFIER_STD)
        self.head = nn.Sequential(nn.Dropout2d(options.drop_rate), classifier)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> logits (N, num_classes, h, w)."""
        pyramid = torch.cat([branch(x) for branch in self.conv2d_list], dim=1)
        return self.head(self.bottleneck(pyramid))


class SummedHead(nn.Module):
    """Dilated 3x3 classifiers whose logits are added (DeepLab-V2).

    The released code builds four and adds only the first two (it returns inside its loop); `summed` says how
    many are added. The others keep their place in the state dict and never train.
    """

    def __init__(self, in_channels: int, num_classes: int, dilations: Sequence[int], summed: int) -> None:
        super().__init__()
        self.summed = summed
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(in_channels, num_classes, 3, padding=d, dilation=d) for d in dilations
        )
        for index, convolution in enumerate(self.conv2d_list):
            nn.init.normal_(convolution.weight, 0.0, SUMMED_STD)
            convolution.requires_grad_(index < summed)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> logits (N, num_classes, h, w)."""
        logits = self.conv2d_list[0](x)
        for convolution in self.conv2d_list[1 : self.summed]:
            logits = logits + convolution(x)
        return logits


def norm_layer(style: NormStyle, channels: int) -> nn.Module:
    """The norm of a head: BatchNorm, InstanceNorm (per image, also in evaluation) or GroupNorm."""
    if style == "bn":
        return nn.BatchNorm2d(channels)
    if style == "in":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.GroupNorm(group_count(channels), channels)


def group_count(channels: int) -> int:
    """32 groups where that divides the channels, else the largest divisor below 32."""
    return next(count for count in range(LARGEST_GROUP_COUNT, 0, -1) if channels % count == 0)
