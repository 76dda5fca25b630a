"""Whether a GPU is there and works."""

from __future__ import annotations

import pytest
import torch

from utils import devices


def test_a_machine_without_a_visible_gpu_has_no_usable_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not devices.gpu_is_usable()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_a_visible_gpu_that_torch_cannot_use_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_visible_gpu", lambda: True)
    assert not devices.gpu_is_usable()


@pytest.mark.gpu
def test_a_working_gpu_is_usable() -> None:
    assert devices.gpu_is_usable()
