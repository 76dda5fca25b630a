"""On a CUDA device, self-training is what it is on a CPU, never waits for the device, and runs in every
precision."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch

from tests.toy_self_trainers import drawn_batches, gradients, make_trainer, small_network
from trainers.self_training import SelfTrainingTrainer
from trainers.steps import Batches
from utils.distributed import World
from utils.precision import Precision, exact_float32

pytestmark = pytest.mark.gpu
METHODS = ("daformer", "dida")
DROPOUT = {"drop_rate": 0.1, "drop_path_rate": 0.1}
FLOAT32 = 1e-3  # relative to the largest; float32 and float64 on a CPU differ by some 1e-6


@pytest.fixture
def _sync_debug_mode_ends() -> Iterator[None]:
    """Undoes what the test sets after its first iteration, which may wait while it allocates."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def _compiled_code_ends() -> Iterator[None]:
    """Drops what the test compiled."""
    yield
    torch.compiler.reset()


def trainer_on(
    device_type: str,
    method: str,
    *,
    kind: str = "mit",
    precision: str = "fp32",
    double: bool = False,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> SelfTrainingTrainer:
    """A small trainer on a CPU or a GPU, the same weights on both."""
    device = torch.device(device_type)
    return make_trainer(
        method,
        network=small_network(kind, double=double, **options).to(device),
        settings={"optimizer": "adamw", "backbone_norm_decay": False, **(settings or {})},
        loop={"precision": Precision(precision, device_type)},
        world=World(rank=0, size=1, local_rank=0, device=device),
    )


def batches_on(device_type: str, first: int = 0) -> Batches:
    return {name: batch.to(device_type) for name, batch in drawn_batches(first=first).items()}


def assert_same_iterations(
    ours: SelfTrainingTrainer, other: SelfTrainingTrainer, *, count: int, tolerance: float
) -> None:
    """Equal losses and gradients in `count` iterations, relative to the largest of each tensor."""
    for iteration in range(count):
        for trainer in (ours, other):
            first = 2 * iteration
            trainer.run_iteration(iteration, [batches_on(trainer.world.device.type, first=first)])
        terms, expected_terms = ours.meter.read(), other.meter.read()
        assert terms.keys() == expected_terms.keys()
        for name, expected in expected_terms.items():
            assert terms[name] == pytest.approx(expected, rel=tolerance, abs=tolerance), name
        found = gradients(ours)
        for name, expected in gradients(other).items():
            largest = float(expected.abs().max())
            torch.testing.assert_close(
                found[name].cpu(), expected.cpu(), rtol=0, atol=tolerance * max(largest, 1e-3), msg=name
            )


@pytest.mark.parametrize("kind", ["mit", "plus", "affine"])
@pytest.mark.parametrize("method", METHODS)
def test_iterations_in_float64_are_those_of_a_cpu(method: str, kind: str) -> None:
    settings = {"masked_consistency": 1.0, **({"smooth": 0.9} if method == "dida" else {})}
    ours, other = (
        trainer_on(device, method, kind=kind, double=True, settings=settings) for device in ("cuda", "cpu")
    )
    assert_same_iterations(ours, other, count=3, tolerance=1e-7)
    for found, expected in zip(
        ours.teacher.network.parameters(), other.teacher.network.parameters(), strict=True
    ):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_an_iteration_in_float32_is_that_of_a_cpu(method: str) -> None:
    ours, other = (trainer_on(device, method) for device in ("cuda", "cpu"))
    with exact_float32():  # cuDNN takes TF32 otherwise
        assert_same_iterations(ours, other, count=1, tolerance=FLOAT32)


@pytest.mark.usefixtures("_sync_debug_mode_ends")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["mit", "plus"])
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("daformer", {"masked_consistency": 1.0, "teacher_augmentation": True}),
        ("dida", {}),
        ("dida", {"smooth": 0.9, "bank_absent": "keep", "bank_labels": "own", "calibrate": "teacher"}),
    ],
)
def test_iterations_between_two_logging_steps_never_wait_for_the_device(
    method: str, settings: dict[str, Any], kind: str, precision: str
) -> None:
    settings = {"max_grad_norm": 10.0, **settings}
    trainer = trainer_on("cuda", method, kind=kind, precision=precision, settings=settings)
    batches = [batches_on("cuda", first=2 * iteration) for iteration in range(6)]
    for iteration in range(2):  # the later ones do the same work: one updates the bank, the other does not
        trainer.run_iteration(iteration, [batches[iteration]])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    for iteration in range(2, 6):
        trainer.run_iteration(iteration, [batches[iteration]])
    torch.cuda.set_sync_debug_mode("default")
    assert any(batch["target"].content is not None for batch in batches[2:])  # padded images take part
    assert all(math.isfinite(value) for value in trainer.meter.read().values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", METHODS)
def test_iterations_in_half_precision_stay_finite(method: str, precision: str) -> None:
    trainer = trainer_on("cuda", method, precision=precision, **DROPOUT)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    for iteration in range(4):
        trainer.run_iteration(iteration, [batches_on("cuda", first=2 * iteration)])
    trainer.watch.check()
    assert all(math.isfinite(value) for value in trainer.meter.read().values())
    for network in (trainer.network, trainer.teacher.network):
        assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    after = trainer.network.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.usefixtures("_compiled_code_ends")
def test_compiled_iterations_are_those_of_the_plain_network() -> None:
    compiled, plain = (trainer_on("cuda", "dida", settings={"compile": wanted}) for wanted in (True, False))
    with exact_float32():
        assert_same_iterations(compiled, plain, count=1, tolerance=FLOAT32)
        for iteration in range(1, 3):
            compiled.run_iteration(iteration, [batches_on("cuda", first=2 * iteration)])
    compiled.watch.check()
