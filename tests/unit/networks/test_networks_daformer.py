"""networks.daformer"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from networks import NetworkSpec, build
from networks.daformer import DAFormerHead, DAFormerOptions
from networks.factory import complete
from networks.normalization import set_batch_norm
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError


def network(**options: float | list) -> SegmentationNetwork:
    return build(NetworkSpec("daformer", "mit_b0", 5, "any5", {"head_channels": 8, **options}))


def test_published_sizes_are_the_defaults() -> None:
    options = complete(NetworkSpec("daformer", "mit_b5", 19, "cityscapes19")).options
    expected = {"drop_rate": 0.1, "drop_path_rate": 0.1, "head_channels": 256, "dilations": [6, 12, 18]}
    assert options == expected


@pytest.mark.parametrize("size", [(32, 48), (33, 41)])
def test_logits_and_features_are_at_stride_4(size: tuple[int, int]) -> None:
    net = network()
    assert not net.has_auxiliary_head
    output = net(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8))
    map_size = tuple(-(-length // 4) for length in size)
    assert output.logits.shape == (2, 5, *map_size)
    assert output.features.shape == (2, net.feature_channels, *map_size)
    assert output.auxiliary_logits is None
    output.logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_head_is_the_composition_that_its_names_say() -> None:
    torch.manual_seed(0)
    head = DAFormerHead((3, 4), 5, DAFormerOptions(head_channels=6, dilations=(1, 2))).eval()
    fine, coarse = torch.randn(2, 3, 8, 9), torch.randn(2, 4, 4, 5)
    with torch.no_grad():
        first, second = (
            F.conv2d(level, embed.proj.weight[:, :, None, None], embed.proj.bias)
            for embed, level in zip(head.embed_layers, (fine, coarse), strict=True)
        )
        second = F.interpolate(second, size=(8, 9), mode="bilinear", align_corners=False)
        joined = torch.cat([first, second], 1)
        branches = [branch(joined) for branch in head.fuse_layer.aspp_modules]
        features = head.fuse_layer.bottleneck(torch.cat(branches, 1))
        output = head(fine, coarse)
    torch.testing.assert_close(output.features, features)
    torch.testing.assert_close(output.logits, head.conv_seg(features))
    assert (output.features >= 0).all()


def test_dilations_act_on_the_depthwise_convolutions() -> None:
    plain, *separable = network(dilations=[2, 5]).decode_head.fuse_layer.aspp_modules
    assert plain.conv.kernel_size == (1, 1)
    assert [branch.depthwise_conv.conv.dilation[0] for branch in separable] == [2, 5]
    assert all(branch.depthwise_conv.conv.groups == 32 for branch in separable)
    assert all(branch.pointwise_conv.conv.kernel_size == (1, 1) for branch in separable)


def test_the_head_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    head = DAFormerHead((32, 64), 19, DAFormerOptions(head_channels=64))
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.conv_seg.bias.any()
    fused = head.fuse_layer.bottleneck.conv
    assert fused.bias is None
    assert fused.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert (
        head.embed_layers[0].proj.weight.abs().max().item() <= 32**-0.5
    )  # torch's default of a linear layer


def test_dropout_takes_whole_channels_behind_the_features_in_training_alone() -> None:
    net = network(drop_rate=0.5, drop_path_rate=0.0)
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    first, second = net(images), net(images)
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.logits, second.logits)
    net.eval()
    assert torch.equal(net(images).logits, net(images).logits)


def test_one_backbone_pass_serves_two_head_passes() -> None:
    net = network(drop_rate=0.0, drop_path_rate=0.0).double()
    images = torch.randint(0, 256, (4, 3, 32, 40), dtype=torch.uint8)
    stages = net.encode(images)
    for part in (slice(0, 2), slice(2, 4)):
        torch.testing.assert_close(
            net.decode([stage[part] for stage in stages]).logits, net(images[part]).logits
        )


def test_the_heads_batch_norm_stays_when_the_backbones_is_frozen() -> None:
    net = network()
    set_batch_norm(net, "frozen", train_affine=False)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    assert all(type(layer) is nn.BatchNorm2d for layer in layers)
    net(torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8))
    assert all(layer.num_batches_tracked == 1 for layer in layers)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (NetworkSpec("daformer", "resnet101", 5, "any5"), "unknown backbone of daformer 'resnet101'"),
        (NetworkSpec("deeplab_v2", "mit_b5", 5, "any5"), "unknown backbone of deeplab_v2 'mit_b5'"),
        (NetworkSpec("daformer", "mit_b0", 5, "any5", {"norm_style": "bn"}), "unknown option of daformer"),
        (NetworkSpec("daformer", "mit_b0", 5, "any5", {"drop_path_rate": 1.0}), "drop path rate 1.0"),
        (NetworkSpec("daformer", "mit_b0", 5, "any5", {"dilations": []}), "dilations"),
    ],
)
def test_what_cannot_be_built_is_named(wrong: NetworkSpec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(wrong)
