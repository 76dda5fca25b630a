"""MADA's DeepLab-V3+ against the reference: network_forward.npz in double and single precision."""

from __future__ import annotations

from collections.abc import Iterator

import mada_networks
import numpy as np
import pytest
import torch
from golden_files import NO_CASES, has_golden, load_npz
from torch import Tensor

from networks.segmentation import SegmentationNetwork
from utils.maths import upsample

ARCHIVE = "network_forward.npz"
TOLERANCE = {  # absolute, of maps; the pooled branch normalises over the images of a batch only
    ("eval", "float64"): 1e-8,
    ("eval", "float32"): 1e-4,
    ("train", "float64"): 1e-6,
    ("train", "float32"): 2e-2,
}
MAPS = {"eval": "logits64", "train": "train_logits64"}  # a field that tells that the mode is there
CLASS_MAPS = {"argmax", "pred_full"}
# The reference's own rounding, and counters that its BatchNorm never moves.
INFORMATIVE = {"seed", "shape", "max_abs_err_fp32", "num_batches_tracked"}
LARGEST_SHARE_OF_OTHER_CLASSES = 0.005  # in single precision


def _modes() -> list[str]:
    if not has_golden("mada", ARCHIVE):
        return ["missing-goldens"]
    archive = load_npz("mada", ARCHIVE)
    return [mode for mode, field in MAPS.items() if field in archive] or [NO_CASES]


@pytest.fixture(scope="module", autouse=True)
def _free_weights() -> Iterator[None]:
    yield
    mada_networks.forget_weights()


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("mode", _modes())
def test_forward_gives_the_reference_maps(mode: str, precision: str) -> None:
    archive = load_npz("mada", ARCHIVE)
    training = mode == "train"
    beginning = "train_" if training else ""
    network = mada_networks.golden_network(archive[MAPS[mode]].shape[1], **mada_networks.NO_DROPOUT)
    dtype = getattr(torch, precision)
    network.to(dtype).train(training)
    seed, shape = int(archive[f"{beginning}seed"]), tuple(archive[f"{beginning}shape"])
    maps = _maps(network, mada_networks.golden_images(seed, shape).to(dtype))
    stored = _stored(archive, training=training)
    assert stored.keys() <= maps.keys() | _statistics(network, stored).keys(), "a field nothing compares"
    for name, expected in stored.items():
        if name in CLASS_MAPS:
            other = (maps[name].numpy() != expected).mean()
            assert other <= (0 if precision == "float64" else LARGEST_SHARE_OF_OTHER_CLASSES), name
            continue
        found = maps[name] if name in maps else _statistics(network, stored)[name]
        np.testing.assert_allclose(
            found.numpy(), expected, rtol=0, atol=TOLERANCE[mode, precision], err_msg=name
        )


def _stored(archive: dict[str, np.ndarray], *, training: bool) -> dict[str, np.ndarray]:
    """The fields of one mode by our names of the maps."""
    fields = {}
    for name, value in archive.items():
        of_training = name.startswith(("train_", "bn_"))
        plain = name.removeprefix("train_")
        if of_training == training and plain not in INFORMATIVE:
            fields[plain.replace("64", "")] = value
    return fields


@torch.no_grad()
def _maps(network: SegmentationNetwork, x: Tensor) -> dict[str, Tensor]:
    """The stored part of every map of one forward."""
    context: list[Tensor] = []
    network.aspp.register_forward_hook(lambda module, inputs, output: context.append(output))
    stages = network.backbone_features(x)
    output = network.decode(stages)
    assert output.features is not None
    full = upsample(output.logits, tuple(x.shape[2:]))
    return {
        "logits": output.logits,
        "feat": output.features[:, ::16, ::2, ::2],
        "aspp": context[0][:, ::8],
        "low": stages[1][:, ::16, ::4, ::4],
        "argmax": output.logits.argmax(1),
        "upsampled_stride": full[:, :, ::8, ::8],
        "pred_full": full.argmax(1),
    }


def _statistics(network: SegmentationNetwork, stored: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The first running statistics of every layer that a `bn_*/<layer>` field names."""
    kinds = {"bn_mean": "running_mean", "bn_var": "running_var"}
    found = {}
    for name, expected in stored.items():
        kind, _, layer = name.partition("/")
        if kind in kinds:
            found[name] = getattr(network.get_submodule(layer), kinds[kind])[: len(expected)]
    return found
