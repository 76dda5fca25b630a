"""State-dict manifests: plain segmentors, MiT ImageNet files and DAFormer / DIDA training checkpoints."""

from __future__ import annotations

from typing import Any

import dida_networks
import pytest
import torch
from golden_files import load_json
from json_cases import json_cases

from networks.backbone_weights import load_backbone
from networks.mit import MIT_VARIANTS
from networks.published import Which, identify
from utils import snapshots

SEGMENTORS = {
    "state_dict_segmentor_mitb0.json": "mit_b0",
    "state_dict_segmentor_mitb5.json": "mit_b5",
}
BACKBONES = "state_dict_backbones_mit_b0_b5.json"
CHECKPOINTS = {"state_dict_checkpoint_dida_mitb5.json": "mit_b5"}
PARTS: dict[Which, str] = {"student": "model.", "teacher": "ema_model."}


def empty(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Entries without memory."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


@pytest.fixture(autouse=True)
def _are_here() -> None:
    """Skips or fails before a placeholder is taken for a case."""
    load_json("dida", BACKBONES)


@pytest.mark.parametrize("manifest", sorted(SEGMENTORS))
def test_names_shapes_and_order_are_the_released_ones(manifest: str) -> None:
    state = dida_networks.network(SEGMENTORS[manifest]).state_dict()
    ours = [(name, list(value.shape)) for name, value in state.items()]
    assert ours == list(load_json("dida", manifest).items())


@pytest.mark.parametrize("manifest", sorted(SEGMENTORS))
def test_a_plain_segmentor_is_recognised(manifest: str) -> None:
    spec, state = identify(empty(load_json("dida", manifest)))
    assert (spec.architecture, spec.backbone, spec.num_classes) == ("daformer", SEGMENTORS[manifest], 19)
    assert set(state) == set(load_json("dida", manifest))


@pytest.mark.parametrize("backbone", json_cases("dida", BACKBONES))
def test_backbone_names_and_shapes_are_the_released_ones(backbone: str) -> None:
    state = dida_networks.network(backbone).backbone.state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == load_json("dida", BACKBONES)[
        backbone
    ]
    assert backbone in MIT_VARIANTS


@pytest.mark.parametrize("backbone", json_cases("dida", BACKBONES))
def test_an_imagenet_file_fits_its_backbone(
    backbone: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    shapes = load_json("dida", BACKBONES)[backbone] | {"head.weight": [1000, 512], "head.bias": [1000]}
    (tmp_path / "mit.pth").touch()
    monkeypatch.setattr(snapshots, "read", lambda path: empty(shapes))
    line = load_backbone(dida_networks.network(backbone), str(tmp_path / "mit.pth"))
    assert f"{len(shapes) - 2} entries of a Mix Transformer" in line


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("weights", sorted(PARTS))
@pytest.mark.parametrize("manifest", sorted(CHECKPOINTS))
def test_a_training_checkpoint_gives_the_network_asked_for(
    manifest: str, weights: Which, prefix: str
) -> None:
    shapes = load_json("dida", manifest)
    entries = empty({prefix + name: shape for name, shape in shapes.items()})
    content = {"meta": {"iter": 40_000}, "state_dict": entries, "optimizer": {"state": {}}}
    spec, state = identify(content, weights=weights)
    assert (spec.architecture, spec.backbone, spec.num_classes) == ("daformer", CHECKPOINTS[manifest], 19)
    assert spec.class_space == "cityscapes19"
    assert len(state) * 3 == len(shapes)
    assert all(value is entries[f"{prefix}{PARTS[weights]}{name}"] for name, value in state.items())
