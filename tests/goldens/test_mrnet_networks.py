"""MRNet's networks against the reference: state-dict manifests and deeplab_forward.npz (float32)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, golden_tensor, has_golden, load_json, load_npz

from networks import NetworkSpec, build
from networks.discriminators import MultiScaleDiscriminator
from networks.published import identify
from networks.segmentation import SegmentationNetwork

FORWARD = "deeplab_forward.npz"
RECIPES = "deeplab_forward.json"
OUTPUTS = {"aux", "main"}
STAGES = ("maxpool", "layer1", "layer2", "layer3", "layer4")
# Where deeplab_forward.json is absent, the README's list: seed and shape per mode.
LISTED_INPUTS = {"eval": (101, (1, 3, 65, 129)), "train": (102, (2, 3, 64, 96))}
TOLERANCE = {"eval": 1e-4, "train": 2e-3}  # of the map's largest value

GENERATORS = {
    "state_dict_deeplab_se_gn_19.json": ("deeplab_two_head", {"norm_style": "gn", "use_se": True}, 19),
    "state_dict_deeplab_gn_19.json": ("deeplab_two_head", {"norm_style": "gn"}, 19),
    "state_dict_deeplab_bn_19.json": ("deeplab_two_head", {}, 19),
    "state_dict_deeplab_se_gn_9.json": ("deeplab_two_head", {"norm_style": "gn", "use_se": True}, 9),
    "state_dict_oracle_deeplab_19.json": ("deeplab_oracle", {}, 19),
    "state_dict_deeplab_vgg_19.json": ("deeplab_vgg", {}, 19),
}
DISCRIMINATOR = "state_dict_ms_discriminator_19.json"
VARIANTS = "state_dict_deeplab_variants_diff.json"


def network(architecture: str, options: dict[str, Any], num_classes: int) -> SegmentationNetwork:
    """A network without weights."""
    backbone = "vgg16" if architecture == "deeplab_vgg" else "resnet101_caffe"
    with torch.device("meta"):
        return build(NetworkSpec(architecture, backbone, num_classes, "cityscapes19", options))


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


@lru_cache(maxsize=2048)
def cached_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Golden weights are drawn once for all cases; most entries are common to the variants."""
    return torch.from_numpy(np.asarray(golden_tensor(name, shape)))


def with_golden_weights(module: SegmentationNetwork) -> SegmentationNetwork:
    state = {name: cached_weight(name, tuple(shape)).clone() for name, shape in shapes(module).items()}
    module.load_state_dict(state, assign=True)
    return module


@pytest.fixture(scope="module", autouse=True)
def _free_weights() -> Any:
    yield
    cached_weight.cache_clear()


@pytest.mark.parametrize("manifest", sorted(GENERATORS))
def test_state_dict_names_and_shapes_are_the_published_ones(manifest: str) -> None:
    expected = load_json("mrnet", manifest)
    assert shapes(network(*GENERATORS[manifest])) == expected


@pytest.mark.parametrize("manifest", sorted(GENERATORS))
def test_published_layout_is_recognised_by_its_keys(manifest: str) -> None:
    architecture, options, num_classes = GENERATORS[manifest]
    entries = load_json("mrnet", manifest)
    state = {"module." + name: torch.empty(shape, device="meta") for name, shape in entries.items()}
    spec, found = identify(state)
    assert (spec.architecture, spec.num_classes) == (architecture, num_classes)
    assert options.items() <= dict(spec.options).items()
    assert set(found) == set(entries)


def test_discriminator_state_dict_names_and_shapes_are_the_published_ones() -> None:
    assert shapes(MultiScaleDiscriminator(19)) == load_json("mrnet", DISCRIMINATOR)


@pytest.mark.parametrize("variant", ["se_bn_19", "se_in_19"])
def test_variant_differs_from_se_gn_as_listed(variant: str) -> None:
    listed = load_json("mrnet", VARIANTS)[variant]
    base = load_json("mrnet", "state_dict_deeplab_se_gn_19.json")
    expected = {name: shape for name, shape in base.items() if name not in listed["removed"]}
    expected |= listed["added"] | listed["changed"]
    options = {"norm_style": variant.split("_")[1], "use_se": True}
    assert shapes(network("deeplab_two_head", options, 19)) == expected


def recipe(case: str) -> dict[str, Any]:
    """How the case's network and input are made: from the JSON beside the archive, else from its name."""
    if has_golden("mrnet", RECIPES):
        recipes = load_json("mrnet", RECIPES)
        if case in recipes:
            return recipes[case]
    parts = re.fullmatch(r"(?P<se>se_)?(?P<norm>bn|in|gn)_(?P<classes>\d+)_(?P<mode>eval|train).*", case)
    assert parts, f"{RECIPES} does not describe {case} and its name does not tell"
    seed, shape = LISTED_INPUTS[parts["mode"]]
    return {
        "seed": seed,
        "shape": shape,
        "mode": parts["mode"],
        "norm_style": parts["norm"],
        "use_se": bool(parts["se"]),
        "num_classes": int(parts["classes"]),
    }


def assert_close(actual: torch.Tensor, expected: np.ndarray, share_of_max: float, what: str) -> None:
    difference = np.abs(actual.detach().numpy().astype(np.float64) - expected).max()
    assert actual.shape == expected.shape, what
    assert difference <= share_of_max * max(np.abs(expected).max(), 1e-12), (what, difference)


@pytest.mark.parametrize("case", cases("mrnet", FORWARD, "main"))
def test_forward_gives_the_reference_maps(case: str) -> None:
    archive = load_npz("mrnet", FORWARD)
    made = recipe(case)
    options = {"norm_style": made["norm_style"], "use_se": made["use_se"], "drop_rate": 0.0}
    module = with_golden_weights(network("deeplab_two_head", options, made["num_classes"]))
    module.train(made["mode"] == "train")
    noise = np.random.default_rng(made["seed"]).standard_normal(made["shape"]) * 50
    x = torch.from_numpy(noise.astype(np.float32))
    tolerance = TOLERANCE[made["mode"]]
    with torch.no_grad():
        output = module.forward_normalized(x)
    assert_close(output.auxiliary_logits, archive[f"{case}/aux"], tolerance, "aux")
    assert_close(output.logits, archive[f"{case}/main"], tolerance, "main")
    compared = compare_buffers(module, archive, case, tolerance)
    assert compared or made["mode"] == "eval", f"{case} has no buffers of the training forward"
    if any(f"{case}/{stage}{end}" in archive for stage in STAGES for end in ("", "_meanstd")):
        compare_stages(module, x, archive, case, tolerance)


def compare_buffers(
    module: SegmentationNetwork, archive: dict[str, np.ndarray], case: str, tolerance: float
) -> int:
    """How many buffers the case has; each must be close. A field that no test compares is an error."""
    state = module.state_dict()
    fields = {key.removeprefix(f"{case}/") for key in archive if key.startswith(f"{case}/")}
    buffers = fields - OUTPUTS - {stage + end for stage in STAGES for end in ("", "_meanstd")}
    assert buffers <= set(state), f"{case} has fields that nothing compares: {sorted(buffers - set(state))}"
    for name in buffers:
        assert_close(state[name], archive[f"{case}/{name}"], tolerance, name)
    return len(buffers)


@torch.no_grad()
def compare_stages(
    module: SegmentationNetwork, x: torch.Tensor, archive: dict[str, np.ndarray], case: str, tolerance: float
) -> None:
    for stage, full in zip(STAGES, module.backbone_features(x), strict=True):
        if f"{case}/{stage}" in archive:
            sample = full[:, :: full.shape[1] // 16, ::3, ::5]
            assert_close(sample, archive[f"{case}/{stage}"], tolerance, stage)
        if f"{case}/{stage}_meanstd" in archive:
            values = full.double().numpy()
            found = np.array([values.mean(), values.std()])
            np.testing.assert_allclose(
                found, archive[f"{case}/{stage}_meanstd"], rtol=tolerance, atol=tolerance
            )


@pytest.mark.parametrize("manifest", ["state_dict_oracle_deeplab_19.json", "state_dict_deeplab_vgg_19.json"])
def test_single_head_networks_give_maps_at_stride_8(manifest: str) -> None:
    module = network(*GENERATORS[manifest]).eval()
    entries = load_json("mrnet", manifest)
    module.load_state_dict(
        {name: cached_weight(name, tuple(shape)) for name, shape in entries.items()}, assign=True
    )
    with torch.no_grad():
        output = module.forward_normalized(torch.randn(1, 3, 64, 96))
    assert output.auxiliary_logits is None
    assert output.logits.shape[2:] == ((9, 13) if "oracle" in manifest else (8, 12))
    assert torch.isfinite(output.logits).all()
