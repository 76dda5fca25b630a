"""SGD that steps a parameter several times per iteration, and the choice of kernels for SGD and Adam."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from utils import apex_support
from utils.errors import UserError

Implementation = Literal["torch", "apex", "off"]  # --fused-optimizer
ParameterGroup = dict[str, Any]


class RepeatedSGD(torch.optim.Optimizer):
    """Momentum SGD that steps the parameters of a group `multiplicity` times per iteration on one gradient.

    With k = group["multiplicity"], each iteration does, k times:

        g = g + weight_decay * p        # kept from one repetition to the next
        v = momentum * v + g            # v = g in the very first repetition
        p = p - lr * (g + momentum * v)     # Nesterov, else p - lr * v

    so a parameter moves about k times as far as `lr` says and decays by about k (k + 1) / 2 times. k = 1 is
    `torch.optim.SGD`. Groups may also carry "lr_scale", for `set_learning_rate`.

    Source: the published models of Zheng & Yang were trained with parameters listed up to four times in one
    group, and the optimizer of that time stepped every listing in turn;
    `tests/goldens/test_mrnet_sgd_repeated.py`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[ParameterGroup],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        foreach: bool = True,
    ) -> None:
        """Defaults of the groups; each may set its own. `foreach` steps all parameters of a group at once.

        Raises:
            ValueError: a multiplicity is not an integer of at least 1.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "multiplicity": 1,
            "lr_scale": 1.0,
        }
        super().__init__(params, defaults)
        self.foreach = foreach
        for group in self.param_groups:
            if not isinstance(group["multiplicity"], int) or group["multiplicity"] < 1:
                raise ValueError(f"multiplicity must be an integer >= 1, not {group['multiplicity']!r}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One iteration. Gradients are left as they are; parameters without one are left out."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for together in [moving] if self.foreach else [[parameter] for parameter in moving]:
                if together:
                    self._step_group(together, group)
        return loss

    def _step_group(self, parameters: list[Tensor], group: ParameterGroup) -> None:
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        gradients = [parameter.grad for parameter in parameters]
        gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)  # ours from here on
        for repetition in range(group["multiplicity"]):
            if repetition:
                torch._foreach_add_(gradients, parameters, alpha=weight_decay)
            velocity = self._velocity(parameters, gradients, momentum)
            ahead = torch._foreach_add(gradients, velocity, alpha=momentum) if group["nesterov"] else velocity
            torch._foreach_add_(parameters, ahead, alpha=-lr)

    def _velocity(self, parameters: list[Tensor], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        """Momentum buffers after this repetition; a parameter that never moved starts with its gradient."""
        known = [index for index, p in enumerate(parameters) if "momentum_buffer" in self.state[p]]
        if known:
            buffers = [self.state[parameters[index]]["momentum_buffer"] for index in known]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, [gradients[index] for index in known])
        for index in set(range(len(parameters))).difference(known):
            self.state[parameters[index]]["momentum_buffer"] = gradients[index].clone()
        return [self.state[parameter]["momentum_buffer"] for parameter in parameters]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group's rate to `lr` times its "lr_scale" (1 where a group has none)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def build_sgd(
    groups: Sequence[ParameterGroup],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool,
    implementation: Implementation = "torch",
) -> torch.optim.Optimizer:
    """Momentum SGD over parameter groups, which may carry "multiplicity" and "lr_scale".

    Args:
        groups: disjoint; "lr_scale" multiplies `lr`.
        lr: of a group without "lr_scale".
        momentum: in [0, 1).
        weight_decay: applies to every parameter, also biases and norms.
        nesterov: look ahead along the momentum.
        implementation: "torch" fuses on CUDA, "off" is the plain loop, "apex" is `apex.optimizers.FusedSGD`.
            Groups with a multiplicity above 1 always take `RepeatedSGD`.

    Raises:
        UserError: "apex" where it is missing, has no fused optimizers, or groups are repeated.
    """
    groups = [{**group, "lr": lr * group.get("lr_scale", 1.0)} for group in groups]
    settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    repeated = any(group.get("multiplicity", 1) != 1 for group in groups)
    if implementation == "apex":
        apex_support.require("fused_optimizer")
        if repeated:
            raise UserError(
                "--fused-optimizer apex cannot step a parameter several times per iteration, as the "
                "published settings do; use --fused-optimizer torch, or --quirks fixed"
            )
        from apex.optimizers import FusedSGD

        return FusedSGD(groups, **settings)
    if repeated:
        return RepeatedSGD(groups, **settings, foreach=implementation != "off")
    return torch.optim.SGD(groups, **settings, **_kernels(groups, implementation))


def build_adam(
    params: Iterable[Tensor] | Sequence[ParameterGroup],
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    implementation: Implementation = "torch",
) -> torch.optim.Optimizer:
    """Adam, or AdamW if the weight decay is decoupled from the gradient. `implementation` as for `build_sgd`.

    Raises:
        UserError: "apex" where it is missing or has no fused optimizers.
    """
    groups = list(params)
    settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    if implementation == "apex":
        apex_support.require("fused_optimizer")
        from apex.optimizers import FusedAdam

        return FusedAdam(groups, adam_w_mode=decoupled, **settings)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(groups, **settings, **_kernels(groups, implementation))


def _kernels(groups: Sequence[Tensor] | Sequence[ParameterGroup], implementation: str) -> dict[str, bool]:
    """Arguments of torch's optimizers: fused if every parameter is on CUDA, a plain loop for "off"."""
    if implementation == "off":
        return {"foreach": False, "fused": False}
    parameters = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    return {"fused": True} if parameters and all(p.is_cuda for p in parameters) else {}
