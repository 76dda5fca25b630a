"""One training pass of the DAFormer network: loss, accuracy, gradients, BatchNorm (train_forward_*.npz)."""

from __future__ import annotations

from dataclasses import dataclass

import dida_networks
import numpy as np
import pytest
import torch
from golden_files import load_npz
from torch import Tensor

from losses.self_training import pixel_accuracy, pixel_cross_entropy
from networks.segmentation import SegmentationNetwork
from utils.class_spaces import IGNORE_LABEL
from utils.maths import upsample

TRAIN = "train_forward_"
LABELS = dida_networks.files(TRAIN)
GRADIENT, BUFFER = "grad16_float64__", "after__"
FLOAT64, FLOAT32 = 1e-6, 2e-3  # relative
MAPS = {"embeddings_sub": 1e-5, "seg_logits_sub": 1e-5}  # absolute, float32
KNOWN = {"seed", "shape", "loss", "acc", "loss_float64", "grad_names", "grad_l2_float64", *MAPS}


@dataclass(frozen=True)
class Pass:
    """The network after one backward, and what the pass gave."""

    network: SegmentationNetwork
    loss: Tensor
    accuracy: Tensor
    maps: dict[str, Tensor]

    def gradient(self, name: str) -> Tensor:
        gradient = self.network.get_parameter(name).grad
        assert gradient is not None, f"{name} got no gradient"
        return gradient


def train_pass(label: str, dtype: torch.dtype) -> Pass:
    archive = load_npz("dida", f"{TRAIN}{label}.npz")
    num_classes = archive["seg_logits_sub"].shape[1]
    count, _, height, width = shape = tuple(archive["shape"])
    rng = np.random.default_rng(int(archive["seed"]))
    x = torch.from_numpy(rng.standard_normal(shape).astype(np.float32))
    labels = rng.integers(0, num_classes, (count, 1, height, width))
    labels[rng.random(labels.shape) < 0.2] = IGNORE_LABEL
    weight = torch.from_numpy(rng.random((count, height, width)).astype(np.float32))
    target = torch.from_numpy(labels[:, 0])
    network = dida_networks.golden_network(
        dida_networks.backbone_of(label), num_classes=num_classes, drop_rate=0.0, drop_path_rate=0.0
    )
    network.to(dtype).train()
    output = network.forward_normalized(x.to(dtype))
    logits = upsample(output.logits, (height, width), align_corners=False)
    features = upsample(output.features[:, ::32], (height, width), align_corners=False)
    loss = pixel_cross_entropy(logits, target, weight.to(dtype))
    loss.backward()
    maps = {"embeddings_sub": features[:, :, ::4, ::4], "seg_logits_sub": logits[:, :, ::4, ::4]}
    return Pass(network, loss.detach(), pixel_accuracy(logits, target), maps)


def compare_gradients(found: Pass, archive: dict[str, np.ndarray], tolerance: float) -> None:
    names = [str(name) for name in archive["grad_names"]]
    assert set(names) == {name for name, _ in found.network.named_parameters()}
    norms = np.array([found.gradient(name).double().norm().item() for name in names])
    np.testing.assert_allclose(norms, archive["grad_l2_float64"], rtol=tolerance, atol=1e-12)
    for field in (field for field in archive if field.startswith(GRADIENT)):
        gradient = found.gradient(field.removeprefix(GRADIENT)).double()
        first = gradient.flatten()[: archive[field].size].numpy()
        largest = gradient.abs().max().item()
        np.testing.assert_allclose(
            first, archive[field], rtol=tolerance, atol=tolerance * largest, err_msg=field
        )


@pytest.mark.parametrize("label", LABELS)
def test_a_pass_in_float64_gives_the_reference_gradients(label: str) -> None:
    archive = load_npz("dida", f"{TRAIN}{label}.npz")
    found = train_pass(label, torch.float64)
    assert found.loss.item() == pytest.approx(float(archive["loss_float64"]), rel=FLOAT64)
    compare_gradients(found, archive, FLOAT64)


@pytest.mark.parametrize("label", LABELS)
def test_a_pass_in_float32_gives_the_reference_pass(label: str) -> None:
    archive = load_npz("dida", f"{TRAIN}{label}.npz")
    found = train_pass(label, torch.float32)
    unknown = {name for name in archive if not name.startswith((GRADIENT, BUFFER))} - KNOWN
    assert not unknown, f"fields that nothing compares: {sorted(unknown)}"
    assert found.loss.item() == pytest.approx(float(archive["loss"]), rel=1e-5)
    assert found.accuracy.item() == pytest.approx(float(archive["acc"]), abs=1e-4)
    compare_gradients(found, archive, FLOAT32)
    state = found.network.state_dict()
    for field in (field for field in archive if field.startswith(BUFFER)):
        buffer = state[field.removeprefix(BUFFER)].numpy()
        np.testing.assert_allclose(buffer, archive[field], rtol=1e-4, atol=1e-5, err_msg=field)
    for name, tolerance in MAPS.items():
        value = found.maps[name].detach().numpy()
        np.testing.assert_allclose(value, archive[name], rtol=0, atol=tolerance, err_msg=name)
