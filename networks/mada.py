"""MADA's DeepLab-V3+: an encoder-decoder that gives its features as the classifier sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from networks.heads import check_batch_of_pooled_branch, pooled_branch
from networks.normalization import InputNormalization
from networks.segmentation import Backbone, SegmentationNetwork
from networks.spec import HeadOutput, NetworkSpec, SegmentationOutput
from utils.maths import upsample

MULTI_GRID = (1, 2, 4)  # factors of the dilation of a ResNet's last blocks: 2, 4, 8 at output stride 16
CHILD = "backbone"  # below which all of the backbone lies, as in the released files


@dataclass(frozen=True, slots=True)
class MadaOptions:
    """Settings of the pyramid and the decoder.

    drop_rate: share of the decoded values dropped before the classifier, hence from the features.
    inner_drop_rate: of the pyramid's output and between the decoder's convolutions. head_channels: of every
    branch, of their fusion and of the decoder. low_channels: that the low-level features are reduced to.
    dilations: of the 3x3 branches, in map pixels.
    """

    drop_rate: float = 0.1
    inner_drop_rate: float = 0.5
    head_channels: int = 256
    low_channels: int = 48
    dilations: Sequence[int] = (6, 12, 18)


class AtrousBranch(nn.Module):
    """Convolution, BatchNorm, ReLU: 1x1 without a dilation, else 3x3."""

    def __init__(self, in_channels: int, channels: int, dilation: int | None = None) -> None:
        super().__init__()
        if dilation is None:
            self.atrous_conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        else:
            self.atrous_conv = nn.Conv2d(
                in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False
            )
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.atrous_conv(x)))


class MadaPyramid(nn.Module):
    """Parallel atrous convolutions and the global mean of the last features, fused by a 1x1 convolution."""

    def __init__(self, in_channels: int, options: MadaOptions) -> None:
        super().__init__()
        width = options.head_channels
        dilations = (None, *options.dilations)
        self.branch_names = tuple(f"aspp{number}" for number in range(1, len(dilations) + 1))
        for name, dilation in zip(self.branch_names, dilations, strict=True):
            self.add_module(name, AtrousBranch(in_channels, width, dilation))
        self.global_avg_pool = pooled_branch(in_channels, width)
        self.conv1 = nn.Conv2d(width * (len(dilations) + 1), width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(options.inner_drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, head_channels, h, w).

        Raises:
            UserError: one image alone in training, whose pooled values no BatchNorm can normalise.
        """
        check_batch_of_pooled_branch(self.global_avg_pool, x, "mada_v3plus")
        pyramid = [self.get_submodule(name)(x) for name in self.branch_names]
        pyramid.append(self.global_avg_pool(x).expand(-1, -1, *x.shape[2:]))
        return self.dropout(self.relu(self.bn1(self.conv1(torch.cat(pyramid, dim=1)))))


class MadaDecoder(nn.Module):
    """The pyramid's output refined by low-level features in two 3x3 convolutions; a 1x1 classifier."""

    def __init__(self, low_channels: int, num_classes: int, options: MadaOptions) -> None:
        """`low_channels`: of the low-level features as they come in."""
        super().__init__()
        width, reduced = options.head_channels, options.low_channels
        self.conv1 = nn.Conv2d(low_channels, reduced, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(reduced)
        self.relu = nn.ReLU(inplace=True)
        self.last_conv = nn.Sequential(
            nn.Conv2d(width + reduced, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(options.inner_drop_rate),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Dropout(options.drop_rate),
            nn.Conv2d(width, num_classes, 1),
        )

    def forward(self, context: Tensor, low: Tensor) -> HeadOutput:
        """Logits (N, num_classes, H, W) and features (N, head_channels, H, W) after their dropout.

        Args:
            context: (N, head_channels, h, w) output of the pyramid.
            low: (N, low_channels, H, W) low-level features.
        """
        reduced = self.relu(self.bn1(self.conv1(low)))
        features = self.last_conv[:-1](torch.cat([upsample(context, low.shape[2:]), reduced], dim=1))
        return HeadOutput(self.last_conv[-1](features), features)


class MadaV3Plus(SegmentationNetwork):
    """MADA's DeepLab-V3+, logits at stride 4; features, unlike other networks', are after their dropout.

    Source: Ning et al., ICCV 2021, in the form of the authors' released code, whose state-dict names are
    ours. `DeepLabV3Plus` (RIPU) shares the residual backbones, the pooled branch and the wiring. All else
    differs: here full instead of separable convolutions, 256 instead of 512 channels, a 1x1 fusion, dropout
    of single values in three places, output stride 16 with a multi-grid, live BatchNorm, and RGB / 255
    without mean and deviation, whatever the backbone was trained on.

    Where the last stage is no ResNet layer (MobileNetV2) it has no multi-grid.
    """

    low_stage = 1  # of every residual backbone
    backbone_prefix = f"{CHILD}."

    def __init__(self, spec: NetworkSpec, backbone: Backbone, options: MadaOptions) -> None:
        super().__init__(spec, _below_one_child(backbone))
        self.aspp = MadaPyramid(backbone.channels[-1], options)
        self.decoder = MadaDecoder(backbone.channels[self.low_stage], spec.num_classes, options)
        self.feature_channels = options.head_channels
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def decode(self, features: Sequence[Tensor]) -> SegmentationOutput:
        context = self._run_unit(("aspp",), features[-1])
        head = self.run_head("decoder", context, features[self.low_stage])
        return SegmentationOutput(head.logits, features=head.features)


def unit_normalization() -> InputNormalization:
    """RGB / 255."""
    return InputNormalization((0.0, 0.0, 0.0), scale=255.0)


def _below_one_child(backbone: Backbone) -> Backbone:
    """The same backbone with all its modules below `backbone` and with MADA's input."""
    stages = tuple(
        tuple(tuple(f"{CHILD}.{path}" for path in unit) for unit in stage) for stage in backbone.stages
    )
    return Backbone({CHILD: nn.ModuleDict(backbone.modules)}, stages, backbone.channels, unit_normalization)
