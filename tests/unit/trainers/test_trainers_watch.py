"""The watch remembers the first term that is not finite and stops with its iteration, name and images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.watch import FiniteWatch
from utils.errors import RunStopped

NAN, INF = float("nan"), float("inf")


def terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def test_finite_terms_pass_and_empty_ones_too() -> None:
    watch = FiniteWatch()
    watch.check()
    watch.add("step", 0, terms(a=1.0, b=-3e38), ["x.png"])
    watch.add("step", 0, {}, ["x.png"])
    watch.check()


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_bad_iteration_of_any_step_is_named_with_its_images(value: float) -> None:
    watch = FiniteWatch()
    for iteration in range(6):
        watch.add("D", iteration, terms(d=value if iteration >= 4 else 0.0), [f"t{iteration}.png"])
        watch.add("G", iteration, terms(a=1.0, b=value if iteration >= 3 else 0.0), [f"s{iteration}.png"])
    with pytest.raises(RunStopped) as stop:
        watch.check()
    message = str(stop.value)
    assert "b is not finite at iteration 3 on rank 0 (images t3.png, s3.png)" in message
    assert "\n" not in message


def test_a_value_that_became_finite_again_is_not_forgotten() -> None:
    watch = FiniteWatch()
    for iteration, value in enumerate((1.0, NAN, 1.0, NAN)):
        watch.add("G", iteration, terms(a=value), [])
    with pytest.raises(RunStopped, match=r"iteration 1 .*not remembered"):
        watch.check()


def test_terms_that_appear_behind_a_gate_are_watched() -> None:
    watch = FiniteWatch()
    watch.add("G", 0, terms(a=1.0), [])
    watch.add("G", 1, terms(a=1.0, kl=INF), [])
    with pytest.raises(RunStopped, match="kl is not finite at iteration 1"):
        watch.check()


def test_a_check_starts_anew() -> None:
    watch = FiniteWatch()
    watch.add("G", 0, terms(a=NAN), [])
    with pytest.raises(RunStopped):
        watch.check()
    watch.add("G", 1, terms(a=0.0), [])
    watch.check()


def test_each_image_is_named_once() -> None:
    watch = FiniteWatch()
    watch.add("G", 0, terms(a=NAN), ["x.png", "y.png"])
    watch.add("D", 0, terms(d=0.0), ["x.png", "y.png"])
    with pytest.raises(RunStopped, match=r"\(images x.png, y.png\)"):
        watch.check()


@pytest.mark.parametrize("name", ["weight", "running_var"])
def test_broken_weights_and_buffers_are_named(name: str) -> None:
    module = nn.BatchNorm2d(3)
    FiniteWatch().check_weights(module, 5)
    with torch.no_grad():
        getattr(module, name)[1] = INF
    with pytest.raises(RunStopped, match=rf"not finite after 5 iterations \({name}"):
        FiniteWatch().check_weights(module, 5)
