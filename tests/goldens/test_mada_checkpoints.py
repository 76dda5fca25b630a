"""MADA's checkpoint files, new and legacy container, read without running what they hold."""

from __future__ import annotations

from typing import Any

import mada_networks
import numpy as np
import pytest
import torch
from golden_files import golden_path, golden_tensor

from networks.published import identify, layout_of, unwrapped
from utils import snapshots
from utils.errors import UserError

pytestmark = pytest.mark.parametrize("name", mada_networks.checkpoints())


def flat(content: Any, path: str = "") -> dict[str, Any]:
    """Every plain value and tensor of nested dictionaries and lists by its path."""
    children = content.items() if isinstance(content, dict) else enumerate(content)
    leaves: dict[str, Any] = {}
    for key, value in children:
        below = f"{path}/{key}"
        leaves |= flat(value, below) if isinstance(value, dict | list) else {below: value}
    return leaves


def test_the_restricted_reader_finds_all_that_was_written(name: str) -> None:
    path = golden_path("mada", name)
    ours = flat(snapshots.read(path))
    theirs = flat(torch.load(path, map_location="cpu", weights_only=False))
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert type(ours[key]) is type(value), key
        assert torch.equal(ours[key], value) if isinstance(value, torch.Tensor) else ours[key] == value, key


def test_weights_follow_their_recipe(name: str) -> None:
    content = snapshots.read(golden_path("mada", name))
    assert isinstance(content["iter"], int)
    assert 0 <= content["best_iou"] <= 1
    state = content["DeepLab"]["model_state"]
    assert state
    for entry, value in state.items():
        np.testing.assert_array_equal(value.numpy(), golden_tensor(entry, tuple(value.shape)), err_msg=entry)


def test_the_layout_is_recognised_and_a_stub_network_refused(name: str) -> None:
    content = snapshots.read(golden_path("mada", name))
    layout = layout_of(unwrapped(content))
    assert layout is not None
    assert layout.name == "mada"
    with pytest.raises(UserError, match=r"a MADA checkpoint with \d+ classes, but: .* entries are missing"):
        identify(content, class_space="any")


def test_the_whole_network_in_such_a_file_is_identified(name: str) -> None:
    content = snapshots.read(golden_path("mada", name))
    num_classes = len(content["DeepLab"]["model_state"]["decoder.last_conv.8.bias"])
    content["DeepLab"]["model_state"] = mada_networks.empty_network(num_classes).state_dict()
    content["FCDiscriminator"] = {"model_state": {"conv1.weight": torch.empty(1)}}
    spec, state = identify(content, class_space="any")
    assert (spec.architecture, spec.num_classes) == ("mada_v3plus", num_classes)
    assert state.keys() == content["DeepLab"]["model_state"].keys()
