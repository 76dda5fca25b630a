"""Colour operations against HSV arithmetic pixel by pixel, blur against the dense kernel, draws per image."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_loaders.photometric import (
    JitterFactors,
    StrongAugmentation,
    blur_kernel_size,
    color_jitter,
    gaussian_blur,
)

ORDER = (0, 1, 2, 3)
NEUTRAL = JitterFactors(ORDER, brightness=1, contrast=1, saturation=1, hue=0)
EPSILON_ERROR = 2e-6  # the published HSV saturation is a little too small
AUGMENTATION = StrongAugmentation(0)
ALWAYS = StrongAugmentation(0, jitter_threshold=-1, blur_threshold=-1)
HALVES = ((slice(0, 2), [0, 1]), (slice(2, 4), [2, 3]))  # of a batch: its images and their draws


def random_image(height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).random((3, height, width))).to(dtype)


def special_colors() -> Tensor:
    """(3, 1, n): black, white, greys, primaries, and colours in which two channels tie."""
    levels = (0.0, 0.5, 1.0)
    colors = [(red, green, blue) for red in levels for green in levels for blue in levels]
    return torch.tensor(colors, dtype=torch.float64).T[:, None]


def through_hsv(image: Tensor, change: Callable[[float, float, float], tuple[float, float, float]]) -> Tensor:
    """Pixel by pixel with the standard library's HSV."""
    pixels = image.flatten(1).T.tolist()
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel))) for pixel in pixels]
    return torch.tensor(changed, dtype=image.dtype).T.reshape(image.shape)


@pytest.mark.parametrize("factor", [0.0, 0.8, 1.0, 1.2, 5.0])
def test_saturation_scales_the_hsv_saturation(factor: float) -> None:
    for image in (random_image(12, 17, torch.float64), special_colors()):
        expected = through_hsv(image, lambda hue, sat, value: (hue, min(1.0, factor * sat), value))
        result = color_jitter(image, replace(NEUTRAL, saturation=factor, order=(2, 0, 1, 3)))
        torch.testing.assert_close(result, expected, rtol=0, atol=5 * EPSILON_ERROR)


@pytest.mark.parametrize("factor", [-1.3, -0.5, -0.2, 0.0, 0.1, 1 / 3, 0.5, 0.9, 2.0])
def test_hue_turns_the_hsv_hue(factor: float) -> None:
    for image in (random_image(12, 17, torch.float64), special_colors()):
        expected = through_hsv(image, lambda hue, sat, value: ((hue + factor) % 1, sat, value))
        result = color_jitter(image, replace(NEUTRAL, hue=factor, order=(3, 0, 1, 2)))
        torch.testing.assert_close(result, expected, rtol=0, atol=5 * EPSILON_ERROR)


def test_a_full_turn_of_the_hue_is_no_turn() -> None:
    image = random_image(8, 8, torch.float64)
    result = color_jitter(image, replace(NEUTRAL, hue=1.0))
    torch.testing.assert_close(result, color_jitter(image, NEUTRAL), rtol=0, atol=1e-12)


def test_brightness_adds_and_contrast_multiplies_without_a_mean() -> None:
    image = torch.tensor([0.0, 0.1, 0.5, 0.95]).view(1, 1, 4).expand(3, 1, 4)  # grey: HSV leaves it alone
    brighter = color_jitter(image, replace(NEUTRAL, brightness=1.2))
    torch.testing.assert_close(brighter[0, 0], torch.tensor([0.2, 0.3, 0.7, 1.0]))
    darker = color_jitter(image, replace(NEUTRAL, brightness=0.8))
    torch.testing.assert_close(darker[0, 0], torch.tensor([0.0, 0.0, 0.3, 0.75]))
    stronger = color_jitter(image, replace(NEUTRAL, contrast=1.2))
    torch.testing.assert_close(stronger[0, 0], torch.tensor([0.0, 0.12, 0.6, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neutral_factors_leave_the_image(dtype: torch.dtype) -> None:
    for image in (random_image(9, 11, dtype), special_colors().to(dtype)):
        result = color_jitter(image, NEUTRAL)
        assert result.dtype == dtype
        torch.testing.assert_close(result, image, rtol=0, atol=2 * EPSILON_ERROR)


def test_the_order_of_the_operations_matters() -> None:
    image = random_image(6, 6)
    factors = replace(NEUTRAL, brightness=1.2, contrast=0.8)
    first_brighter = color_jitter(image, factors)
    first_weaker = color_jitter(image, replace(factors, order=(1, 0, 2, 3)))
    torch.testing.assert_close(first_brighter, (image + 0.2).clamp(0, 1) * 0.8, rtol=0, atol=1e-5)
    torch.testing.assert_close(first_weaker, (image * 0.8 + 0.2).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("draw", range(6))
def test_jittered_values_stay_in_the_unit_range(draw: int) -> None:
    factors, _ = replace(AUGMENTATION, jitter_strength=0.5).parameters(draw)
    for image in (random_image(40, 50), special_colors().float()):
        result = color_jitter(image, factors)
        assert result.min() >= 0
        assert result.max() <= 1


def test_bands_of_rows_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    image, (factors, _) = random_image(37, 23), AUGMENTATION.parameters(0)
    whole = color_jitter(image, factors)
    monkeypatch.setattr("utils.maths.BAND_ELEMENTS", 12 * 23 * 5)
    torch.testing.assert_close(color_jitter(image, factors), whole, rtol=0, atol=1e-6)


def dense_blur(image: Tensor, sigma: float) -> Tensor:
    """(3, H, W) by the published two-dimensional kernel."""
    sizes = [blur_kernel_size(length) for length in image.shape[-2:]]
    taps = [torch.exp(-0.5 * ((torch.arange(size) - size // 2).double() / sigma) ** 2) for size in sizes]
    kernel = torch.outer(*taps).to(image.dtype)
    kernel /= kernel.sum()
    rows, columns = (size // 2 for size in sizes)
    padded = F.pad(image[None], (columns, columns, rows, rows), mode="reflect")
    return F.conv2d(padded, kernel.expand(3, 1, *sizes), groups=3)[0]


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("sigma", [0.15, 0.4, 0.9, 1.15, 6.0])
@pytest.mark.parametrize("size", [(150, 70), (64, 9), (11, 21), (1, 40)])
def test_a_blurred_image_equals_the_dense_kernel(
    size: tuple[int, int], sigma: float, dtype: torch.dtype, atol: float
) -> None:
    image = random_image(*size, dtype)
    result = gaussian_blur(image[None], [sigma])
    assert result.dtype == dtype
    torch.testing.assert_close(result[0], dense_blur(image, sigma), rtol=0, atol=atol)


def test_an_image_too_small_for_a_kernel_is_not_blurred() -> None:
    image = random_image(10, 10)[None]
    assert torch.equal(gaussian_blur(image, [1.15]), image)


def test_a_constant_image_stays() -> None:
    image = torch.full((2, 3, 60, 80), 117.0)
    torch.testing.assert_close(gaussian_blur(image, [0.3, 1.15]), image, rtol=1e-6, atol=0)


def test_every_image_has_its_own_sigma() -> None:
    image = random_image(60, 60)
    result = gaussian_blur(image.expand(2, -1, -1, -1), [0.2, 1.1])
    assert torch.equal(result[1], gaussian_blur(image[None], [1.1])[0])
    assert result[1].var() < result[0].var()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_images_of_any_floating_type_are_augmented(dtype: torch.dtype) -> None:
    images = (255 * random_image(40, 30, torch.float64)[None]).to(dtype)
    result = ALWAYS(images, iteration=0, draws=[3])
    assert (result.dtype, result.shape) == (dtype, images.shape)
    exact = ALWAYS(images.double(), iteration=0, draws=[3])
    torch.testing.assert_close(result.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    assert not torch.allclose(exact, images.double(), atol=1)


def test_augmentation_is_jitter_then_blur() -> None:
    image = random_image(40, 30, torch.float64)
    factors, sigma = ALWAYS.parameters(7)
    expected = gaussian_blur(255 * color_jitter(image, factors)[None], [sigma])
    torch.testing.assert_close(ALWAYS(255 * image[None], iteration=2, draws=[7]), expected)


def test_an_image_is_augmented_alike_in_any_batch() -> None:
    images = 255 * torch.rand(4, 3, 40, 30, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    together = ALWAYS(images, iteration=5, draws=[0, 1, 2, 3])
    halves = [ALWAYS(images[part], iteration=5, draws=draws) for part, draws in HALVES]
    assert torch.equal(together, torch.cat(halves))
    assert torch.equal(images, before)
    assert not torch.equal(ALWAYS(images, iteration=5, draws=[4, 5, 6, 7]), together)
    assert not torch.equal(replace(ALWAYS, seed=1)(images, iteration=5, draws=[0, 1, 2, 3]), together)


def test_no_value_is_read_by_the_host() -> None:
    """Tensors of the meta device have no values, so reading one would raise."""
    images = torch.empty(2, 3, 40, 30, device="meta")
    result = ALWAYS(images, iteration=0, draws=[0, 1])
    assert result.is_meta
    assert result.shape == images.shape


def test_iterations_jitter_and_blur_as_often_as_published() -> None:
    gates = np.array([AUGMENTATION.gates(iteration) for iteration in range(2000)])
    jitters, blurs = gates.mean(axis=0)
    assert jitters == pytest.approx(0.8, abs=0.03)
    assert blurs == pytest.approx(0.5, abs=0.03)
    assert gates.all(axis=1).mean() == pytest.approx(0.4, abs=0.03)  # independent of each other


def test_thresholds_switch_operations_off() -> None:
    images = 255 * random_image(40, 30)[None]
    never = replace(ALWAYS, jitter_threshold=1.0, blur=False)
    assert not any(any(never.gates(iteration)) for iteration in range(200))
    assert never(images, iteration=0, draws=[0]) is images
    blurred_only = replace(ALWAYS, jitter_threshold=1.0)
    _, sigma = blurred_only.parameters(0)
    assert torch.equal(blurred_only(images, iteration=0, draws=[0]), gaussian_blur(images, [sigma]))


def test_parameters_do_not_depend_on_the_gates() -> None:
    assert ALWAYS.parameters(11) == AUGMENTATION.parameters(11)
    assert replace(AUGMENTATION, blur=False).parameters(11) == AUGMENTATION.parameters(11)


def test_parameters_fill_their_ranges() -> None:
    drawn = [AUGMENTATION.parameters(draw) for draw in range(500)]
    assert len({factors.order for factors, _ in drawn}) == 24
    ranges = {"brightness": (0.8, 1.2), "contrast": (0.8, 1.2), "saturation": (0.8, 1.2), "hue": (-0.2, 0.2)}
    assert {"order", *ranges} == {field.name for field in fields(JitterFactors)}
    values = {name: [getattr(factors, name) for factors, _ in drawn] for name in ranges}
    values["sigma"] = [sigma for _, sigma in drawn]
    for name, (low, high) in {**ranges, "sigma": (0.15, 1.15)}.items():
        assert low <= min(values[name]) < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < max(values[name]) <= high, name
