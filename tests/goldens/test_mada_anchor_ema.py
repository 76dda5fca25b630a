"""Anchors that follow a sequence of vectors (anchor_ema_sequence.npz)."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from golden_files import load_npz
from torch import Tensor

from losses.alignment import soft_alignment, updated_anchors

ARCHIVE = "anchor_ema_sequence.npz"
CHANNELS = 256  # of the recipe; the archive keeps some of them
ATOL = 1e-5


def played() -> tuple[dict[str, np.ndarray], list[Tensor], list[Tensor], list[Tensor]]:
    """The archive; losses and distances of every step; anchors before every step and after the last."""
    golden = load_npz("mada", ARCHIVE)
    seed, (number, num_classes) = int(golden["seed"]), golden["final_first8"].shape[:2]
    assert number == golden["V"]
    original = np.random.default_rng(seed).standard_normal((number, num_classes, CHANNELS)).astype(np.float32)
    anchors, losses, distances = [torch.from_numpy(original)], [], []
    for step in range(len(golden["index"])):
        noise = np.random.default_rng(seed + 1 + step).standard_normal((num_classes, CHANNELS))
        vector = noise.astype(np.float32) * np.float32(0.3) + np.float32(0.6) * original[2 * step % number]
        vector[step % num_classes] = 0
        loss, distance = soft_alignment(torch.from_numpy(vector), anchors[-1])
        anchors.append(updated_anchors(anchors[-1], torch.from_numpy(vector), distance))
        losses.append(loss)
        distances.append(distance)
    return golden, losses, distances, anchors


def test_losses_and_nearest_anchors_of_every_step_equal_the_reference() -> None:
    golden, losses, distances, anchors = played()
    np.testing.assert_allclose([loss.item() for loss in losses], golden["loss"], rtol=ATOL)
    assert [distance.argmin().item() for distance in distances] == golden["index"].tolist()
    moved = [
        (after != before).flatten(1).any(1).nonzero().flatten().tolist()
        for before, after in pairwise(anchors)
    ]
    assert moved == [[index] for index in golden["index"].tolist()]


def test_the_anchors_end_where_the_reference_s_do() -> None:
    golden, _, _, anchors = played()
    kept = golden["final_first8"].shape[2]
    np.testing.assert_allclose(anchors[-1][:, :, :kept], golden["final_first8"], rtol=0, atol=ATOL)
    moved = (anchors[-1] - anchors[0]).flatten(1).norm(dim=1)
    np.testing.assert_allclose(moved, golden["final_delta_norm"], rtol=0, atol=ATOL)
    assert str(anchors[-1].numpy().dtype) == golden["final_dtype"]
