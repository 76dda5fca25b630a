"""RIPU's evaluation against the reference: flip average of upsampled logits, label maps, scores, colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, load_json, load_npz

from trainers.inference import Pass, fuse, fused_probability
from trainers.protocols import protocol_named
from utils.class_spaces import IGNORE_LABEL, merge_table
from utils.metrics import ConfusionMatrix, scores

FILES = ("evaluation.npz", "evaluation.json")
CASES = cases("ripu", FILES[0], "prob0")
PROTOCOL = protocol_named("ripu-cityscapes")


def images(recipe: dict[str, Any]) -> Iterator[tuple[np.ndarray, list[Pass]]]:
    """Label (H, W) and both passes of each image, as the README draws them."""
    rng = np.random.default_rng(recipe["seed"])
    num_classes = recipe["num_classes"]
    for _ in range(recipe["images"]):
        label = rng.integers(0, recipe.get("label_classes") or num_classes, (1, recipe["H"], recipe["W"]))
        label[rng.random(label.shape) < 0.15] = IGNORE_LABEL
        low = (rng.standard_normal((2, num_classes, *recipe["low"])) * 2).astype(np.float32)
        straight, mirrored = torch.from_numpy(low).split(1)
        yield label[0].astype(np.uint8), [Pass(straight), Pass(mirrored, flipped=True)]


@pytest.mark.parametrize("case", CASES)
def test_probabilities_and_label_maps_agree(case: str) -> None:
    recipe, archive = load_json("ripu", FILES[1])[case], load_npz("ripu", FILES[0])
    size = (recipe["W"], recipe["H"])
    for number, (_, passes) in enumerate(images(recipe)):
        if f"{case}/prob{number}" in archive:
            mean = fused_probability(passes, size, upsampled=PROTOCOL.upsampled)[0] / PROTOCOL.passes
            np.testing.assert_allclose(mean.numpy(), archive[f"{case}/prob{number}"], rtol=0, atol=1e-6)
        label, _ = fuse(passes, size, upsampled=PROTOCOL.upsampled)
        np.testing.assert_array_equal(label[0].numpy(), archive[f"{case}/pred{number}"])


@pytest.mark.parametrize("case", CASES)
def test_scores_agree_with_absent_classes_as_zero(case: str) -> None:
    recipe = load_json("ripu", FILES[1])[case]
    matrix = ConfusionMatrix(recipe["num_classes"])
    for truth, passes in images(recipe):
        label, _ = fuse(passes, (recipe["W"], recipe["H"]), upsampled=PROTOCOL.upsampled)
        matrix.update(label[0], torch.from_numpy(truth))
    counts = matrix.counts
    right, labelled = counts.diagonal(), counts.sum(1)
    assert right.tolist() == recipe["intersection"]
    assert labelled.tolist() == recipe["target"]
    assert (labelled + counts.sum(0) - right).tolist() == recipe["union"]
    found = scores(counts, absent=PROTOCOL.absent)
    np.testing.assert_allclose(found.iou / 100, recipe["iou"], rtol=1e-6)
    assert found.miou / 100 == pytest.approx(recipe["mIoU"], rel=1e-6)
    recall = np.nan_to_num(found.class_accuracy)  # of an absent class: 0, as its IoU
    assert recall.mean() / 100 == pytest.approx(recipe["mAcc"], rel=1e-6)
    assert found.accuracy / 100 == pytest.approx(recipe["allAcc"], rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_sixteen_classes_have_the_colours_of_their_names(case: str) -> None:
    recipe = load_json("ripu", FILES[1])[case]
    ids = merge_table("synthia16", "cityscapes19")[: recipe["num_classes"]].tolist()
    assert recipe.get("color_ids", ids) == ids
