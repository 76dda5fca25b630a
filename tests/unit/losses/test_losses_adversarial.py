"""Least-squares adversarial losses and the gradient penalty."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from losses.adversarial import discriminator_loss, generator_loss


class Toy(nn.Module):
    """Two scales, each one strided convolution with a smooth activation."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scales = nn.ModuleList(nn.Conv2d(channels, 1, 2, stride=2) for _ in range(2))

    def forward(self, probability: Tensor) -> list[Tensor]:
        return [torch.tanh(scale(probability)) for scale in self.scales]


def _probability(seed: int, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64).softmax(1)


def test_generator_loss_worked_by_hand() -> None:
    outputs = [torch.tensor([0.0, 2.0]), torch.tensor([[3.0]])]
    assert generator_loss(outputs).item() == 2 * 1 + 2 * 4


def test_a_frozen_discriminator_passes_gradient_to_the_probability_only() -> None:
    network, fake = Toy().double().requires_grad_(False), _probability(0).requires_grad_()
    generator_loss(network(fake)).backward()
    assert fake.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_penalty_of_a_linear_discriminator_worked_by_hand() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)

    def linear(probability: Tensor) -> list[Tensor]:
        return [torch.einsum("nchw,c->nhw", probability, weight)]

    real = _probability(1)
    loss, penalty = discriminator_loss(linear, torch.zeros_like(real), real, penalty_weight=0.1)
    expected = 0.1 * 4 * 4 * weight.square().sum()  # the same gradient at each of 16 pixels
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(loss - penalty, (linear(real)[0] - 1).square().mean())


def test_parameter_gradients_include_the_second_derivative() -> None:
    fake, real = _probability(2), _probability(3)
    first, second = (torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def loss(*weights: Tensor) -> tuple[Tensor, Tensor]:
        def network(probability: Tensor) -> list[Tensor]:
            return [torch.tanh(nn.functional.conv2d(probability, weight)) for weight in weights]

        return discriminator_loss(network, fake, real, penalty_weight=0.5)

    assert torch.autograd.gradcheck(loss, (first, second))


def test_neither_input_receives_a_gradient() -> None:
    fake, real = _probability(4).requires_grad_(), _probability(5).requires_grad_()
    loss, _ = discriminator_loss(Toy().double(), fake, real)
    loss.backward()
    assert fake.grad is None
    assert real.grad is None


def test_penalty_is_a_mean_over_samples() -> None:
    network, fake, real = Toy().double(), _probability(6), _probability(7)
    _, penalty = discriminator_loss(network, fake, real)
    single = [discriminator_loss(network, fake[i : i + 1], real[i : i + 1])[1] for i in range(2)]
    torch.testing.assert_close(penalty, torch.stack(single).mean())


def test_halves_of_a_batch_average_to_its_gradient() -> None:
    network, fake, real = Toy().double(), _probability(8, 4), _probability(9, 4)

    def gradient(rows: slice) -> Tensor:
        loss, _ = discriminator_loss(network, fake[rows], real[rows])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    halves = (gradient(slice(0, 2)) + gradient(slice(2, 4))) / 2
    torch.testing.assert_close(halves, gradient(slice(0, 4)))


def test_autocast_does_not_lower_the_precision_of_the_penalty() -> None:
    network, fake, real = Toy(), _probability(10).float(), _probability(11).float()
    expected = discriminator_loss(network, fake, real)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = discriminator_loss(network, fake, real)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_probabilities_are_promoted(dtype: torch.dtype) -> None:
    loss, penalty = discriminator_loss(Toy(), _probability(12).to(dtype), _probability(13).to(dtype))
    assert loss.dtype == penalty.dtype == torch.float32
