"""Classification heads of the DeepLab family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from networks.spec import HeadOutput
from utils import distributed
from utils.errors import UserError
from utils.maths import upsample

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

    def forward(self, x: Tensor) -> HeadOutput:
        """(N, in_channels, h, w) -> logits and features, (N, num_classes or bottleneck_channels, h, w)."""
        features = self.bottleneck(torch.cat([branch(x) for branch in self.conv2d_list], dim=1))
        return HeadOutput(self.head(features), features)


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

    def forward(self, x: Tensor) -> HeadOutput:
        """(N, in_channels, h, w) -> logits (N, num_classes, h, w); the features are `x` itself."""
        logits = self.conv2d_list[0](x)
        for convolution in self.conv2d_list[1 : self.summed]:
            logits = logits + convolution(x)
        return HeadOutput(logits, x)


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """Settings of an encoder-decoder head.

    drop_rate: share of decoded channels dropped before the classifier. head_channels: of every branch, of
    their fusion and of the decoder. low_channels: that the low-level features are reduced to. dilations: of
    the 3x3 branches, in map pixels.
    """

    drop_rate: float = 0.1
    head_channels: int = 512
    low_channels: int = 48
    dilations: Sequence[int] = (6, 12, 18)


class SeparableConvolution(nn.Module):
    """A 3x3 convolution of every channel alone and a 1x1 convolution across them, each with norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        self.depthwise_bn = nn.BatchNorm2d(in_channels)
        self.pointwise_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pointwise_bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.depthwise_bn(self.depthwise_conv(x)))
        return self.relu(self.pointwise_bn(self.pointwise_conv(x)))


class DecoderHead(nn.Module):
    """DeepLab-V3+: a pyramid of separable convolutions on the last features, refined by low-level ones.

    Source: Chen et al., ECCV 2018, in the form of the authors' released code of RIPU (Xie et al., CVPR 2022),
    whose names the children have.
    """

    def __init__(
        self, in_channels: int, low_channels: int, num_classes: int, options: DecoderOptions
    ) -> None:
        """`low_channels`: of the low-level features as they come in."""
        super().__init__()
        width, reduced = options.head_channels, options.low_channels
        self.parallel_branches = nn.ModuleList(
            [
                _convolution_block(in_channels, width, 1),
                *(SeparableConvolution(in_channels, width, dilation) for dilation in options.dilations),
            ]
        )
        self.global_branch = pooled_branch(in_channels, width)
        joined = width * (len(self.parallel_branches) + 1)
        self.bottleneck = _convolution_block(joined, width, 3)
        self.shortcut = _convolution_block(low_channels, reduced, 1)
        self.decoder = nn.Sequential(
            SeparableConvolution(width + reduced, width),
            SeparableConvolution(width, width),
            nn.Dropout2d(options.drop_rate),
            nn.Conv2d(width, num_classes, 1),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")

    def forward(self, x: Tensor, low: Tensor) -> HeadOutput:
        """Logits (N, num_classes, H, W) and features (N, head_channels, H, W).

        Args:
            x: (N, in_channels, h, w) last features.
            low: (N, low_channels, H, W) low-level features.
        """
        check_batch_of_pooled_branch(self.global_branch, x, "deeplab_v3plus", "use --norm-style frozen, ")
        pyramid = [branch(x) for branch in self.parallel_branches]
        pyramid.append(self.global_branch(x).expand(-1, -1, *x.shape[2:]))
        fused = upsample(self.bottleneck(torch.cat(pyramid, dim=1)), low.shape[2:])
        features = self.decoder[:2](torch.cat([fused, self.shortcut(low)], dim=1))
        return HeadOutput(self.decoder[2:](features), features)


def pooled_branch(in_channels: int, out_channels: int) -> nn.Sequential:
    """Mean over the map, 1x1 convolution, norm, ReLU: (N, in_channels, h, w) -> (N, out_channels, 1, 1)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), *_convolution_block(in_channels, out_channels, 1))


def check_batch_of_pooled_branch(
    branch: nn.Sequential, x: Tensor, architecture: str, remedy: str = "use "
) -> None:
    """One image gives a pooled branch one value per channel, whose variance BatchNorm cannot take.

    Args:
        branch: of `pooled_branch`.
        x: its input.
        architecture: for the message.
        remedy: beginning of it, before the remedies that every architecture has.

    Raises:
        UserError: the branch trains on a single image, with statistics of its own process or as the only one.
    """
    norm = branch[2]
    if not branch.training or len(x) > 1 or not isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        return
    alone = distributed.world_size() == 1
    if alone or type(norm) is nn.BatchNorm2d:
        raise UserError(
            f"--network {architecture} with BatchNorm cannot train on a batch of one image, whose mean over "
            f"the map has nothing to be normalised with; {remedy}more images per process and step"
            f"{'' if alone else ', or --batch-norm sync'}"
        )


def _convolution_block(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Convolution at its input's size, norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


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
