"""Memory regularisation and confident entropy."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from losses.memory import confident_entropy, fused_log_probability, memory_regularization
from utils.maths import entropy, kl_divergence, log_softmax


def _heads(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    auxiliary, main = torch.randn(2, 2, 4, 3, 3, generator=generator, dtype=torch.float64)
    return auxiliary.clone().requires_grad_(), main.clone().requires_grad_()


def test_memory_is_the_fused_prediction() -> None:
    auxiliary, main = _heads()
    torch.testing.assert_close(
        fused_log_probability(auxiliary, main), torch.log_softmax(0.5 * auxiliary + main, 1)
    )


@pytest.mark.parametrize("auxiliary_weight", [0.5, 1.0])
def test_memory_term_is_two_divergences_from_the_fused_prediction(auxiliary_weight: float) -> None:
    auxiliary, main = _heads()
    memory = fused_log_probability(auxiliary, main, auxiliary_weight=auxiliary_weight)
    expected = kl_divergence(memory, log_softmax(main)) + kl_divergence(memory, log_softmax(auxiliary))
    actual = memory_regularization(auxiliary, main, auxiliary_weight=auxiliary_weight)
    torch.testing.assert_close(actual, expected.mean())


def test_the_memory_is_held_fixed() -> None:
    auxiliary, main = _heads()
    memory_regularization(auxiliary, main).backward()
    memory = fused_log_probability(auxiliary, main).exp().detach()
    pixels = memory.numel() / memory.shape[1]
    for head in (auxiliary, main):
        torch.testing.assert_close(head.grad, (head.detach().softmax(1) - memory) / pixels)


def test_uniform_heads_worked_by_hand() -> None:
    uniform = torch.zeros(1, 4, 2, 2)
    assert memory_regularization(uniform, uniform).item() == pytest.approx(0, abs=1e-7)
    assert confident_entropy(uniform, uniform).item() == pytest.approx(math.log(4) / 4)


def test_confidence_is_held_fixed_in_the_entropy_term() -> None:
    auxiliary, main = _heads()
    actual = torch.autograd.grad(confident_entropy(auxiliary, main), (auxiliary, main))
    confidence = fused_log_probability(auxiliary, main).exp().square().sum(1).detach()

    def with_fixed_confidence(one: Tensor, other: Tensor) -> Tensor:
        return (confidence * entropy(fused_log_probability(one, other))).mean()

    assert torch.autograd.gradcheck(with_fixed_confidence, (auxiliary, main))
    expected = torch.autograd.grad(with_fixed_confidence(auxiliary, main), (auxiliary, main))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("term", [memory_regularization, confident_entropy])
def test_certain_predictions_cost_no_nan(term: object) -> None:
    certain = torch.tensor([300.0, -300.0]).view(1, 2, 1, 1).requires_grad_()
    value = term(certain, -certain)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(certain.grad).all()


@pytest.mark.parametrize("term", [memory_regularization, confident_entropy])
@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_terms_are_at_least_float32(term: object, dtype: torch.dtype, expected: torch.dtype) -> None:
    auxiliary, main = _heads()
    assert term(auxiliary.to(dtype), main.to(dtype)).dtype == expected
