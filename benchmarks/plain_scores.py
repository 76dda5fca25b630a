"""Selection the plain way, for the timings: one-hot encoding, grouped convolutions, one maximum per pick."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 19
HEIGHT, WIDTH = 1024, 2048
NETWORK_INPUT = (640, 1280)


def drawn_logits(stride: int = 8) -> Tensor:
    """(19, h, w) logits at a network stride whose predictions form blobs of some 16 strides."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, CLASSES, 6, 11, generator=generator) * 4
    size = (NETWORK_INPUT[0] // stride, NETWORK_INPUT[1] // stride)
    smooth = F.interpolate(coarse, size=size, mode="bilinear", align_corners=True)[0]
    return smooth + torch.randn(smooth.shape, generator=generator)


def resized_twice(logits: Tensor, size: tuple[int, int], network_input: tuple[int, int]) -> Tensor:
    """(C, H, W) logits at the size of the image."""
    for to in (network_input, size):
        logits = F.interpolate(logits[None], size=to, mode="bilinear", align_corners=True)[0]
    return logits


def window_counts(planes: Tensor, radius: int) -> Tensor:
    """Window sums of (C, H, W) by a grouped convolution."""
    kernel = torch.ones(len(planes), 1, 2 * radius + 1, 2 * radius + 1)
    return F.conv2d(planes[None], kernel, padding=radius, groups=len(planes))[0]


def region_score(logits: Tensor, radius: int) -> Tensor:
    """Region score of (C, H, W) logits: softmax, one-hot encoding, grouped convolution."""
    probability = torch.softmax(logits, 0)
    entropy = -(probability * torch.log(probability + 1e-6)).sum(0) / math.log(19)
    one_hot = F.one_hot(probability.argmax(0), len(logits)).permute(2, 0, 1).float()
    counts = window_counts(one_hot, radius)
    inside = counts.sum(0)
    share = counts / inside
    impurity = -(share * torch.log(share + 1e-6)).sum(0) / math.log(19)
    return impurity * window_counts(entropy[None], radius)[0] / inside


def greedy_picks(score: Tensor, count: int, radius: int) -> list[list[int]]:
    """One full-image maximum, with two reads by the host, per pick."""
    left = score.clone()
    picks = []
    for _ in range(count):
        values, rows = left.max(0)
        column = int(values.max(0).indices.item())
        row = int(rows[column].item())
        picks.append([row, column])
        left[
            max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1
        ] = -math.inf
    return picks


def weighted_entropy(entropy: np.ndarray, prediction: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Class-weighted entropy, pixel after pixel."""
    result = np.empty_like(entropy)
    for row in range(entropy.shape[0]):
        for column in range(entropy.shape[1]):
            result[row, column] = entropy[row, column] * weight[prediction[row, column]]
    return result
