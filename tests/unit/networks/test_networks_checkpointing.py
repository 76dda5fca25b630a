"""Activation checkpointing against the plain network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from networks import NetworkSpec, build
from networks.checkpointing import recomputed_in_backward
from networks.normalization import set_batch_norm


@pytest.mark.parametrize("mode", ["local", "frozen", "sync"])
@pytest.mark.parametrize("backbone", ["resnet18_quarter", "mobilenet_v2"])
def test_gradients_and_buffers_are_those_of_the_plain_network(backbone: str, mode: str) -> None:
    torch.manual_seed(0)
    options = {"norm_style": "bn", "use_se": True, "head_channels": 8, "bottleneck_channels": 8}
    plain = build(NetworkSpec("deeplab_two_head", backbone, 3, "any3", options)).double()
    set_batch_norm(plain, mode, train_affine=True)
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_activation_checkpointing()
    source = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    target = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    for network in (plain, checkpointed):
        torch.manual_seed(1)  # dropout
        loss = sum(
            (o.logits.square().sum() + o.auxiliary_logits.sum()) for o in (network(source), network(target))
        )
        loss.backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-12, atol=1e-14)
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in checkpointed.named_buffers())


@pytest.mark.parametrize("backbone", ["resnet18_quarter", "mobilenet_v2"])
def test_a_head_of_several_inputs_is_recomputed_too(backbone: str) -> None:
    torch.manual_seed(0)
    options = {"head_channels": 8, "low_channels": 4, "drop_rate": 0.5}
    plain = build(NetworkSpec("deeplab_v3plus", backbone, 3, "any3", options)).double()
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_activation_checkpointing()
    calls: list[int] = []
    checkpointed.classifier.register_forward_pre_hook(lambda *_: calls.append(1))
    images = torch.randint(0, 256, (2, 3, 33, 40), dtype=torch.uint8)
    for network in (plain, checkpointed):
        torch.manual_seed(1)  # dropout
        network(images).logits.square().sum().backward()
    assert len(calls) == 2
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-12, atol=1e-14)


def test_the_compiled_network_counts_each_forward_once_too() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    plain = copy.deepcopy(block)
    compiled = torch.compile(lambda x: recomputed_in_backward([block], x), backend="aot_eager")
    x = torch.randn(2, 3, 8, 8)
    compiled(x).square().sum().backward()
    plain(x).square().sum().backward()
    torch.testing.assert_close(block[0].weight.grad, plain[0].weight.grad)
    assert all(torch.equal(left, right) for left, right in zip(block.buffers(), plain.buffers(), strict=True))


def test_in_place_layers_of_vgg_do_not_spoil_what_is_kept() -> None:
    torch.manual_seed(0)
    plain = build(NetworkSpec("deeplab_vgg", "vgg16", 3, "any3"))
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_activation_checkpointing()
    for network in (plain, checkpointed):
        network(torch.full((1, 3, 16, 16), 200, dtype=torch.uint8)).logits.square().sum().backward()
    for left, right in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad)


def test_without_gradients_nothing_is_recomputed() -> None:
    network = build(NetworkSpec("deeplab_two_head", "resnet18_quarter", 3, "any3"))
    network.enable_activation_checkpointing()
    calls: list[int] = []
    network.bn1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        network(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert len(calls) == 1
