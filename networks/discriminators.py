"""Discriminators on softmax maps."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
INITIAL_STD = 0.02


class ConvolutionBlock(nn.Module):
    """A 3x3 convolution with zero padding and, if asked for, a leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, activation: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.leaky_relu(x, LEAKY_SLOPE) if self.activation else x


class ResidualBlock(nn.Module):
    """x + conv(leaky(conv(x))), nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            ConvolutionBlock(channels, channels), ConvolutionBlock(channels, channels, activation=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class MultiScaleDiscriminator(nn.Module):
    """Three least-squares discriminators with separate weights, on the input at scale 1, 1/2 and 1/4.

    Source: Zheng & Yang, IJCAI 2020, as in the authors' released code (dim 32, two strided stages after the
    first, four residual blocks, no norm, zero padding). State-dict names are theirs.
    """

    def __init__(
        self, num_classes: int, *, width: int = 32, num_blocks: int = 4, num_scales: int = 3
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cnns = nn.ModuleList(_one_scale(num_classes, width, num_blocks) for _ in range(num_scales))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, INITIAL_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, probability: Tensor) -> list[Tensor]:
        """One map of realness per scale, (N, 1, h, w) with h about H/8, H/16, H/32; 1 means real (source).

        Args:
            probability: (N, num_classes, H, W), softmax over classes.
        """
        outputs = []
        for scale, cnn in enumerate(self.cnns):
            if scale:
                probability = F.avg_pool2d(probability, 3, stride=2, padding=1, count_include_pad=False)
            outputs.append(cnn(probability))
        return outputs


def _one_scale(num_classes: int, width: int, num_blocks: int) -> nn.Sequential:
    return nn.Sequential(
        ConvolutionBlock(num_classes, width, stride=2),
        ConvolutionBlock(width, width),
        ConvolutionBlock(width, width, stride=2),
        ConvolutionBlock(width, width),
        ConvolutionBlock(width, 2 * width, stride=2),
        *(ResidualBlock(2 * width) for _ in range(num_blocks)),
        nn.Conv2d(2 * width, 1, 1),
    )
