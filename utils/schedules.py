"""Learning rates as pure functions of the iteration (0-based optimizer updates)."""

from __future__ import annotations

WARM_UP_START = 0.1  # share of the base rate at iteration 0 of a warm-up


def polynomial(iteration: int, *, base: float, num_steps: int, power: float, minimum: float = 0.0) -> float:
    """(base - minimum) * (1 - iteration / num_steps)^power + minimum, and `minimum` from `num_steps` on."""
    return (base - minimum) * max(0.0, 1 - iteration / num_steps) ** power + minimum


def polynomial_stepped_first(iteration: int, *, base: float, num_steps: int, power: float) -> float:
    """`polynomial` one iteration ahead: of a scheduler that steps before each update, not after it.

    So `base` itself is never used, and the rate is 0 from iteration `num_steps` - 1 on. Source: the authors'
    released code of Ning et al., ICCV 2021 (MADA), which fails past the end;
    `tests/goldens/test_mada_lr_schedule.py` pins the rates.
    """
    return polynomial(iteration + 1, base=base, num_steps=num_steps, power=power)


def polynomial_with_warm_up(
    iteration: int, *, base: float, num_steps: int, power: float, warm_up: int
) -> float:
    """Linear from 10 % to 100 % of `base` in `warm_up` iterations, then `polynomial` without an offset.

    The rate drops a little where the two meet, as in the authors' released code of Zheng & Yang, IJCV 2021;
    `tests/goldens/test_mrnet_lr_schedule.py` pins it. No warm-up when `warm_up` is 0.
    """
    if iteration < warm_up:
        return base * (WARM_UP_START + (1 - WARM_UP_START) * iteration / warm_up)
    return polynomial(iteration, base=base, num_steps=num_steps, power=power)


def polynomial_under_warm_up(
    iteration: int,
    *,
    base: float,
    num_steps: int,
    power: float,
    minimum: float = 0.0,
    warm_up: int,
    ratio: float,
) -> float:
    """`polynomial`, times a factor that grows linearly from `ratio` to 1 in `warm_up` iterations.

    The rate that warms up decays already, so nothing jumps where the warm-up ends. No warm-up when `warm_up`
    is 0. Source: the authors' released code of Hoyer et al., CVPR 2022 (DAFormer), with ratio 1e-6, power 1
    and minimum 0; `tests/goldens/test_dida_lr_schedule.py` pins it.
    """
    rate = polynomial(iteration, base=base, num_steps=num_steps, power=power, minimum=minimum)
    if iteration < warm_up:
        rate *= 1 - (1 - iteration / warm_up) * (1 - ratio)
    return rate
