"""networks.backbone_weights"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from official_formats import mit_imagenet_files
from torch import nn
from torchvision import models

from networks import NetworkSpec, build
from networks.backbone_weights import check_backbone_file, holds_backbone_only, load_backbone
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError


def network(backbone: str, architecture: str = "deeplab_two_head") -> SegmentationNetwork:
    options = {"head_channels": 8, "bottleneck_channels": 8} if architecture == "deeplab_two_head" else {}
    return build(NetworkSpec(architecture, backbone, 3, "any3", options))


def saved(path: Path, state: dict[str, Any], **how: Any) -> str:
    torch.save(state, path, **how)
    return str(path)


def test_torchvision_resnet_file_fills_the_backbone_and_leaves_the_heads(tmp_path: Path) -> None:
    reference, net = models.resnet18().state_dict(), network("resnet18")
    heads = [p.clone() for _, p in net.head_parameters()]
    line = load_backbone(net, saved(tmp_path / "r18.pth", reference))
    assert "120 entries of a ResNet ImageNet file" in line
    assert all(torch.equal(value, reference[name]) for name, value in net.backbone_parameters())
    assert all(torch.equal(old, new) for old, (_, new) in zip(heads, net.head_parameters(), strict=True))


def test_half_precision_mobilenet_file_fills_the_backbone(tmp_path: Path) -> None:
    reference = models.mobilenet_v2().state_dict()
    half = {name: value.half() if value.ndim >= 2 else value for name, value in reference.items()}
    net = network("mobilenet_v2")
    load_backbone(net, saved(tmp_path / "m.pth", half))
    weight = net.features[17].conv[2].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, reference["features.17.conv.2.weight"].half().float())


def test_caffe_file_in_the_old_format_drops_the_first_component_and_its_heads(tmp_path: Path) -> None:
    net = network("resnet101_caffe")
    state = {name: value for name, value in net.state_dict().items() if net.is_backbone(name)}
    state = {name: torch.full_like(v, 0.5) for name, v in state.items() if v.is_floating_point()}
    file = {f"Scale.{name}": value for name, value in state.items()}
    file |= {f"Scale.layer5.conv2d_list.{i}.weight": torch.zeros(21, 2048, 3, 3) for i in range(2)}
    load_backbone(net, saved(tmp_path / "init.pth", file, _use_new_zipfile_serialization=False))
    assert (net.layer3[22].bn3.running_var == 0.5).all()
    assert (net.conv1.weight == 0.5).all()
    assert not (net.layer5.conv2d_list[0][0].weight == 0.5).any()


def test_vgg_file_is_renumbered(tmp_path: Path) -> None:
    net = network("vgg16", "deeplab_vgg")
    with torch.device("meta"):
        shapes = {name: v.shape for name, v in models.vgg16().state_dict().items()}
    numbers = iter(range(1, 100))
    state = {
        name: torch.full(shape, float(next(numbers))) for name, shape in shapes.items() if "features" in name
    }
    state["classifier.0.weight"] = torch.zeros(1)
    with pytest.raises(UserError, match=r"first features.29.weight"):
        load_backbone(net, saved(tmp_path / "vgg.pth", state))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.resnet18().state_dict(), "use --backbone resnet18 or resnet50"),
        (lambda: {"Scale.conv1.weight": torch.zeros(1)}, "entries are missing"),
        (lambda: {"something": torch.zeros(1)}, "unknown layout"),
        (lambda: MRNET, "start from it with --restore-from"),
    ],
)
def test_files_for_something_else_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone(network("resnet101_caffe"), saved(tmp_path / "x.pth", make()))


MRNET = {"conv1.weight": torch.zeros(1), "layer6.head.1.weight": torch.zeros(19, 1, 1, 1)}


def test_a_deeper_network_is_a_partial_match(tmp_path: Path) -> None:
    state = {name: value for name, value in models.resnet50().state_dict().items()}
    with pytest.raises(UserError, match=r"does not fit resnet18: .* are not part of it"):
        load_backbone(network("resnet18"), saved(tmp_path / "r50.pth", state))


def test_a_missing_file_names_the_command_that_helps(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.pth does not exist; `python prepare_data.py weights`"):
        load_backbone(network("resnet18"), str(tmp_path / "nowhere.pth"))


def test_none_leaves_everything_as_it_is() -> None:
    net = network("resnet18_quarter")
    before = nn.utils.parameters_to_vector(net.parameters()).clone()
    assert "random" in load_backbone(net, "none")
    assert torch.equal(before, nn.utils.parameters_to_vector(net.parameters()))


def test_torchvision_without_network_or_weights_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=r"failed .no route to host.; fetch it"):
        load_backbone(network("resnet18"), "torchvision")
    with pytest.raises(UserError, match=r"torchvision has no weights for the backbone resnet101_caffe"):
        load_backbone(network("resnet101_caffe"), "torchvision")


def test_imagenet_files_are_told_from_whole_networks(tmp_path: Path) -> None:
    net = network("resnet18")
    assert holds_backbone_only(Path(saved(tmp_path / "r18.pth", models.resnet18().state_dict())))
    assert not holds_backbone_only(Path(saved(tmp_path / "own.pth", {"layer6.x": net.conv1.weight})))
    with pytest.raises(UserError, match=r"nowhere.pth does not exist"):
        holds_backbone_only(tmp_path / "nowhere.pth")


def drawn_statistics(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same entries with drawn BatchNorm statistics, small variances among them."""
    torch.manual_seed(0)
    ends = {"running_mean": (-1.0, 1.0), "running_var": (1e-6, 1.0)}
    for name, value in state.items():
        if name.rsplit(".", 1)[1] in ends:
            value.uniform_(*ends[name.rsplit(".", 1)[1]])
    return state


def test_a_frozen_resnet_takes_the_statistics_as_they_are(tmp_path: Path) -> None:
    reference, net = drawn_statistics(models.resnet18().state_dict()), network("resnet18", "deeplab_v2")
    line = load_backbone(net, saved(tmp_path / "r18.pth", reference))
    assert "100 entries of a ResNet ImageNet file" in line
    assert "raised" not in line
    backbone = {name: value for name, value in net.state_dict().items() if net.is_backbone(name)}
    assert len(backbone) == 100
    assert all(torch.equal(value, reference[name]) for name, value in backbone.items())


def test_dead_channels_of_a_frozen_backbone_are_repaired_and_counted(tmp_path: Path) -> None:
    reference, net = drawn_statistics(models.resnet18().state_dict()), network("resnet18", "deeplab_v3plus")
    variance, weight = reference["bn1.running_var"], reference["bn1.weight"]
    variance[:4] = torch.tensor([0.0, 1e-30, 1e-12, 1e-12])
    weight[:4] = torch.tensor([0.0, 1.0, 1.0, 1e-8])  # the last two scales are 1e6 and 0.01
    line = load_backbone(net, saved(tmp_path / "r18.pth", reference))
    assert "running_var of 3 dead channels raised to 1e-05" in line
    torch.testing.assert_close(net.bn1.running_var[:4], torch.tensor([1e-5, 1e-5, 1e-5, 1e-12]))
    assert torch.equal(net.bn1.running_var[4:], variance[4:])
    assert net(torch.zeros(1, 3, 33, 40, dtype=torch.uint8)).logits.isfinite().all()


def test_a_frozen_mobilenet_computes_what_batch_norm_computes(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", drawn_statistics(models.mobilenet_v2().state_dict()))
    frozen, plain = (
        build(NetworkSpec("deeplab_v2", "mobilenet_v2", 3, "any3", {"norm_style": style})).double().eval()
        for style in ("frozen", "bn")
    )
    for net in (frozen, plain):
        load_backbone(net, path)
    x = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in zip(frozen.backbone_features(x), plain.backbone_features(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, r"is damaged: bn1\.running_var holds negative numbers"),
        (float("nan"), r"not finite in 1 of \d+ entries, first bn1\.running_var"),
    ],
)
def test_statistics_that_no_batch_norm_can_have_are_refused(
    tmp_path: Path, value: float, message: str
) -> None:
    reference = models.resnet18().state_dict()
    reference["bn1.running_var"][3] = value
    with pytest.raises(UserError, match=message):
        load_backbone(network("resnet18", "deeplab_v2"), saved(tmp_path / "r18.pth", reference))


def mit_network(backbone: str = "mit_b0") -> SegmentationNetwork:
    return build(NetworkSpec("daformer", backbone, 3, "any3", {"head_channels": 8}))


def mit_file(layout: str, backbone: str = "mit_b0") -> dict[str, Any]:
    torch.manual_seed(1)
    state = mit_network(backbone).backbone.state_dict()
    drawn = {name: torch.randn_like(value) for name, value in state.items()}
    return mit_imagenet_files(drawn)[layout]


MIT_LAYOUTS = ["nvlabs", "mmsegmentation", "hugging_face"]


@pytest.mark.parametrize("layout", MIT_LAYOUTS)
def test_every_layout_fills_the_mix_transformer_and_leaves_the_head(layout: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "mit_b0.pth", mit_file(layout))
    net, reference = mit_network(), mit_file("nvlabs")
    head = [p.clone() for _, p in net.head_parameters()]
    line = load_backbone(net, path)
    assert "backbone mit_b0: 176 entries of a Mix Transformer" in line
    for name, value in net.backbone.state_dict().items():
        assert torch.equal(value, reference[name]), name
    assert all(torch.equal(old, new) for old, (_, new) in zip(head, net.head_parameters(), strict=True))
    assert holds_backbone_only(Path(path))
    assert check_backbone_file(Path(path)) == "mit_b0"


@pytest.mark.parametrize("layout", MIT_LAYOUTS)
def test_a_prefix_or_a_wrapper_around_a_layout_is_taken(layout: str, tmp_path: Path) -> None:
    content = mit_file(layout)
    entries = {name.removeprefix("segformer."): v for name, v in content.get("state_dict", content).items()}
    if layout != "hugging_face":
        entries = {f"backbone.{name}": v for name, v in entries.items() if not name.startswith("head.")}
    net = mit_network()
    load_backbone(net, saved(tmp_path / "mit.pth", {"model": entries}))
    assert torch.equal(net.backbone["norm4"].bias, mit_file("nvlabs")["norm4.bias"])


def without(name: str) -> Any:
    def change(entries: dict[str, Any]) -> None:
        del entries[name]

    return change


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("nvlabs", without("norm2.bias"), "1 entries are missing, first backbone.norm2.bias"),
        ("mmsegmentation", without("layers.1.1.0.attn.attn.in_proj_bias"), "block2.0.attn.q.bias"),
        (
            "hugging_face",
            without("segformer.encoder.block.1.0.attention.self.key.bias"),
            "first backbone.block2.0.attn.kv.bias.*not part of it, first .*block2.0.attn.value.bias",
        ),
        (
            "mmsegmentation",
            lambda entries: entries.update({"layers.0.2.bias": torch.zeros(7)}),
            r"first backbone.norm1.bias: \(7,\)",
        ),
        (
            "mmsegmentation",
            lambda entries: entries.update({"layers.0.1.0.attn.attn.in_proj_bias": torch.zeros(7)}),
            "not part of it, first backbone.block1.0.attn.attn.in_proj_bias",
        ),
        (
            "nvlabs",
            lambda entries: entries.update({"fuse.weight": torch.zeros(1)}),
            "first backbone.fuse.weight",
        ),
        ("nvlabs", lambda entries: entries.update({"norm1.bias": 3}), "are no plain tensors"),
    ],
)
def test_partial_mit_files_are_refused_by_name(
    layout: str, change: Any, message: str, tmp_path: Path
) -> None:
    content = mit_file(layout)
    change(content.get("state_dict", content))
    path = saved(tmp_path / "mit.pth", content)
    with pytest.raises(UserError, match=rf"mit.pth is a Mix Transformer .*does not fit mit_b0: .*{message}"):
        load_backbone(mit_network(), path)


def test_a_mix_transformer_of_another_size_is_named_with_the_one_that_is_built(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", mit_file("nvlabs", "mit_b1"))
    assert check_backbone_file(Path(path)) == "mit_b1"
    with pytest.raises(
        UserError, match=r"x.pth is a Mix .* of mit_b1, this run builds mit_b0; use --backbone"
    ):
        load_backbone(mit_network(), path)


def test_a_mix_transformer_and_a_resnet_do_not_take_each_others_files(tmp_path: Path) -> None:
    mit = saved(tmp_path / "mit.pth", mit_file("nvlabs"))
    resnet = saved(tmp_path / "r18.pth", models.resnet18().state_dict())
    with pytest.raises(UserError, match=r"a Mix Transformer .* another kind of backbone than resnet18; use"):
        load_backbone(network("resnet18"), mit)
    with pytest.raises(
        UserError, match=r"a ResNet .* another kind of backbone than mit_b0; use --backbone res"
    ):
        load_backbone(mit_network(), resnet)
    with pytest.raises(UserError, match=r"torchvision has no weights for the backbone mit_b0; give a file"):
        load_backbone(mit_network(), "torchvision")
