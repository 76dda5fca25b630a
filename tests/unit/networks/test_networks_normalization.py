"""networks.normalization"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from networks import NetworkSpec, build
from networks.normalization import (
    CAFFE_MEAN_BGR,
    FrozenBatchNorm2d,
    InputNormalization,
    caffe_normalization,
    set_batch_norm,
    torchvision_normalization,
    tracks_statistics,
)
from networks.segmentation import SegmentationNetwork


def network(norm_style: str = "gn") -> SegmentationNetwork:
    torch.manual_seed(0)
    options = {"norm_style": norm_style, "head_channels": 8, "bottleneck_channels": 8, "drop_rate": 0.0}
    return build(NetworkSpec("deeplab_two_head", "resnet18_quarter", 3, "any3", options))


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)


def test_caffe_images_are_bgr_minus_the_mean() -> None:
    x = images()
    expected = x.double().flip(1) - torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(caffe_normalization()(x), expected.float())


def test_torchvision_images_are_scaled_rgb() -> None:
    x = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]).view(1, 3, 1, 1)
    torch.testing.assert_close(torchvision_normalization()(x), expected.expand(1, 3, 2, 2))


@pytest.mark.parametrize("make", [caffe_normalization, torchvision_normalization])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_neutral_color_becomes_zero(make: Callable[[], InputNormalization], dtype: torch.dtype) -> None:
    layer = make().to(dtype)
    color = layer.neutral_color()
    assert color.shape == (1, 3, 1, 1)
    assert color.dtype == dtype
    assert not layer(color.expand(2, 3, 4, 5)).any()
    assert color[0, 0] > color[0, 2], "ImageNet's red is brighter than its blue"


def test_uint8_and_floating_images_give_the_same() -> None:
    x = images()
    for layer in (caffe_normalization(), torchvision_normalization()):
        assert torch.equal(layer(x), layer(x.float()))


def test_float64_keeps_all_digits_of_the_constants() -> None:
    layer = nn.Sequential(caffe_normalization()).float().double()
    zero = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    assert layer(zero).flatten().tolist() == [-value for value in CAFFE_MEAN_BGR]
    assert layer(zero).dtype == torch.float64


def test_normalization_has_no_state_and_follows_the_device() -> None:
    layer = torchvision_normalization()
    assert not layer.state_dict()
    assert layer.to("meta")(torch.zeros(1, 3, 2, 2, device="meta")).device.type == "meta"


def test_low_precision_module_subtracts_in_float32() -> None:
    x = torch.full((1, 3, 1, 1), 104, dtype=torch.uint8)
    value = caffe_normalization().bfloat16()(x)
    assert value.dtype == torch.bfloat16
    assert value[0, 0].item() == pytest.approx(-0.00698793, rel=1e-2)


def test_grey_or_unbatched_images_are_refused() -> None:
    with pytest.raises(ValueError, match="must be"):
        InputNormalization((0.0,))(torch.zeros(3, 4, 4))


@pytest.mark.parametrize("mode", ["local", "sync", "frozen"])
def test_switching_keeps_keys_parameters_and_buffers(mode: str) -> None:
    net = network("bn")
    before = dict(net.named_parameters()) | dict(net.named_buffers())
    keys = list(net.state_dict())
    set_batch_norm(net, mode, train_affine=True)
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert list(net.state_dict()) == keys
    assert all(after[name] is tensor for name, tensor in before.items())
    set_batch_norm(net, "local", train_affine=True)
    assert list(net.state_dict()) == keys


def test_local_uses_and_tracks_batch_statistics_even_with_frozen_affine() -> None:
    net = network()
    set_batch_norm(net, "local", train_affine=False)
    net.train()(images())
    assert net.bn1.num_batches_tracked == 1
    assert net.bn1.running_mean.any()
    assert tracks_statistics(net)
    assert not net.bn1.weight.requires_grad


def test_frozen_never_updates_and_equals_evaluation() -> None:
    net = network()
    set_batch_norm(net, "frozen", train_affine=False)
    before = copy.deepcopy(dict(net.named_buffers()))
    x = images()
    train, evaluation = net.train()(x), net.eval()(x)
    assert torch.equal(train.logits, evaluation.logits)
    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())
    assert not tracks_statistics(net)


def test_head_norms_always_train() -> None:
    net = network("bn")
    set_batch_norm(net, "frozen", train_affine=False)
    norm = net.layer6.bottleneck[1]
    assert not isinstance(norm, FrozenBatchNorm2d)
    assert norm.weight.requires_grad
    assert tracks_statistics(net)


def test_a_copied_network_runs_its_own_layers() -> None:
    net = network()
    set_batch_norm(net, "frozen", train_affine=False)
    teacher = copy.deepcopy(net)
    nn.init.zeros_(teacher.bn1.weight)
    nn.init.zeros_(teacher.bn1.bias)
    x = images()
    with torch.no_grad():
        assert not torch.equal(net(x).logits, teacher(x).logits)
        assert torch.equal(net(x).logits, net(x).logits)
