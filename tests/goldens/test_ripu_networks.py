"""RIPU's networks against the reference: state-dict manifests, networks.npz and networks.json (float32)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import ripu_networks
import torch
from golden_files import cases, load_json, load_npz
from torch import Tensor

from networks.published import identify
from utils.maths import upsample

BACKBONE = "state_dict_feature_extractor.json"
HEADS = {
    f"state_dict_classifier_{head}_c{num_classes}.json": (f"deeplab_{head}", num_classes)
    for head in ("v2", "v3plus")
    for num_classes in (19, 16)
}
TOLERANCE = {"low": 1e-4, "out": 1e-3, "logits": 1e-3, "logits_full": 1e-3}  # absolute


@pytest.fixture(scope="module", autouse=True)
def _free_weights() -> Iterator[None]:
    yield
    ripu_networks.forget_weights()


@pytest.mark.parametrize("manifest", sorted(HEADS))
def test_state_dict_names_shapes_and_order_are_the_published_ones(manifest: str) -> None:
    parts = ripu_networks.published_shapes(ripu_networks.empty_network(*HEADS[manifest]))
    for part, name in (("feature_extractor", BACKBONE), ("classifier", manifest)):
        assert list(parts[part].items()) == list(load_json("ripu", name).items())


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("manifest", sorted(HEADS))
def test_published_checkpoint_is_recognised_by_its_keys(manifest: str, prefix: str) -> None:
    parts = {"feature_extractor": load_json("ripu", BACKBONE), "classifier": load_json("ripu", manifest)}
    content: dict[str, Any] = {
        part: {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        for part, shapes in parts.items()
    }
    content |= {"iteration": 40_000, "optimizer_fea": {"state": {}}, "optimizer_cls": {"state": {}}}
    spec, state = identify(content)
    architecture, num_classes = HEADS[manifest]
    assert (spec.architecture, spec.backbone, spec.num_classes) == (architecture, "resnet101", num_classes)
    assert spec.class_space == {19: "cityscapes19", 16: "synthia16"}[num_classes]
    assert spec.options == {"norm_style": "frozen"}
    assert set(state) == set(ripu_networks.empty_network(architecture, num_classes).state_dict())


@pytest.mark.parametrize("case", cases("ripu", "networks.npz", "logits"))
def test_forward_gives_the_reference_maps(case: str) -> None:
    recipe = load_json("ripu", "networks.json")[case]
    shape = (recipe["batch"], 3, recipe["H"], recipe["W"])
    noise = np.random.default_rng(recipe["seed"]).standard_normal(shape)
    x = torch.from_numpy(noise.astype(np.float32))
    if "input_sum" in recipe:
        assert x.double().sum().item() == pytest.approx(recipe["input_sum"], abs=1e-6)
    maps = forward(ripu_networks.ARCHITECTURES[recipe["model"]], recipe["num_classes"], x)
    for name in ("low", "out", "logits"):
        assert list(maps[name].shape) == recipe.get(f"{name}_shape", list(maps[name].shape))
        mean = recipe.get(f"{name}_absmean")
        assert mean is None or maps[name].double().abs().mean().item() == pytest.approx(mean, rel=1e-5)
    maps["low"] = maps["low"][:, ::16, ::2, ::2]
    maps["out"] = maps["out"][:, ::64]
    maps["logits_full"] = upsample(maps["logits"], x.shape[2:])[:, :, ::4, ::4]
    stored = {
        key.rsplit("/", 1)[1]: value
        for key, value in load_npz("ripu", "networks.npz").items()
        if re.fullmatch(rf"{re.escape(case)}/[^/]+", key)
    }
    assert stored.keys() <= maps.keys(), "a field that nothing compares"
    for name, expected in stored.items():
        np.testing.assert_allclose(maps[name].numpy(), expected, rtol=0, atol=TOLERANCE[name], err_msg=name)


@torch.no_grad()
def forward(architecture: str, num_classes: int, x: Tensor) -> dict[str, Tensor]:
    """Stage outputs and logits of one forward of a golden network."""
    network = ripu_networks.golden_network(architecture, num_classes)
    stages = ripu_networks.StageMaps(network)
    logits = network.forward_normalized(x).logits
    return {"low": stages.maps["layer1"], "out": stages.maps["layer4"], "logits": logits}
