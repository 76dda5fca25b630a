"""MADA's DeepLab-V3+: networks.mada, how the factory builds it, and how it is filled."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from networks import NetworkSpec, build
from networks.backbone_weights import load_backbone
from networks.factory import BACKBONES, complete
from networks.mada import MadaDecoder, MadaOptions, MadaPyramid
from networks.normalization import set_batch_norm
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError

SMALL = {"head_channels": 8, "low_channels": 4}


def network(backbone: str = "resnet18_quarter", **options: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build(NetworkSpec("mada_v3plus", backbone, 5, "any5", {**SMALL, **options}))


def images(count: int = 2, size: tuple[int, int] = (33, 40)) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8)


@pytest.mark.parametrize("backbone", BACKBONES["mada_v3plus"])
def test_logits_and_features_are_at_stride_4_on_every_backbone(backbone: str) -> None:
    with torch.device("meta"):
        net = network(backbone).eval()
        output = net(torch.zeros(2, 3, 65, 129, dtype=torch.uint8))
    assert output.logits.shape == (2, 5, 17, 33)
    assert output.features.shape == (2, net.feature_channels, 17, 33)
    assert output.auxiliary_logits is None
    assert {name.split(".")[0] for name in net.state_dict()} == {"backbone", "aspp", "decoder"}
    assert all(name.startswith("backbone.") for name, _ in net.backbone_parameters())


def test_published_sizes_are_the_defaults() -> None:
    assert complete(NetworkSpec("mada_v3plus", "resnet101", 19, "cityscapes19")).options == {
        "drop_rate": 0.1,
        "inner_drop_rate": 0.5,
        "head_channels": 256,
        "low_channels": 48,
        "dilations": [6, 12, 18],
        "output_stride": 16,
    }


@pytest.mark.parametrize(("stride", "dilations"), [(16, [2, 4, 8]), (8, [4, 8, 16])])
def test_the_last_layer_has_a_multi_grid(stride: int, dilations: list[int]) -> None:
    with torch.device("meta"):
        modules = network("resnet101", output_stride=stride).backbone
    last = [block.conv2 for block in modules["layer4"]]
    assert [layer.dilation[0] for layer in last] == [layer.padding[0] for layer in last] == dilations
    assert all(layer.stride == (1, 1) for layer in last)
    third = modules["layer3"][0].conv2
    assert (third.stride[0], third.dilation[0]) == ((2, 1) if stride == 16 else (1, 1))


def test_short_layers_take_the_beginning_of_the_multi_grid() -> None:
    blocks = network().backbone["layer4"]
    assert [(block.conv1.dilation[0], block.conv2.dilation[0]) for block in blocks] == [(2, 2), (4, 4)]


def test_images_are_only_divided_by_255() -> None:
    x = torch.tensor([0.0, 51.0, 255.0]).view(1, 3, 1, 1)
    for backbone in ("resnet18_quarter", "mobilenet_v2"):
        net = network(backbone)
        torch.testing.assert_close(net.normalize(x).flatten(), torch.tensor([0.0, 0.2, 1.0]))
        assert not any(name.startswith("normalize") for name in net.state_dict())


def test_the_heads_are_the_composition_that_their_names_say() -> None:
    """Pyramid in the listed order, the global mean last; enlarged context before the reduced low level."""
    torch.manual_seed(0)
    options = MadaOptions(head_channels=5, low_channels=2, dilations=(1, 2))
    pyramid, decoder = MadaPyramid(6, options).eval(), MadaDecoder(4, 3, options).eval()
    x, low = torch.randn(2, 6, 4, 5), torch.randn(2, 4, 8, 9)
    with torch.no_grad():
        mean = pyramid.global_avg_pool[1:](x.mean((2, 3), keepdim=True))
        joined = torch.cat([pyramid.aspp1(x), pyramid.aspp2(x), pyramid.aspp3(x), mean.repeat(1, 1, 4, 5)], 1)
        context = pyramid.bn1(pyramid.conv1(joined)).relu()
        torch.testing.assert_close(pyramid(x), context)
        enlarged = nn.functional.interpolate(context, size=(8, 9), mode="bilinear", align_corners=True)
        reduced = decoder.bn1(decoder.conv1(low)).relu()
        expected = decoder.last_conv(torch.cat([enlarged, reduced], 1))
        torch.testing.assert_close(decoder(context, low).logits, expected)
    kinds = [
        (branch.atrous_conv.kernel_size[0], branch.atrous_conv.dilation[0])
        for branch in pyramid.children()
        if hasattr(branch, "atrous_conv")
    ]
    assert kinds == [(1, 1), (3, 1), (3, 2)]


def test_features_are_what_the_classifier_sees_after_its_dropout() -> None:
    net = network(inner_drop_rate=0.0, drop_rate=0.5).train()
    batch = images()
    first, second = net(batch), net(batch)
    torch.testing.assert_close(net.decoder.last_conv[-1](first.features), first.logits)
    assert not torch.equal(first.features, second.features)
    lost = (first.features == 0).float().mean() - (net.eval()(batch).features == 0).float().mean()
    assert lost > 0.1
    assert torch.equal(net(batch).features, net(batch).features)


def test_dropout_takes_single_values_where_the_authors_put_it() -> None:
    with torch.device("meta"):
        rates = {
            name: layer.p
            for name, layer in network(drop_rate=0.2, inner_drop_rate=0.4).named_modules()
            if type(layer) is nn.Dropout
        }
    assert rates == {"aspp.dropout": 0.4, "decoder.last_conv.3": 0.4, "decoder.last_conv.7": 0.2}


def test_every_convolution_starts_with_kaiming_normal_weights_of_fan_in() -> None:
    net = network("resnet18", head_channels=64)
    pairs = {
        "stem": (net.backbone["conv1"], 3 * 49),
        "widening": (net.backbone["layer2"][0].conv1, 64 * 9),
        "branch": (net.aspp.aspp2.atrous_conv, 512 * 9),
        "classifier": (net.decoder.last_conv[8], 64),
    }
    for layer, fan_in in pairs.values():
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
    assert not net.decoder.last_conv[8].bias.any()


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (5, 9)])
def test_tiny_images_work(size: tuple[int, int]) -> None:
    logits = network().eval()(images(1, size)).logits
    assert logits.isfinite().all()
    assert logits.shape[2:] == tuple(-(-length // 4) for length in size)


@pytest.mark.parametrize("mode", ["local", "sync"])
def test_one_image_alone_cannot_train(mode: str) -> None:
    net = network()
    set_batch_norm(net, mode, train_affine=True)
    with pytest.raises(UserError, match=r"mada_v3plus .* batch of one image.* use more images per process"):
        net(images(1))
    assert net.eval()(images(1)).logits.isfinite().all()


def test_frozen_statistics_are_the_backbones_alone() -> None:
    net = network()
    set_batch_norm(net, "frozen", train_affine=False)
    net.train()(images())
    assert net.backbone["bn1"].num_batches_tracked == 0
    assert not net.backbone["bn1"].weight.requires_grad
    assert net.aspp.bn1.num_batches_tracked == net.decoder.bn1.num_batches_tracked == 1


@pytest.mark.parametrize("backbone", ["resnet18_quarter", "mobilenet_v2"])
def test_activation_checkpointing_changes_nothing(backbone: str) -> None:
    plain = network(backbone).double()
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_activation_checkpointing()
    calls: list[int] = []
    for head in (checkpointed.aspp, checkpointed.decoder):
        head.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = images()
    for net in (plain, checkpointed):
        torch.manual_seed(1)  # dropout
        output = net(batch)
        (output.logits.square().sum() + output.features.sum()).backward()
    assert len(calls) == 4
    gradients, buffers = ({name: p.grad for name, p in plain.named_parameters()}, dict(plain.named_buffers()))
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-12, atol=1e-14)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in checkpointed.named_buffers())


def test_one_backbone_pass_serves_two_head_passes() -> None:
    net = network().eval()
    batch = images(4)
    with torch.no_grad():
        stages = net.encode(batch)
        for part in (slice(0, 2), slice(2, 4)):
            whole = net(batch[part]).logits
            torch.testing.assert_close(net.decode([stage[part] for stage in stages]).logits, whole)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_imagenet_files_fill_the_backbone_below_its_child(name: str, tmp_path: Path) -> None:
    reference = models.get_model(name).state_dict()
    torch.save(reference, tmp_path / "init.pth")
    net = network(name)
    heads = [value.clone() for _, value in net.head_parameters()]
    assert f"backbone {name}: " in load_backbone(net, str(tmp_path / "init.pth"))
    for entry, value in net.backbone_parameters():
        assert torch.equal(value, reference[entry.removeprefix("backbone.")]), entry
    assert all(torch.equal(old, new) for old, (_, new) in zip(heads, net.head_parameters(), strict=True))


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet101_caffe", {}, "unknown backbone of mada_v3plus 'resnet101_caffe'"),
        ("resnet18", {"norm_style": "bn"}, "unknown option of mada_v3plus 'norm_style'"),
        ("resnet18", {"inner_drop_rate": 1.0}, "inner drop rate 1.0"),
        ("resnet18", {"output_stride": 32}, "output stride 32"),
        ("resnet18", {"dilations": []}, "dilations"),
    ],
)
def test_what_cannot_be_built_is_named(backbone: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network(backbone, **options)
