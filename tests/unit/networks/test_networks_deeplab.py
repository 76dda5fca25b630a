"""DeepLab-V2 and DeepLab-V3+ (RIPU, DWACA): networks.deeplab and the head of the latter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from networks import NetworkSpec, build
from networks.factory import BACKBONES, complete
from networks.heads import DecoderHead, DecoderOptions
from networks.normalization import set_batch_norm
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError


def network(
    architecture: str = "deeplab_v3plus", backbone: str = "resnet18_quarter", **options: Any
) -> SegmentationNetwork:
    torch.manual_seed(0)
    small = {"head_channels": 8, "low_channels": 4} if architecture == "deeplab_v3plus" else {}
    return build(NetworkSpec(architecture, backbone, 5, "any5", {**small, **options}))


@pytest.mark.parametrize("backbone", BACKBONES["deeplab_v3plus"])
def test_v3plus_gives_logits_at_stride_4_on_every_residual_backbone(backbone: str) -> None:
    with torch.device("meta"):
        net = network(backbone=backbone).eval()
        output = net(torch.zeros(2, 3, 65, 129, dtype=torch.uint8))
    assert output.logits.shape == (2, 5, 17, 33)
    assert output.auxiliary_logits is None
    assert not net.has_auxiliary_head


@pytest.mark.parametrize("backbone", BACKBONES["deeplab_v2"])
def test_v2_gives_logits_at_stride_8_on_every_residual_backbone(backbone: str) -> None:
    with torch.device("meta"):
        output = network("deeplab_v2", backbone).eval()(torch.zeros(2, 3, 65, 129, dtype=torch.uint8))
    assert output.logits.shape == (2, 5, 9, 17)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1), (5, 9)])
@pytest.mark.parametrize("architecture", ["deeplab_v2", "deeplab_v3plus"])
def test_tiny_images_work(architecture: str, size: tuple[int, int]) -> None:
    net = network(architecture)
    logits = net(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)).logits
    assert logits.isfinite().all()
    stride = 8 if architecture == "deeplab_v2" else 4
    assert logits.shape[2:] == tuple(-(-length // stride) for length in size)
    logits.sum().backward()


def test_v2_adds_all_four_branches_and_starts_as_the_authors_code_does() -> None:
    net = network("deeplab_v2", "resnet18")
    branches = net.classifier.conv2d_list
    x = torch.randn(1, 512, 7, 7)
    with torch.no_grad():
        expected = sum(branch(x) for branch in branches)
        torch.testing.assert_close(net.classifier(x).logits, expected)
    assert [branch.dilation[0] for branch in branches] == [6, 12, 18, 24]
    for branch in branches:
        assert branch.weight.requires_grad
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.05)
        bound = (512 * 9) ** -0.5  # torch's default for a bias
        assert 0 < branch.bias.abs().max() <= bound


def test_v3plus_head_starts_with_kaiming_normal_weights_of_fan_in() -> None:
    torch.manual_seed(0)
    head = DecoderHead(256, 64, 19, DecoderOptions(head_channels=64, low_channels=16))
    pairs = {
        "joined 3x3": (head.bottleneck[0], 64 * 5 * 9),
        "depthwise": (head.parallel_branches[1].depthwise_conv, 9),
        "pointwise": (head.parallel_branches[1].pointwise_conv, 256),
        "classifier": (head.decoder[3], 64),
    }
    for layer, fan_in in pairs.values():
        assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)


def test_v3plus_head_is_the_composition_that_its_names_say() -> None:
    """Pyramid in the listed order, the global mean; fused, enlarged, joined with the reduced low level."""
    torch.manual_seed(0)
    head = DecoderHead(6, 4, 3, DecoderOptions(head_channels=5, low_channels=2, dilations=(1, 2))).eval()
    x, low = torch.randn(2, 6, 4, 5), torch.randn(2, 4, 8, 9)
    with torch.no_grad():
        mean = head.global_branch[1:](x.mean((2, 3), keepdim=True))
        pyramid = [branch(x) for branch in head.parallel_branches] + [mean.repeat(1, 1, 4, 5)]
        fused = head.bottleneck(torch.cat(pyramid, 1))
        fused = nn.functional.interpolate(fused, size=(8, 9), mode="bilinear", align_corners=True)
        expected = head.decoder(torch.cat([fused, head.shortcut(low)], 1))
        torch.testing.assert_close(head(x, low).logits, expected)


def test_dropout_acts_in_training_alone() -> None:
    net = network(drop_rate=0.5)
    x = torch.randint(0, 256, (1, 3, 33, 40), dtype=torch.uint8)
    assert not torch.equal(net(x).logits, net(x).logits)
    net.eval()
    assert torch.equal(net(x).logits, net(x).logits)


@pytest.mark.parametrize("architecture", ["deeplab_v2", "deeplab_v3plus"])
def test_ordinary_batch_norm_is_an_option(architecture: str) -> None:
    net = network(architecture, norm_style="bn")
    assert type(net.bn1) is nn.BatchNorm2d
    set_batch_norm(net, "local", train_affine=False)
    net.train()(torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8))
    assert net.bn1.num_batches_tracked == 1


def test_batch_norm_on_a_single_image_is_a_clear_error() -> None:
    net = network(norm_style="bn")
    image = torch.zeros(1, 3, 33, 40, dtype=torch.uint8)
    with pytest.raises(
        UserError, match=r"deeplab_v3plus .* batch of one image.* use --norm-style frozen, more"
    ):
        net(image)
    assert net.eval()(image).logits.isfinite().all()


def test_published_sizes_are_the_defaults() -> None:
    options = complete(NetworkSpec("deeplab_v3plus", "resnet101", 19, "cityscapes19")).options
    assert options == {
        "norm_style": "frozen",
        "drop_rate": 0.1,
        "head_channels": 512,
        "low_channels": 48,
        "dilations": [6, 12, 18],
        "output_stride": 8,
    }
    options = complete(NetworkSpec("deeplab_v2", "resnet101", 19, "cityscapes19")).options
    assert options == {"norm_style": "frozen", "dilations": [6, 12, 18, 24], "output_stride": 8}


def test_existing_architectures_keep_their_normalisation() -> None:
    for architecture, backbone in (("deeplab_two_head", "resnet18_quarter"), ("deeplab_vgg", "vgg16")):
        options = complete(NetworkSpec(architecture, backbone, 19, "cityscapes19")).options
        assert options.get("norm_style", "bn") == "bn"


FEATURES = {  # architecture: options, the layers between features and logits
    "deeplab_two_head": ({"head_channels": 8, "bottleneck_channels": 6}, lambda net: net.layer6.head),
    "deeplab_v2": ({}, lambda net: lambda x: net.classifier(x).logits),
    "deeplab_oracle": ({}, lambda net: lambda x: net.layer5(x).logits),
    "deeplab_v3plus": ({"head_channels": 8, "low_channels": 4}, lambda net: net.classifier.decoder[2:]),
}


@pytest.mark.parametrize("architecture", FEATURES)
def test_features_are_what_the_main_classifier_takes(architecture: str) -> None:
    options, classifier = FEATURES[architecture]
    net = build(NetworkSpec(architecture, "resnet18_quarter", 3, "any3", options)).eval()
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    with torch.no_grad():
        output, stages = net(images), net.encode(images)
        assert output.features.shape == (2, net.feature_channels, *output.logits.shape[2:])
        assert torch.equal(classifier(net)(output.features), output.logits)
        assert torch.equal(net.decode(stages).logits, output.logits)
        part = net.decode([stage[1:] for stage in stages])
    torch.testing.assert_close(part.logits, output.logits[1:], rtol=1e-4, atol=1e-5)


def test_dropout_does_not_touch_the_features() -> None:
    options = {"head_channels": 8, "bottleneck_channels": 6, "drop_rate": 0.9, "norm_style": "gn"}
    net = build(NetworkSpec("deeplab_two_head", "resnet18_quarter", 3, "any3", options))
    set_batch_norm(net, "frozen", train_affine=False)
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    assert torch.equal(net(images).features, net(images).features)
