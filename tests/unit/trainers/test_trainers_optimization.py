"""The optimiser's settings: which schedule, which groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from networks.normalization import set_batch_norm
from tests.toy_training import small_network
from trainers.optimization import OptimizerSettings
from utils.optimizers import set_learning_rate
from utils.schedules import polynomial_under_warm_up, polynomial_with_warm_up

COMMON: dict[str, Any] = {"learning_rate": 2.0, "num_steps": 20, "power": 0.9, "warm_up": 5}


def test_the_flat_schedule_is_the_default_and_knows_no_ratio() -> None:
    settings = OptimizerSettings(**COMMON, warm_up_ratio=0.3)
    for iteration in (0, 3, 5, 19, 20):
        expected = polynomial_with_warm_up(iteration, base=2.0, num_steps=20, power=0.9, warm_up=5)
        assert settings.rate(iteration) == expected


def test_the_decaying_schedule_uses_the_ratio() -> None:
    settings = OptimizerSettings(**COMMON, warm_up_schedule="decaying", warm_up_ratio=0.3)
    for iteration in (0, 3, 5, 19, 20):
        expected = polynomial_under_warm_up(
            iteration, base=2.0, num_steps=20, power=0.9, warm_up=5, ratio=0.3
        )
        assert settings.rate(iteration) == expected
    assert settings.rate(0) == pytest.approx(0.3 * 2.0)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-plain", "adamw"])
@pytest.mark.parametrize("norm_decay", [True, False])
def test_without_gradients_only_what_decays_shrinks(optimizer: str, norm_decay: bool) -> None:
    network = small_network()
    set_batch_norm(network, "local", train_affine=True)
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1.0)
        parameter.grad = torch.zeros_like(parameter)
    settings = OptimizerSettings(optimizer=optimizer, weight_decay=0.1, backbone_norm_decay=norm_decay)
    optimiser = settings.build(network)
    set_learning_rate(optimiser, 0.1)
    optimiser.step()
    layers = {
        name: module
        for name, module in network.named_modules()
        if any(True for _ in module.parameters(False))
    }
    for name, layer in layers.items():
        stays = not norm_decay and network.is_backbone(name) and isinstance(layer, nn.BatchNorm2d)
        assert all(bool((parameter == 1).all()) is stays for parameter in layer.parameters(False)), name
