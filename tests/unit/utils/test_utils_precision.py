"""Precision by name and device, and the backends' switches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import torch

from utils.errors import UserError
from utils.precision import Precision, configure_backends, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    return monkeypatch


@pytest.fixture
def gpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    return monkeypatch


def test_auto_is_fp32_on_the_cpu() -> None:
    assert resolve_precision("auto", CPU).name == "fp32"


@pytest.mark.usefixtures("gpu_with_bf16")
def test_auto_is_bf16_on_a_gpu_that_has_it() -> None:
    assert resolve_precision("auto", GPU).name == "bf16"


@pytest.mark.usefixtures("gpu_without_bf16")
def test_a_gpu_that_only_emulates_bf16_gets_fp32_and_refuses_bf16() -> None:
    assert resolve_precision("auto", GPU).name == "fp32"
    assert resolve_precision("fp16", GPU).name == "fp16"
    with pytest.raises(UserError, match="Tesla V100 does not compute in bfloat16"):
        resolve_precision("bf16", GPU)


def test_fp16_on_the_cpu_and_unknown_names_are_errors() -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        resolve_precision("fp16", CPU)
    with pytest.raises(UserError, match="--precision fp8 is unknown"):
        resolve_precision("fp8", CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fp32_casts_nothing(dtype: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2).to(dtype)
    with resolve_precision("fp32", CPU).autocast():
        assert layer(torch.ones(1, 2, dtype=dtype)).dtype is dtype


def test_bf16_computes_products_in_bfloat16_and_keeps_weights() -> None:
    layer = torch.nn.Linear(2, 2)
    with resolve_precision("bf16", CPU).autocast():
        assert layer(torch.ones(1, 2)).dtype is torch.bfloat16
    assert layer.weight.dtype is torch.float32


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_the_scaler_passes_losses_through_except_for_fp16(name: str) -> None:
    scaler = Precision(name).scaler()
    assert not scaler.is_enabled()
    assert scaler.scale(torch.tensor(3.0)) == 3.0


@pytest.fixture
def _backends(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts torch's process-wide switches back."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_backends")
def test_deterministic_mode_forbids_what_cannot_repeat(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        configure_backends(device=CPU, tf32=False, deterministic=True, cudnn_benchmark=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "deterministic mode" in caplog.text


@pytest.mark.usefixtures("_backends")
def test_without_deterministic_mode_the_fastest_kernels_may_be_searched() -> None:
    configure_backends(device=CPU, tf32=True, deterministic=False, cudnn_benchmark=True)
    assert torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


@pytest.mark.gpu
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_set_as_asked_on_a_gpu(tf32: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        configure_backends(device=GPU, tf32=tf32, deterministic=False, cudnn_benchmark=False)
        a = torch.full((64, 64), 1.0 + 2.0**-12, device=GPU)  # needs 12 bits of mantissa; TF32 has 10
        assert torch.equal(a @ torch.eye(64, device=GPU), a) is not tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
