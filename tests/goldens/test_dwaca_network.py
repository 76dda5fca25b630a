"""DWACA's DeepLabV3+ against the reference: state-dict manifests, network.npz (float32, absolute 5e-5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ripu_networks
import torch
from golden_files import NO_CASES, has_golden, load_json, load_npz

from networks.published import identify
from trainers.inference import Pass, fuse, fused_probability
from trainers.protocols import protocol_named
from utils.maths import upsample

ARCHIVE = ("dwaca", "network.npz")
TOLERANCE = 5e-5
# Values of the last stage reach 90, where float32's rounding through 100 layers alone is of that size: the
# network in float64 differs from the stored maps by 4.7e-5.
RELATIVE = {"feat_out": 5e-6}
DISAGREEMENT = 1e-3  # share of pixels whose label may differ
PROTOCOL = protocol_named("ripu-cityscapes")
MANIFESTS = ("state_dict_deeplabv3plus_r101_c19.json", "state_dict_deeplabv3plus_r101_c16.json")


def find_cases() -> list[str]:
    """Names of the cases, each of which has logits; the README's layout is `<case>_<field>`."""
    if not has_golden(*ARCHIVE):
        return ["missing-goldens"]
    found = [key.removesuffix("_logits") for key in load_npz(*ARCHIVE) if key.endswith("_logits")]
    return sorted(found) or [NO_CASES]


@pytest.fixture(scope="module", autouse=True)
def _free_weights() -> Iterator[None]:
    yield
    ripu_networks.forget_weights()


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_state_dict_is_the_published_one_and_is_recognised(manifest: str) -> None:
    parts = load_json("dwaca", manifest)
    num_classes = int(re.search(r"_c(\d+)$", Path(manifest).stem)[1])
    network = ripu_networks.empty_network("deeplab_v3plus", num_classes)
    assert ripu_networks.published_shapes(network) == parts
    content = {
        part: {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        for part, shapes in parts.items()
    }
    spec, _ = identify(content)
    assert (spec.architecture, spec.num_classes) == ("deeplab_v3plus", num_classes)


@pytest.mark.parametrize("case", find_cases())
def test_forward_and_flip_average_agree(case: str) -> None:
    stored = load_npz(*ARCHIVE)
    x = torch.from_numpy(stored[f"{case}_input"])
    num_classes = stored[f"{case}_logits"].shape[1]
    network = ripu_networks.golden_network("deeplab_v3plus", num_classes)
    stages = ripu_networks.StageMaps(network)
    with torch.no_grad():
        logits = network.forward_normalized(torch.cat([x, x.flip(-1)])).logits
    count = len(x)
    straight, mirrored = Pass(logits[:count]), Pass(logits[count:], flipped=True)
    maps = {
        "feat_low": stages.maps["layer1"][:count, ::16, ::3, ::3],
        "feat_out": stages.maps["layer4"][:count, ::64],
        "logits": straight.main,
        "logits_up_s3": upsample(straight.main, x.shape[2:])[:, :, ::3, ::3],
    }
    if f"{case}_posterior_size" in stored:
        height, width = stored[f"{case}_posterior_size"].tolist()
        for name, passes in (("posterior_noflip", [straight]), ("posterior_flip", [straight, mirrored])):
            total = fused_probability(passes, (width, height), upsampled=PROTOCOL.upsampled)
            maps[f"{name}_s5"] = total[:, :, ::5, ::5] / len(passes)
        if f"{case}_pred_flip" in stored:
            label, _ = fuse([straight, mirrored], (width, height), upsampled=PROTOCOL.upsampled)
            expected = stored[f"{case}_pred_flip"]
            assert (label.numpy().reshape(expected.shape) != expected).mean() <= DISAGREEMENT
    for name in [name for name in maps if f"{case}_{name}" in stored]:
        rtol, expected = RELATIVE.get(name, 0), stored[f"{case}_{name}"]
        np.testing.assert_allclose(maps[name].numpy(), expected, rtol=rtol, atol=TOLERANCE, err_msg=name)
