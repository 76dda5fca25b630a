"""Acquisition scores against the same formulas with one-hot encodings and convolutions."""

from __future__ import annotations

import math

import numpy as np
import plain_selection as plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selection import scores
from selection.class_weights import class_weights
from utils import maths


def _logits(classes: int, size: tuple[int, int], kind: str, seed: int, dtype: torch.dtype) -> Tensor:
    """Noise, flat (one class in most windows), integers (ties) or zeros (all classes tie)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(classes, *size, generator=generator, dtype=torch.float64)
    if kind == "flat":
        noise = 8 * torch.randn(classes, 1, 1, generator=generator, dtype=torch.float64) + noise
    if kind == "integers":
        noise = noise.round()
    return (noise if kind != "zeros" else 0 * noise).to(dtype)


@given(
    classes=st.integers(1, 19),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    radius=st.integers(0, 9),
    kind=st.sampled_from(["noise", "flat", "integers", "zeros"]),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=120)
def test_all_scores_equal_the_plain_ones(
    classes: int, size: tuple[int, int], radius: int, kind: str, weighted: bool, seed: int
) -> None:
    logits = _logits(classes, size, kind, seed, torch.float64)
    weight = class_weights(np.random.default_rng(seed).random(classes)) if weighted else None
    given_logits = logits.clone()
    region = scores.region_scores(given_logits, radius=radius, class_weight=weight)
    pixel = scores.pixel_scores(given_logits, radius=radius)
    assert torch.equal(given_logits, logits), "logits are not changed"
    for maps, expected in (
        (region, plain.region_maps(logits, radius, weight)),
        (pixel, plain.pixel_maps(logits, radius)),
    ):
        for result, wanted in zip((maps.score, maps.impurity, maps.uncertainty), expected, strict=True):
            torch.testing.assert_close(result, wanted, rtol=1e-10, atol=1e-12)
        assert torch.equal(maps.prediction.long(), torch.softmax(logits, 0).argmax(0))
        assert maps.prediction.dtype == torch.uint8


@pytest.mark.parametrize("band_elements", [1, 400, 1 << 20])
@pytest.mark.parametrize("radius", [0, 1, 4])
def test_bands_of_any_height_give_the_same_scores(
    band_elements: int, radius: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    low = _logits(7, (5, 6), "noise", 1, torch.float32)
    arguments = {"size": (41, 37), "network_input": (20, 24), "radius": radius}
    whole = scores.region_scores(low, **arguments)
    monkeypatch.setattr(maths, "BAND_ELEMENTS", band_elements)
    banded = scores.region_scores(low, **arguments)
    for name in ("score", "impurity", "uncertainty", "prediction"):
        assert torch.equal(getattr(whole, name), getattr(banded, name)), name


def test_any_number_of_threads_gives_the_same_scores() -> None:
    logits = _logits(19, (20, 30), "noise", 1, torch.float32)
    threads = torch.get_num_threads()
    maps = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            maps.append(scores.region_scores(logits, size=(251, 333), network_input=(121, 200), radius=1))
    finally:
        torch.set_num_threads(threads)
    for other in maps[1:]:
        assert torch.equal(other.score, maps[0].score)
        assert torch.equal(other.prediction, maps[0].prediction)


@given(
    low=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    middle=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
@settings(deadline=None, max_examples=60)
def test_logits_are_resized_to_the_network_input_first(
    low: tuple[int, int], middle: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = _logits(5, low, "noise", 2, torch.float64)
    maps = scores.region_scores(logits, size=size, network_input=middle, radius=1)
    expected = plain.region_maps(plain.resized_twice(logits, middle, size), 1)
    torch.testing.assert_close(maps.uncertainty, expected[2], rtol=1e-9, atol=1e-12)


def test_one_resize_gives_other_scores() -> None:
    logits = _logits(5, (4, 5), "noise", 2, torch.float64)
    twice = scores.region_scores(logits, size=(31, 40), network_input=(17, 23), radius=1).score
    once = scores.region_scores(logits, size=(31, 40), network_input=(4, 5), radius=1).score
    assert (twice - once).abs().max() > 1e-3


def test_a_window_worked_by_hand() -> None:
    logits = torch.tensor([[[5.0, -5.0]], [[-5.0, 5.0]]])  # two pixels of two classes, both sure
    maps = scores.region_scores(logits, radius=1)
    assert maps.prediction.tolist() == [[0, 1]]
    half = -2 * 0.5 * math.log(0.5 + 1e-6) / math.log(19)
    torch.testing.assert_close(maps.impurity, torch.full((1, 2), half))
    sure = 1 / (1 + math.exp(-10))
    entropy = -sum(p * math.log(p + 1e-6) for p in (sure, 1 - sure)) / math.log(19)
    torch.testing.assert_close(maps.uncertainty, torch.full((1, 2), entropy), rtol=1e-3, atol=0)


def test_a_region_of_one_class_scores_just_below_zero() -> None:
    logits = _logits(19, (6, 6), "noise", 1, torch.float32)
    logits[3] += 50
    maps = scores.region_scores(logits, radius=1)
    torch.testing.assert_close(maps.impurity, torch.full((6, 6), -3.24e-7), rtol=1e-2, atol=0)
    pixel = scores.pixel_scores(logits, radius=1)
    torch.testing.assert_close(pixel.impurity, torch.full((6, 6), -9.54e-7), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_are_weighted_one_by_one_in_float64(dtype: torch.dtype) -> None:
    generator = np.random.default_rng(4)
    entropy = torch.from_numpy(generator.random((9, 11))).to(dtype)
    prediction = torch.from_numpy(generator.integers(0, 5, (9, 11)).astype(np.uint8))
    weight = class_weights(generator.random(5))
    expected = plain.weighted_entropy(entropy.numpy(), prediction.numpy(), weight)
    assert np.array_equal(scores.weighted_by_class(entropy, prediction, weight, 5).numpy(), expected)


def test_equal_class_weights_change_no_bit() -> None:
    logits = _logits(6, (12, 9), "noise", 3, torch.float32)
    plain_score = scores.region_scores(logits, radius=1).score
    assert torch.equal(scores.region_scores(logits, radius=1, class_weight=np.ones(6)).score, plain_score)


@given(st.integers(0, 10_000), st.integers(1, 19))
@settings(deadline=None, max_examples=50)
def test_the_lowest_class_wins_ties(seed: int, classes: int) -> None:
    values = torch.randint(0, 3, (classes, 4, 5), generator=torch.Generator().manual_seed(seed)).float()
    expected = torch.from_numpy(values.numpy().argmax(0))
    assert torch.equal(scores.first_maximum(values).long(), expected)


@given(
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    radius=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_window_counts_are_exact_integers(size: tuple[int, int], radius: int, seed: int) -> None:
    prediction = torch.randint(0, 4, size, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    result = scores.region_impurity(prediction, 4, radius, torch.float64)
    torch.testing.assert_close(
        result, plain.impurity(prediction, 4, radius, torch.float64), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("radius", [7, 8, 90, 91])
def test_counts_that_fill_a_narrow_integer_stay_exact(radius: int) -> None:
    prediction = torch.zeros(2 * radius + 3, 2 * radius + 3, dtype=torch.uint8)
    prediction[0, 0] = 1
    result = scores.region_impurity(prediction, 2, radius, torch.float64)
    torch.testing.assert_close(result, _impurity_of_one_odd_corner(radius), rtol=1e-12, atol=1e-14)


def _impurity_of_one_odd_corner(radius: int) -> Tensor:
    place = torch.arange(2 * radius + 3)
    inside = (place + radius).clamp_max(2 * radius + 2) - (place - radius).clamp_min(0) + 1
    area = (inside[:, None] * inside).double()
    odd = ((place <= radius)[:, None] & (place <= radius)).double() / area
    return -sum(share * torch.log(share + 1e-6) for share in (odd, 1 - odd))


def test_the_entropy_baseline_is_the_uncertainty_alone() -> None:
    logits = _logits(6, (12, 9), "noise", 3, torch.float32)
    maps, region = scores.entropy_scores(logits, radius=2), scores.region_scores(logits, radius=2)
    assert torch.equal(maps.score, region.uncertainty)
    assert torch.equal(maps.uncertainty, region.uncertainty)
    assert torch.equal(maps.impurity, torch.ones(12, 9))
    assert torch.equal(maps.prediction, region.prediction)


def test_random_scores_follow_their_generator() -> None:
    one, two, other = (scores.random_scores((5, 7), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == (5, 7)
    assert one.dtype == torch.float32
    assert ((one >= 0) & (one < 1)).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("function", [scores.region_scores, scores.pixel_scores, scores.entropy_scores])
def test_logits_that_are_not_finite_are_refused(function: object, value: float) -> None:
    logits = torch.zeros(3, 4, 5)
    logits[1, 2, 3] = value
    with pytest.raises(ValueError, match="1 of 60 logits are not finite"):
        function(logits, radius=1)


def test_class_weights_of_another_class_space_are_refused() -> None:
    with pytest.raises(ValueError, match="3 classes"):
        scores.region_scores(torch.zeros(3, 4, 5), radius=1, class_weight=np.ones(4))


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_scores_are_at_least_float32(given_type: torch.dtype, expected: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = _logits(4, (5, 6), "noise", 1, given_type)
        maps = scores.region_scores(
            logits, size=(9, 9), network_input=(7, 7), radius=1, class_weight=np.ones(4)
        )
    assert maps.score.dtype == maps.impurity.dtype == maps.uncertainty.dtype == expected
