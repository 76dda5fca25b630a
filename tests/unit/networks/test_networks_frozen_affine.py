"""Frozen normalisation without epsilon: networks.normalization.FrozenAffine."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from networks import NetworkSpec, build
from networks.normalization import FrozenAffine, set_batch_norm, tracks_statistics
from networks.segmentation import SegmentationNetwork
from trainers.teacher import Teacher

ARCHITECTURES = ("deeplab_v2", "deeplab_v3plus")


def drawn_layer(channels: int = 6) -> FrozenAffine:
    torch.manual_seed(0)
    layer = FrozenAffine(channels).double()
    for name, low, high in (("weight", -1, 1), ("bias", -1, 1), ("running_mean", -2, 2)):
        getattr(layer, name).uniform_(low, high)
    layer.running_var.uniform_(1e-6, 2)
    return layer


def network(architecture: str) -> SegmentationNetwork:
    torch.manual_seed(0)
    small = {"head_channels": 8, "low_channels": 4} if architecture == "deeplab_v3plus" else {}
    return build(NetworkSpec(architecture, "resnet18_quarter", 3, "any3", {"dilations": [1, 2], **small}))


def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)


def by_definition(layer: FrozenAffine, x: Tensor) -> Tensor:
    """In double precision, channel by channel."""
    scale = layer.weight.double() / layer.running_var.double().sqrt()
    centred = x.double() - layer.running_mean.double()[:, None, None]
    return centred * scale[:, None, None] + layer.bias.double()[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_those_of_the_formula_without_epsilon(layout: torch.memory_format) -> None:
    layer = drawn_layer()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64).to(memory_format=layout)
    torch.testing.assert_close(layer(x), by_definition(layer, x), rtol=1e-12, atol=1e-12)
    single, x = layer.float(), x.float()
    assert single(x).dtype == torch.float32
    torch.testing.assert_close(single(x).double(), by_definition(single, x), rtol=1e-5, atol=1e-4)


def test_a_new_layer_is_the_identity_without_parameters_or_counter() -> None:
    layer, x = FrozenAffine(4), torch.randn(2, 4, 3, 3)
    assert torch.equal(layer(x), x)
    assert list(layer.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    assert not list(layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_activations_stay_half_precise(dtype: torch.dtype) -> None:
    layer, x = drawn_layer().float(), torch.randn(2, 6, 4, 5).to(dtype)
    layer.running_var.clamp_(min=0.01)
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x).double(), by_definition(layer, x), rtol=0.02, atol=0.2)


def test_a_nearly_dead_channel_stays_finite_in_float16() -> None:
    layer = FrozenAffine(1)
    layer.running_var.fill_(1e-14)
    assert layer(torch.zeros(1, 1, 2, 2, dtype=torch.float16)).isfinite().all()


def test_gradient_is_that_of_the_scale_and_no_activation_is_kept() -> None:
    layer = drawn_layer()
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    kept: list[int] = []

    def note(value: Tensor) -> Tensor:
        kept.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        y = layer(x)
    assert max(kept) == 6
    assert torch.autograd.gradcheck(layer, (x,))
    y.sum().backward()
    scale = layer.weight / layer.running_var.sqrt()
    torch.testing.assert_close(x.grad, scale[:, None, None].expand_as(x))


def test_channels_without_a_usable_scale_are_found() -> None:
    layer = FrozenAffine(5)
    layer.running_var.copy_(torch.tensor([1.0, 0.0, -1.0, 1e-10, float("nan")]))
    assert layer.beyond().tolist() == [False, True, True, False, True]
    assert layer.beyond(1000.0).tolist() == [False, True, True, True, True]
    layer.weight.zero_()  # 0 times infinity is no scale either
    assert layer.beyond().tolist() == [False, True, True, False, True]


@pytest.mark.parametrize("mode", ["local", "sync", "frozen"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_norm_modes_leave_frozen_networks_alone(architecture: str, mode: str) -> None:
    net = network(architecture)
    kinds = {name: type(layer) for name, layer in net.named_modules()}
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    set_batch_norm(net, mode, train_affine=True)
    assert {name: type(layer) for name, layer in net.named_modules()} == kinds
    assert not tracks_statistics(net)
    net.train()(images())
    assert all(torch.equal(before[name], buffer) for name, buffer in net.named_buffers())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_networks_hold_no_batch_norm_and_train_convolutions_only(architecture: str) -> None:
    net = network(architecture)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert not any(name.endswith("num_batches_tracked") for name in net.state_dict())
    convolutions = {
        f"{name}.{part}"
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d)
        for part, _ in layer.named_parameters()
    }
    listed = net.backbone_parameters() + net.head_parameters()
    assert {name for name, _ in listed} == convolutions
    assert all(parameter.requires_grad for _, parameter in listed)
    assert not any(name.startswith("classifier.") for name, _ in net.backbone_parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_copied_network_runs_its_own_layers(architecture: str) -> None:
    net, x = network(architecture).eval(), images()
    copied = copy.deepcopy(net)
    copied.bn1.weight.zero_()
    with torch.no_grad():
        assert not torch.equal(net(x).logits, copied(x).logits)


def test_a_teacher_follows_a_frozen_network() -> None:
    student = network("deeplab_v3plus")
    teacher = Teacher(student, decay=0.9)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher.update(student)  # the first update meets the student half-way
    moved = {name for name, _ in student.named_parameters()}
    entries = student.state_dict()
    for name, value in teacher.network.state_dict().items():
        torch.testing.assert_close(value, entries[name] - 0.5 if name in moved else entries[name])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_networks_run_in_float64_and_under_autocast(architecture: str) -> None:
    net, x = network(architecture).eval(), images()
    single = net(x).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x).logits
    assert logits.dtype == torch.bfloat16
    largest = single.abs().max()
    assert (logits - single).abs().max() < 0.05 * largest
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    double = net.double()(x).logits
    assert double.dtype == torch.float64
    assert (double - single).abs().max() < 1e-4 * largest
