"""MiT backbones and the DAFormer head: network_forward_*, network_zero_image_* and backbone_forward.npz."""

from __future__ import annotations

import dida_networks
import numpy as np
import pytest
import torch
from golden_files import golden_state, load_npz
from matching_cases import matching_cases
from torch import Tensor

from networks.spec import SegmentationOutput
from utils.maths import upsample

FORWARD, ZERO_IMAGE, BACKBONES = "network_forward_", "network_zero_image_", "backbone_forward.npz"
TOLERANCE, ZERO_IMAGE_TOLERANCE = 2e-5, 1e-10  # absolute
RECIPE = {"seed", "shape"}


def compare(maps: dict[str, Tensor], stored: dict[str, np.ndarray], tolerance: float) -> None:
    """Every stored field against the map of its name."""
    assert maps.keys() >= stored.keys(), "a field that nothing compares"
    for name, expected in stored.items():
        np.testing.assert_allclose(maps[name].numpy(), expected, rtol=0, atol=tolerance, err_msg=name)


def maps_of(stages: list[Tensor], output: SegmentationOutput, size: tuple[int, int]) -> dict[str, Tensor]:
    """The maps of a network_forward archive for images of `size`."""
    features_full = upsample(output.features[:, ::32], size, align_corners=False)
    logits_full = upsample(output.logits, size, align_corners=False)
    return {
        **{f"stage{number}": full[:, ::8] for number, full in enumerate(stages, start=1)},
        "fused_feature": output.features[:, ::16],
        "fused_feature_full": features_full[:, :, ::3, ::3],
        "logits_low": output.logits,
        "logits_full": logits_full[:, :, ::3, ::3],
    }


@pytest.mark.parametrize("label", dida_networks.files(FORWARD))
def test_forward_gives_the_reference_maps(label: str) -> None:
    archive = load_npz("dida", f"{FORWARD}{label}.npz")
    network = dida_networks.golden_network(
        dida_networks.backbone_of(label), num_classes=archive["logits_low"].shape[1]
    )
    x = dida_networks.golden_noise(int(archive["seed"]), tuple(archive["shape"]))
    with torch.no_grad():
        stages = network.backbone_features(x)
        output = network.decode(stages)
    stored = {name: value for name, value in archive.items() if name not in RECIPE}
    assert len(stored) >= 2
    compare(maps_of(stages, output, tuple(x.shape[2:])), stored, TOLERANCE)


@pytest.mark.parametrize("label", dida_networks.files(ZERO_IMAGE))
def test_a_zero_image_shows_the_epsilons(label: str) -> None:
    archive = load_npz("dida", f"{ZERO_IMAGE}{label}.npz")
    backbone, num_classes = dida_networks.backbone_of(label), archive["logits_low"].shape[1]
    network = dida_networks.golden_network(backbone, num_classes=num_classes).double()
    with torch.no_grad():
        stages = network.backbone_features(torch.zeros(tuple(archive["shape"]), dtype=torch.float64))
        maps = {f"stage{number}": full for number, full in enumerate(stages, start=1)}
        maps["logits_low"] = network.decode(stages).logits
    maps["stage1"] = maps["stage1"][:, ::4, ::2, ::2]
    compare(maps, {name: value for name, value in archive.items() if name != "shape"}, ZERO_IMAGE_TOLERANCE)


@pytest.mark.parametrize("backbone", matching_cases("dida", BACKBONES, r"(.+)_stage\d"))
def test_backbone_gives_the_reference_maps(backbone: str) -> None:
    archive = load_npz("dida", BACKBONES)
    network = dida_networks.network(backbone)
    modules = network.backbone
    shapes = {name: list(value.shape) for name, value in modules.state_dict().items()}
    modules.load_state_dict(golden_state(shapes), assign=True)
    x = dida_networks.golden_noise(int(archive["seed"]), tuple(archive["shape"]))
    with torch.no_grad():
        stages = network.eval().backbone_features(x)
    maps = {f"{backbone}_stage{number}": full[:, ::8] for number, full in enumerate(stages, start=1)}
    compare(maps, {name: v for name, v in archive.items() if name.startswith(f"{backbone}_")}, TOLERANCE)
