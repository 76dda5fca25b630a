"""Colour jitter, gates and Gaussian blur of the mixed image (strong_augmentation.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import row_cases

from data_loaders.photometric import (
    JitterFactors,
    StrongAugmentation,
    blur_kernel_size,
    color_jitter,
    gaussian_blur,
)

ARCHIVE = "strong_augmentation.npz"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB in [0, 255]: specification, section 8
DTYPES = {"float32": torch.float32, "float64": torch.float64}
GATES = ("jitter", "blur")


def _gate_draws() -> list[tuple[str, int | str]]:
    return [(gate, number) for gate in GATES for number in row_cases("dida", ARCHIVE, f"{gate}_gate_values")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", row_cases("dida", ARCHIVE, "jitter_order"))
def test_jittered_colours_equal_the_reference(number: int, dtype: str) -> None:
    golden = load_npz("dida", ARCHIVE)
    first, second, third, fourth = golden["jitter_order"][number].tolist()
    factors = JitterFactors((first, second, third, fourth), *golden["jitter_factors_bcsh"][number].tolist())
    image = torch.from_numpy(golden["image_uint8"][number]).to(DTYPES[dtype]) / 255
    jittered = color_jitter(image, factors)
    assert jittered.dtype == DTYPES[dtype]
    mean, std = np.reshape(MEAN, (3, 1, 1)), np.reshape(STD, (3, 1, 1))
    normalised = (jittered.numpy().astype(np.float64) * 255 - mean) / std
    np.testing.assert_allclose(normalised, golden["jittered_normalised"][number], rtol=0, atol=2e-4)


@pytest.mark.parametrize(("gate", "number"), _gate_draws())
def test_a_gate_opens_as_the_reference(gate: str, number: int) -> None:
    golden = load_npz("dida", ARCHIVE)
    draw = float(golden[f"{gate}_gate_values"][number])
    opened = dict(zip(GATES, StrongAugmentation(0).opened(draw, draw), strict=True))
    assert opened[gate] == bool(golden[f"{gate}_applied"][number])


def test_kernel_sizes_equal_the_reference() -> None:
    table = load_npz("dida", ARCHIVE)["blur_kernel_table"].tolist()
    assert table
    assert [[length, blur_kernel_size(length)] for length, _ in table] == table


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", row_cases("dida", ARCHIVE, "blur_sigmas"))
def test_a_blurred_image_equals_the_reference(number: int, dtype: str) -> None:
    golden = load_npz("dida", ARCHIVE)
    sigmas = golden["blur_sigmas"].tolist()
    inputs = np.broadcast_to(golden["blur_input"], (len(sigmas), *golden["blur_input"].shape[1:]))
    image = torch.from_numpy(inputs[number : number + 1].copy()).to(DTYPES[dtype])
    blurred = gaussian_blur(image, sigmas[number : number + 1])
    assert blurred.dtype == DTYPES[dtype]
    expected = golden["blur_output_strided2"][number : number + 1]
    np.testing.assert_allclose(blurred[:, :, ::2, ::2].numpy(), expected, rtol=0, atol=2e-6)
