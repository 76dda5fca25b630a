"""DAFormer: a Mix Transformer and a head that fuses all its levels with context (Hoyer et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.segmentation import Backbone, SegmentationNetwork
from networks.spec import HeadOutput, NetworkSpec, SegmentationOutput
from utils.maths import upsample

CLASSIFIER_STD = 0.01


@dataclass(frozen=True, slots=True)
class DAFormerOptions:
    """Settings of the head.

    drop_rate: share of fused channels dropped before the classifier. head_channels: of every embedded level,
    of every branch and of their fusion. dilations: of the separable 3x3 branches, in map pixels.
    """

    drop_rate: float = 0.1
    head_channels: int = 256
    dilations: Sequence[int] = (6, 12, 18)


class LevelEmbedding(nn.Module):
    """The same linear layer at every pixel of a level."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h, w), channels outermost in memory.

        Dilated depth-wise convolutions with channels innermost take five times as long on a CPU.
        """
        return self.proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class NormalizedConvolution(nn.Module):
    """Convolution without bias at its input's size, BatchNorm, ReLU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel // 2 * dilation
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.bn(self.conv(x)))


class SeparableBranch(nn.Module):
    """A dilated 3x3 convolution of every channel alone, then a 1x1 convolution across them."""

    def __init__(self, in_channels: int, channels: int, dilation: int) -> None:
        super().__init__()
        self.depthwise_conv = NormalizedConvolution(
            in_channels, in_channels, 3, dilation=dilation, groups=in_channels
        )
        self.pointwise_conv = NormalizedConvolution(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))


class ContextFusion(nn.Module):
    """A 1x1 branch and dilated separable branches side by side, fused by a 3x3 convolution."""

    def __init__(self, in_channels: int, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.aspp_modules = nn.ModuleList(
            [
                NormalizedConvolution(in_channels, channels, 1),
                *(SeparableBranch(in_channels, channels, dilation) for dilation in dilations),
            ]
        )
        self.bottleneck = NormalizedConvolution(channels * len(self.aspp_modules), channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bottleneck(torch.cat([branch(x) for branch in self.aspp_modules], dim=1))


class DAFormerHead(nn.Module):
    """Embeds every level, brings all to the first one's size, fuses them with context, classifies.

    Children have the names of the authors' released code. BatchNorm is an ordinary one and always trains.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, options: DAFormerOptions) -> None:
        super().__init__()
        width = options.head_channels
        self.conv_seg = nn.Conv2d(width, num_classes, 1)
        self.dropout = nn.Dropout2d(options.drop_rate)
        self.embed_layers = nn.ModuleList(LevelEmbedding(channels, width) for channels in in_channels)
        self.fuse_layer = ContextFusion(width * len(in_channels), width, options.dilations)
        for layer in self.fuse_layer.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.conv_seg.weight, 0.0, CLASSIFIER_STD)
        nn.init.zeros_(self.conv_seg.bias)

    def forward(self, *levels: Tensor) -> HeadOutput:
        """Logits (N, num_classes, h, w) and features (N, head_channels, h, w) at the first level's size.

        Args:
            levels: (N, in_channels[i], h_i, w_i), finest first.
        """
        size = levels[0].shape[2:]
        embedded = [
            upsample(embed(level), size, align_corners=False)
            for embed, level in zip(self.embed_layers, levels, strict=True)
        ]
        features = self.fuse_layer(torch.cat(embedded, dim=1))
        return HeadOutput(self.conv_seg(self.dropout(features)), features)


class DAFormer(SegmentationNetwork):
    """A hierarchical backbone and the DAFormer head, `decode_head`, whose logits are at stride 4."""

    def __init__(self, spec: NetworkSpec, backbone: Backbone, options: DAFormerOptions) -> None:
        super().__init__(spec, backbone)
        self.decode_head = DAFormerHead(backbone.channels, spec.num_classes, options)
        self.feature_channels = options.head_channels

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        head = self.run_head("decode_head", *features)
        return SegmentationOutput(head.logits, features=head.features)
