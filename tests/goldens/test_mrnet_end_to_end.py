"""The authors' evaluation script at full size, one image per preset.

Each preset runs the whole ResNet-101 network once on one core, which takes about half a minute.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import golden_files
import numpy as np
import pytest
import torch

import networks
from networks.spec import NetworkSpec
from trainers.inference import Prediction, Predictor, evaluation_mode, fused_probability
from trainers.protocols import Protocol, protocol_named

PROTOCOL_OF_PRESET = {"robot": "mrnet-robotcar"}  # others are called as ours, without "mrnet-"
IMAGE_STRIDE, LABEL_STRIDE, PROBABILITY_STRIDE = 64, 8, 32


def _presets() -> list[str]:
    asked = os.environ.get("GOLDENS")
    folder = (Path(asked) if asked else golden_files.DEFAULT_FOLDER) / "mrnet"
    found = sorted(path.stem.removeprefix("end_to_end_") for path in folder.glob("end_to_end_*.npz"))
    return found or ["missing-goldens"]


def _image(height: int, width: int, seed: int) -> np.ndarray:
    """The README's picture of 15 waves: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(5):
            fx, fy, phase = rng.uniform(1, 18), rng.uniform(1, 14), rng.uniform(0, 6.28)
            image[..., channel] += np.sin(6.28 * (fx * x + fy * y) + phase)
    return ((image - image.min()) / (image.max() - image.min()) * 255).astype(np.uint8)


def _network(num_classes: int) -> torch.nn.Module:
    """The published architecture at golden weights."""
    space = {19: "cityscapes19", 9: "robotcar9"}[num_classes]
    spec = NetworkSpec(
        "deeplab_two_head", "resnet101_caffe", num_classes, space, {"norm_style": "gn", "use_se": True}
    )
    network = networks.build(spec)
    shapes = golden_files.load_json("mrnet", f"state_dict_deeplab_se_gn_{num_classes}.json")
    network.load_state_dict(golden_files.golden_state(shapes))
    return network


@dataclass(frozen=True)
class Case:
    """A preset's stored arrays and our prediction for its image."""

    stored: dict[str, np.ndarray]
    image: np.ndarray
    protocol: Protocol
    prediction: Prediction


@pytest.fixture(scope="module", params=_presets())
def case(request: pytest.FixtureRequest) -> Case:
    """One run of the full-size network per preset, shared by the tests of this file."""
    stored = golden_files.load_npz("mrnet", f"end_to_end_{request.param}.npz")
    protocol = protocol_named(PROTOCOL_OF_PRESET.get(request.param, f"mrnet-{request.param}"))
    height, width = (IMAGE_STRIDE * side for side in stored["image_strided"].shape[:2])
    image = _image(height, width, int(stored["seed"]))
    network = _network(stored["fused_prob_sum_strided"].shape[2])
    with evaluation_mode(network):
        prediction = Predictor(network, protocol, device=torch.device("cpu")).predict(image)
    del network
    return Case(stored, image, protocol, prediction)


def test_image_is_that_of_the_recipe(case: Case) -> None:
    assert int(case.image.astype(np.int64).sum()) == int(case.stored["image_sum"])
    np.testing.assert_array_equal(case.image[::IMAGE_STRIDE, ::IMAGE_STRIDE], case.stored["image_strided"])


def test_summed_probabilities_agree(case: Case) -> None:
    height, width = case.prediction.label.shape
    total = fused_probability(case.prediction.passes, (width, height))[0]
    ours = total[:, ::PROBABILITY_STRIDE, ::PROBABILITY_STRIDE].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, case.stored["fused_prob_sum_strided"], atol=1e-3)


def test_labels_agree_wherever_the_margin_decides(case: Case) -> None:
    ours = case.prediction.label.numpy()[::LABEL_STRIDE, ::LABEL_STRIDE]
    decided = case.stored["margin_strided"] > 2e-3
    np.testing.assert_array_equal(ours[decided], case.stored["labels_strided"][decided])


def test_class_counts_agree(case: Case) -> None:
    expected = case.stored["class_counts"]
    ours = np.bincount(case.prediction.label.numpy().ravel(), minlength=len(expected))
    assert np.abs(ours - expected).max() <= 1e-3 * expected.sum()
