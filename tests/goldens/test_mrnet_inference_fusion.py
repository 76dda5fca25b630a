"""Fusion, thresholds and uncertainty maps against the authors' inference scripts, fed with stored logits."""

from __future__ import annotations

from dataclasses import dataclass

import golden_files
import numpy as np
import pytest
import torch
from torch import Tensor

from trainers import inference, labelling
from utils.class_spaces import class_space
from utils.pictures import colorize

ARCHIVE = ("mrnet", "inference_fusion.npz")
NEAR = 1e-5  # the README's margin: closer than this to a tie or to the threshold a label may differ
SYNTHIA_THRESHOLD = 0.9  # the scripts for GTA5 and RobotCar label every pixel
STRIDE = 4  # of the stored probabilities, score maps and colours

CASES = golden_files.cases(*ARCHIVE, "labels")


@dataclass(frozen=True)
class Case:
    """One case's stored arrays and our fusion of its passes."""

    stored: dict[str, np.ndarray]
    threshold: float  # of the script that wrote the labels, as a mean probability; 0 keeps every label
    passes: list[inference.Pass]
    size: tuple[int, int]  # W, H
    label: np.ndarray
    confidence: Tensor
    margin: np.ndarray


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """A case with its passes (odd ones are mirrored) fused to the size of its labels."""
    arrays = golden_files.load_npz(*ARCHIVE)
    stored = {key.rsplit("/", 1)[1]: arrays[key] for key in arrays if key.rsplit("/", 1)[0] == request.param}
    count = sum(key.startswith("pass") and key.endswith("_main") for key in stored)
    passes = [
        inference.Pass(
            torch.from_numpy(stored[f"pass{j}_main"]),
            torch.from_numpy(stored[f"pass{j}_aux"]),
            flipped=j % 2 == 1,
        )
        for j in range(count)
    ]
    height, width = stored["labels"].shape[1:]
    label, confidence = inference.fuse(passes, (width, height))
    top = inference.fused_probability(passes, (width, height)).topk(2, dim=1).values
    margin = (top[:, 0] - top[:, 1]).numpy()
    threshold = SYNTHIA_THRESHOLD if _labels_synthia(request.param) else 0.0
    return Case(stored, threshold, passes, (width, height), label.numpy(), confidence, margin)


def _labels_synthia(case: str) -> bool:
    """Whether the case is the script that labels for SYNTHIA, the only one with a threshold."""
    return "synthia" in case and not case.startswith("eval")


def test_summed_probabilities_and_confidence_agree(case: Case) -> None:
    total = inference.fused_probability(case.passes, case.size)[:, :, ::STRIDE, ::STRIDE].numpy()
    np.testing.assert_allclose(total, case.stored["fused_prob_sum_strided"], rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(case.confidence.numpy(), case.stored["fused_max"], rtol=5e-6)


def test_labels_agree_wherever_they_are_decided(case: Case) -> None:
    expected, score = case.stored["labels"], case.stored["fused_max"]
    count = len(case.passes)
    label = labelling.drop_below(
        torch.from_numpy(case.label), case.confidence, threshold=case.threshold, passes=count
    )
    decided = (case.margin > NEAR) & (np.abs(score - count * case.threshold) > NEAR)
    assert decided.any()
    np.testing.assert_array_equal(label.numpy()[decided], expected[decided])


def test_uncertainty_maps_agree_where_the_scripts_draw_them(case: Case) -> None:
    stored = case.stored
    if "kl_heatmap_normalised" in stored:
        ours = inference.labelling_uncertainty(case.passes).numpy()
        np.testing.assert_allclose(ours, stored["kl_heatmap_normalised"], rtol=1e-4, atol=1e-6)
    if "heatmap_normalised" in stored:
        ours = inference.evaluation_uncertainty(case.passes).numpy()
        np.testing.assert_allclose(ours, stored["heatmap_normalised"], rtol=1e-4, atol=1e-6)
    if "scoremap_normalised_strided" in stored:
        ours = inference.score_map(case.confidence)[:, ::STRIDE, ::STRIDE].numpy()
        np.testing.assert_allclose(ours, stored["scoremap_normalised_strided"], rtol=1e-4, atol=2e-6)


def test_colours_and_file_names_agree_where_stored(case: Case) -> None:
    stored = case.stored
    if "color_rgb_image0" in stored:
        space = class_space("robotcar9" if stored["pass0_main"].shape[1] == 9 else "cityscapes19")
        ours = colorize(stored["labels"][0], space.palette)[::STRIDE, ::STRIDE]
        np.testing.assert_array_equal(ours, stored["color_rgb_image0"])
    names = [str(name) for name in stored.get("files", ())]
    for name in names:  # <name>.png and <stem>_color.png beside each other, in the scripts that label
        if f"{name.removesuffix('.png')}_color.png" in names:
            files = labelling.output_names(name, ["color"])
            assert {str(file) for file in files.values()} <= set(names)
