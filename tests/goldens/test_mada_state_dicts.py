"""Names, shapes and order of MADA's published entries: its manifests."""

from __future__ import annotations

from typing import Any

import mada_networks
import pytest
import torch
from golden_files import load_json

from networks.published import identify

STATE, ORDER = "state_dict_deeplabv3plus_r101.json", "param_order_deeplabv3plus_r101.json"


def test_names_shapes_and_order_are_the_released_ones() -> None:
    ours = mada_networks.shapes(mada_networks.empty_network())
    assert list(ours.items()) == list(load_json("mada", STATE).items())


def test_parameters_come_in_the_released_order() -> None:
    ours = [name for name, _ in mada_networks.empty_network().named_parameters()]
    assert ours == load_json("mada", ORDER)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False], ids=["checkpoint", "state-dict"])
def test_a_published_file_is_recognised_by_its_keys(wrapped: bool, prefix: str) -> None:
    entries = {
        prefix + name: torch.empty(shape, device="meta") for name, shape in load_json("mada", STATE).items()
    }
    checkpoint: dict[str, Any] = {"DeepLab": {"model_state": entries}, "iter": 1000, "best_iou": 0.5}
    spec, state = identify(checkpoint if wrapped else entries)
    assert (spec.architecture, spec.backbone, spec.num_classes) == ("mada_v3plus", "resnet101", 19)
    assert (spec.class_space, dict(spec.options)) == ("cityscapes19", {})
    assert all(state[name.removeprefix(prefix)] is value for name, value in entries.items())
