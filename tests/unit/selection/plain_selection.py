"""Scores and greedy selection written out plainly: what the fast ones are tested and timed against."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def greedy_picks(
    score: np.ndarray, blocked: np.ndarray | None, count: int, exclusion_radius: int
) -> list[tuple[int, int]]:
    """One full-image maximum per pick: smallest column, then row, on ties; (0, 0) when all is -inf."""
    left = score.copy()
    if blocked is not None:
        left[blocked] = -np.inf
    picks = []
    for _ in range(count):
        row_of_column = left.argmax(0)
        column = int(left.max(0).argmax())
        row = int(row_of_column[column])
        picks.append((row, column))
        top, first = max(row - exclusion_radius, 0), max(column - exclusion_radius, 0)
        left[top : row + exclusion_radius + 1, first : column + exclusion_radius + 1] = -np.inf
    return picks


def squares(picks: list[tuple[int, int]], radius: int, size: tuple[int, int]) -> np.ndarray:
    """Union of the clipped squares, (H, W) bool."""
    union = np.zeros(size, bool)
    for row, column in picks:
        union[max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1] = True
    return union


def window_sums(x: Tensor, radius: int) -> Tensor:
    """Clipped window sums of (C, H, W) by a grouped convolution with ones."""
    kernel = torch.ones(len(x), 1, 2 * radius + 1, 2 * radius + 1, dtype=x.dtype)
    return F.conv2d(x[None], kernel, padding=radius, groups=len(x))[0]


def impurity(prediction: Tensor, num_classes: int, radius: int, dtype: torch.dtype) -> Tensor:
    """Entropy in nats of the classes in each clipped window, (H, W), through a one-hot encoding."""
    one_hot = F.one_hot(prediction.long(), num_classes).permute(2, 0, 1).to(dtype)
    counts = window_sums(one_hot, radius)
    share = counts / counts.sum(0)
    return -(share * torch.log(share + 1e-6)).sum(0)


def resized_twice(logits: Tensor, network_input: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(C, h, w) logits at the network's input size, then at `size`."""
    for to in (network_input, size):
        logits = F.interpolate(logits[None], size=to, mode="bilinear", align_corners=True)[0]
    return logits


def region_maps(
    logits: Tensor, radius: int, class_weight: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, impurity and uncertainty of (C, H, W) logits at the size of the image."""
    probability = torch.softmax(logits, 0)
    entropy = -(probability * torch.log(probability + 1e-6)).sum(0)
    prediction = probability.argmax(0)
    if class_weight is not None:
        weighted = entropy.numpy().astype(np.float64) * class_weight[prediction.numpy()]
        entropy = torch.from_numpy(weighted).to(entropy.dtype)
    inside = window_sums(torch.ones_like(entropy)[None], radius)[0]
    uncertainty = window_sums(entropy[None] / math.log(19), radius)[0] / inside
    purity = impurity(prediction, len(logits), radius, logits.dtype) / math.log(19)
    return purity * uncertainty, purity, uncertainty


def pixel_maps(logits: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Score, impurity and entropy of single pixels, in nats."""
    probability = torch.softmax(logits, 0)
    entropy = -(probability * torch.log(probability + 1e-6)).sum(0)
    around = impurity(probability.argmax(0), len(logits), radius, logits.dtype)
    return around * entropy, around, entropy


def weighted_entropy(entropy: np.ndarray, prediction: np.ndarray, class_weight: np.ndarray) -> np.ndarray:
    """Entropy times the weight of the predicted class, one pixel after the other."""
    weighted = np.empty_like(entropy)
    for row in range(entropy.shape[0]):
        for column in range(entropy.shape[1]):
            product = float(entropy[row, column]) * float(class_weight[prediction[row, column]])
            weighted[row, column] = product
    return weighted
