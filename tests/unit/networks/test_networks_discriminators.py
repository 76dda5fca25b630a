"""networks.discriminators"""

from __future__ import annotations

import torch

from networks.discriminators import MultiScaleDiscriminator


def test_three_maps_at_an_eighth_of_three_scales() -> None:
    maps = MultiScaleDiscriminator(4)(torch.rand(2, 4, 64, 128).softmax(1))
    assert [tuple(m.shape) for m in maps] == [(2, 1, 8, 16), (2, 1, 4, 8), (2, 1, 2, 4)]


def test_initial_weights_are_small_and_biases_zero() -> None:
    network = MultiScaleDiscriminator(4)
    weights = torch.cat([p.flatten() for name, p in network.named_parameters() if name.endswith("weight")])
    assert abs(weights.std().item() - 0.02) < 0.001
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_padding_does_not_darken_the_border_of_smaller_scales() -> None:
    """The average of a constant map is that constant, up to its border."""
    network = MultiScaleDiscriminator(2)
    seen: list[torch.Tensor] = []
    network.cnns[1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(torch.full((1, 2, 33, 35), 0.5))
    torch.testing.assert_close(seen[0], torch.full((1, 2, 17, 18), 0.5))


def test_input_gradient_penalty_reaches_the_weights() -> None:
    network = MultiScaleDiscriminator(2).double()
    real = torch.rand(1, 2, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(sum(m.sum() for m in network(real)), real, create_graph=True)
    gradient.square().sum().backward()
    assert network.cnns[0][0].conv.weight.grad.abs().sum() > 0
