"""Repeated SGD and the choice of optimizer kernels."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from utils import apex_support
from utils.errors import UserError
from utils.optimizers import RepeatedSGD, build_adam, build_sgd, set_learning_rate

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True}


def _parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).double()) for shape in ((3,), (2, 4))]


def _train(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).double()
        optimizer.step()


def _by_hand(values: Tensor, gradients: list[Tensor], multiplicity: int, nesterov: bool) -> Tensor:
    velocity, values = None, values.clone()
    for gradient in gradients:
        gradient = gradient.clone()
        for _ in range(multiplicity):
            gradient += 0.05 * values
            velocity = gradient.clone() if velocity is None else 0.9 * velocity + gradient
            values -= 0.1 * (gradient + 0.9 * velocity if nesterov else velocity)
    return values


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("multiplicity", [1, 2, 4])
def test_repetitions_follow_the_definition(multiplicity: int, nesterov: bool) -> None:
    parameter = _parameters()[0]
    gradients = [torch.randn(3, generator=torch.Generator().manual_seed(i)).double() for i in range(3)]
    expected = _by_hand(parameter.detach(), gradients, multiplicity, nesterov)
    optimizer = RepeatedSGD(
        [{"params": [parameter], "multiplicity": multiplicity}], **{**SETTINGS, "nesterov": nesterov}
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(parameter.grad, gradient)
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_one_repetition_is_torchs_sgd(nesterov: bool) -> None:
    settings = {**SETTINGS, "nesterov": nesterov}
    own, torchs = _parameters(), _parameters()
    _train(RepeatedSGD(own, **settings), own, range(4))
    _train(torch.optim.SGD(torchs, **settings), torchs, range(4))
    torch.testing.assert_close(own, torchs, rtol=1e-12, atol=0)


def test_groups_keep_their_own_multiplicity_and_rate() -> None:
    together, apart = _parameters(), _parameters()
    groups = [{"multiplicity": 3}, {"multiplicity": 1, "lr_scale": 10.0}]
    groups = [{"params": [p], **group} for p, group in zip(together, groups, strict=True)]
    _train(build_sgd(groups, **SETTINGS), together, range(3))
    optimizers = [
        RepeatedSGD([{"params": apart[:1], "multiplicity": 3}], **SETTINGS),
        torch.optim.SGD(apart[1:], **{**SETTINGS, "lr": 1.0}),
    ]
    for step in range(3):
        _train(optimizers[0], apart, range(step, step + 1))
        optimizers[1].step()
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=0)


def test_parameters_without_gradient_stay_and_start_late() -> None:
    late, start = _parameters(), _parameters()
    optimizer = RepeatedSGD([{"params": late, "multiplicity": 2}], **SETTINGS)
    late[0].grad = torch.ones(3).double()
    optimizer.step()
    assert torch.equal(late[1], start[1])
    assert "momentum_buffer" not in optimizer.state[late[1]]
    late[1].grad = torch.ones(2, 4).double()
    optimizer.step()
    expected = _by_hand(start[1].detach(), [torch.ones(2, 4).double()], 2, True)
    torch.testing.assert_close(late[1].detach(), expected, rtol=1e-12, atol=0)


def test_a_resumed_optimizer_continues_bit_for_bit() -> None:
    whole, first = _parameters(), _parameters()
    _train(RepeatedSGD([{"params": whole, "multiplicity": 3}], **SETTINGS), whole, range(5))
    before = RepeatedSGD([{"params": first, "multiplicity": 3}], **SETTINGS)
    _train(before, first, range(3))
    file = io.BytesIO()
    torch.save({"optimizer": before.state_dict(), "weights": [p.detach() for p in first]}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    second = [nn.Parameter(weight) for weight in state["weights"]]
    after = RepeatedSGD([{"params": second, "multiplicity": 3}], **SETTINGS)
    after.load_state_dict(state["optimizer"])
    _train(after, second, range(3, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


@pytest.mark.parametrize("multiplicity", [0, 1.5, "2"])
def test_a_multiplicity_must_be_a_positive_integer(multiplicity: object) -> None:
    with pytest.raises(ValueError, match="multiplicity"):
        RepeatedSGD([{"params": _parameters(), "multiplicity": multiplicity}], lr=0.1)


def test_a_closure_is_evaluated_with_gradients() -> None:
    parameter = nn.Parameter(torch.ones(1))
    optimizer = RepeatedSGD([parameter], lr=0.5, momentum=0.0, nesterov=False)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 1
    assert parameter.item() == 0


def test_rates_follow_the_scale_of_each_group() -> None:
    first, second = _parameters()
    optimizer = build_sgd([{"params": [first]}, {"params": [second], "lr_scale": 10.0}], **SETTINGS)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    set_learning_rate(optimizer, 0.2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 2.0]


@pytest.mark.parametrize("implementation", ["torch", "off"])
def test_disjoint_single_steps_use_torchs_own_sgd(implementation: str) -> None:
    groups = [{"params": _parameters(), "multiplicity": 1}]
    optimizer = build_sgd(groups, implementation=implementation, **SETTINGS)
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.param_groups[0]["foreach"] is False) == (implementation == "off")


def test_repeated_steps_one_parameter_after_the_other_are_the_same_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together: list[int] = []
    step_group = RepeatedSGD._step_group
    monkeypatch.setattr(
        RepeatedSGD,
        "_step_group",
        lambda self, parameters, group: (
            together.append(len(parameters)) or step_group(self, parameters, group)
        ),
    )
    results = []
    for implementation in ("torch", "off"):
        parameters = _parameters()
        groups = [{"params": parameters, "multiplicity": 3}]
        _train(build_sgd(groups, implementation=implementation, **SETTINGS), parameters, range(2))
        results.append(parameters)
    assert together == [2, 2, 1, 1, 1, 1]
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_adam_takes_its_settings_and_the_plain_loop_on_request() -> None:
    optimizer = build_adam(iter(_parameters()), lr=1e-4, betas=(0.9, 0.99), implementation="off")
    group = optimizer.param_groups[0]
    assert type(optimizer) is torch.optim.Adam
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.99), 1e-8, 0.0)
    assert group["foreach"] is group["fused"] is False


class _FusedStandIn:
    """Records what an apex optimizer would be given."""

    def __init__(self, groups: list[Any], **settings: object) -> None:
        self.groups, self.settings = groups, settings


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    """An importable apex whose fused optimizers only record their arguments."""
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedSGD = optimizers.FusedAdam = _FusedStandIn
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)
    monkeypatch.setattr(apex_support, "require", lambda feature: None)


@pytest.mark.usefixtures("apex")
def test_apex_gets_the_same_settings() -> None:
    sgd = build_sgd([{"params": _parameters()}], implementation="apex", **SETTINGS)
    assert sgd.settings == SETTINGS
    adam = build_adam(_parameters(), lr=1e-4, betas=(0.9, 0.99), implementation="apex")
    assert adam.settings["adam_w_mode"] is False


@pytest.mark.usefixtures("apex")
def test_apex_refuses_repeated_parameters_with_a_remedy() -> None:
    groups = [{"params": _parameters(), "multiplicity": 3}]
    with pytest.raises(UserError, match="--fused-optimizer torch"):
        build_sgd(groups, implementation="apex", **SETTINGS)


def test_missing_apex_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(feature: str) -> None:
        raise UserError(f"no {feature}")

    monkeypatch.setattr(apex_support, "require", refuse)
    with pytest.raises(UserError, match="no fused_optimizer"):
        build_sgd([{"params": _parameters()}], implementation="apex", **SETTINGS)
    with pytest.raises(UserError, match="no fused_optimizer"):
        build_adam(_parameters(), lr=0.1, betas=(0.9, 0.99), implementation="apex")


@pytest.mark.gpu
def test_gpu_kernels_agree_with_the_cpu() -> None:
    for multiplicity in (1, 3):
        on_cpu, on_gpu = _parameters(), [nn.Parameter(p.detach().cuda()) for p in _parameters()]
        for parameters in (on_cpu, on_gpu):
            groups = [{"params": parameters, "multiplicity": multiplicity}]
            optimizer = build_sgd(groups, **SETTINGS)
            for step in range(3):
                generator = torch.Generator().manual_seed(step)
                for parameter in parameters:
                    gradient = torch.randn(parameter.shape, generator=generator).double()
                    parameter.grad = gradient.to(parameter.device)
                optimizer.step()
        torch.testing.assert_close([p.detach().cpu() for p in on_gpu], [p.detach() for p in on_cpu])
