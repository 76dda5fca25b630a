"""Score maps, adversarial losses and their gradients of the multi-scale discriminator (discriminator.npz)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_files import cases, golden_state, has_golden, load_json, load_npz
from torch import Tensor

from losses.adversarial import discriminator_loss, generator_loss
from networks.discriminators import MultiScaleDiscriminator

ARCHIVE, RECIPES = "discriminator.npz", "discriminator.json"
LOSS_RTOL, GRADIENT_RTOL = 1e-5, 1e-4  # float32 on both sides
CASES = cases("mrnet", ARCHIVE, "gen_loss")

# Inputs of the shipped archive, for sets without discriminator.json.
SHIPPED = {
    "c19_even": {"weights": "D1", "fake_seed": 201, "real_seed": 202, "shape": [2, 19, 64, 128]},
    "c19_odd": {"weights": "D2", "fake_seed": 203, "real_seed": 204, "shape": [1, 19, 50, 71]},
    "c9": {"weights": "D1", "fake_seed": 205, "real_seed": 206, "shape": [1, 9, 48, 64]},
}


def _recipe(case: str) -> dict[str, Any]:
    recipes = load_json("mrnet", RECIPES) if has_golden("mrnet", RECIPES) else SHIPPED
    return recipes[case]


def _probability(seed: int, shape: list[int]) -> Tensor:
    logits = (np.random.default_rng(seed).standard_normal(shape) * 3).astype(np.float32)
    return torch.from_numpy(logits).softmax(1)


def _inputs(case: str) -> tuple[MultiScaleDiscriminator, Tensor, Tensor, dict[str, np.ndarray]]:
    golden = load_npz("mrnet", ARCHIVE)
    recipe = _recipe(case)
    network = MultiScaleDiscriminator(recipe["shape"][1])
    shapes = {name: list(entry.shape) for name, entry in network.state_dict().items()}
    network.load_state_dict(golden_state(shapes, recipe["weights"] + "."))
    fields = {
        key.removeprefix(case + "/"): value for key, value in golden.items() if key.startswith(case + "/")
    }
    return (
        network,
        _probability(recipe["fake_seed"], recipe["shape"]),
        _probability(recipe["real_seed"], recipe["shape"]),
        fields,
    )


def _close(actual: Tensor, expected: np.ndarray, rtol: float, scale: float | None = None) -> None:
    """Equal up to rtol of each value, or of `scale` where values may cancel."""
    atol = 0.0 if scale is None else rtol * scale
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", CASES)
def test_score_maps_equal_the_reference(case: str) -> None:
    network, fake, real, golden = _inputs(case)
    for name, outputs in (("fake", network(fake)), ("real", network(real))):
        assert len(outputs) == sum(field.startswith(f"{name}_out") for field in golden)
        for scale, output in enumerate(outputs):
            expected = golden[f"{name}_out{scale}"]
            _close(output, expected, LOSS_RTOL, float(np.abs(expected).max()))


@pytest.mark.parametrize("case", CASES)
def test_generator_loss_and_its_gradient_equal_the_reference(case: str) -> None:
    network, fake, _, golden = _inputs(case)
    network.requires_grad_(False)
    loss = generator_loss(network(fake.requires_grad_()))
    loss.backward()
    _close(loss, golden["gen_loss"], LOSS_RTOL)
    _close(fake.grad.norm(), golden["gen_grad_fake_norm"], GRADIENT_RTOL)
    expected = golden["gen_grad_fake"]
    _close(fake.grad[:, :, ::3, ::5], expected, GRADIENT_RTOL, float(np.abs(expected).max()))


@pytest.mark.parametrize("case", CASES)
def test_discriminator_loss_penalty_and_gradients_equal_the_reference(case: str) -> None:
    network, fake, real, golden = _inputs(case)
    loss, penalty = discriminator_loss(network, fake, real)
    loss.backward()
    _close(loss, golden["dis_loss"], LOSS_RTOL)
    _close(penalty, golden["dis_reg"], LOSS_RTOL)
    parameters = dict(network.named_parameters())
    gradients = [parameters[str(name)].grad for name in golden["dis_param_grad_names"]]
    assert len(gradients) == len(parameters)
    norms = torch.stack([gradient.norm() for gradient in gradients])
    _close(norms, golden["dis_param_grad_norms"], GRADIENT_RTOL)
    for gradient, total in zip(gradients, golden["dis_param_grad_sums"], strict=True):
        _close(gradient.sum(), total, GRADIENT_RTOL, float(gradient.abs().sum()))


@pytest.mark.parametrize("case", CASES)
def test_each_scale_adds_its_own_terms(case: str) -> None:
    network, fake, real, golden = _inputs(case)
    for scale in range(len(golden["per_scale_fake"])):

        def alone(probability: Tensor, scale: int = scale) -> list[Tensor]:
            return network(probability)[scale : scale + 1]

        loss, penalty = discriminator_loss(alone, fake, real, penalty_weight=1.0)
        least_squares = golden["per_scale_fake"][scale] + golden["per_scale_real"][scale]
        _close(loss - penalty, least_squares, GRADIENT_RTOL)
        _close(penalty, golden["per_scale_grad2_per_sample"][scale].mean(), GRADIENT_RTOL)
