"""Greedy selection of regions: the scan and the peeling against one full-image maximum per pick."""

from __future__ import annotations

import numpy as np
import plain_selection as plain
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.queries import WHOLE_IMAGE, queried_pixels, whole_image_pick
from selection.regions import candidate_count, peel, scan, select_regions, squares

CHOICES = pytest.mark.parametrize("choose", [scan, peel], ids=["scan", "peel"])
INFINITY = float("inf")


@st.composite
def score_maps(draw: st.DrawFn) -> np.ndarray:
    """Small maps: continuous, levels, plateaus, ramps, both zeros, with infinities of both signs."""
    thin = draw(st.sampled_from([(1, 0), (0, 1), (0, 0)]))
    height = 1 if thin[0] else draw(st.integers(1, 24))
    width = 1 if thin[1] else draw(st.integers(1, 24))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["continuous", "levels", "constant", "plateaus", "ramp", "zeros"]))
    score = {
        "continuous": lambda: generator.standard_normal((height, width)),
        "levels": lambda: generator.integers(-2, 3, (height, width)),
        "constant": lambda: np.full((height, width), generator.standard_normal()),
        "plateaus": lambda: generator.integers(0, 4, (6, 6)).repeat(4, 0).repeat(4, 1)[:height, :width],
        "ramp": lambda: np.arange(height * width).reshape(height, width) * generator.choice([-1, 1]),
        "zeros": lambda: generator.choice([0.0, -0.0], (height, width)),
    }[kind]()
    score = score.astype(draw(st.sampled_from([np.float32, np.float64])))
    for value in (INFINITY, -INFINITY):
        score[generator.random(score.shape) < draw(st.sampled_from([0, 0, 0.1, 0.7]))] = value
    return score


@given(
    score=score_maps(),
    radius=st.integers(0, 5),
    count=st.integers(0, 40),
    blocked_share=st.sampled_from([None, 0.0, 0.3, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=400)
def test_both_ways_pick_what_repeated_maxima_pick(
    score: np.ndarray, radius: int, count: int, blocked_share: float | None, seed: int
) -> None:
    blocked = None
    if blocked_share is not None:
        blocked = np.random.default_rng(seed).random(score.shape) < blocked_share
    expected = plain.greedy_picks(score, blocked, count, radius)
    given_score = torch.from_numpy(score.copy())
    given_blocked = None if blocked is None else torch.from_numpy(blocked.copy())
    picks = select_regions(given_score, given_blocked, count, exclusion_radius=radius)
    assert picks.dtype == torch.int64
    assert picks.shape == (count, 2)
    assert [tuple(pick) for pick in picks.tolist()] == expected
    if count:
        assert torch.equal(peel(given_score, given_blocked, count, radius), picks)
    assert np.array_equal(given_score.numpy(), score), "scores are not changed"
    assert blocked is None or np.array_equal(given_blocked.numpy(), blocked), "blocked is not changed"


@CHOICES
def test_several_rounds_carry_on_from_the_blocked_map(choose: object) -> None:
    generator = np.random.default_rng(3)
    ours: list[tuple[int, int]] = []
    theirs: list[tuple[int, int]] = []
    for _ in range(4):
        score = generator.integers(0, 5, (40, 50)).astype(np.float32)
        blocked = torch.from_numpy(squares(np.array(ours), 4, score.shape))
        ours += [tuple(pick) for pick in choose(torch.from_numpy(score), blocked, 12, 4).tolist()]
        theirs += plain.greedy_picks(score, plain.squares(theirs, 4, score.shape), 12, 4)
    assert ours == theirs
    assert (0, 0) in ours, "the last round finds the image exhausted"


@CHOICES
def test_ties_go_to_the_smallest_column_then_to_the_smallest_row(choose: object) -> None:
    score = torch.zeros(3, 4)
    score[2, 1] = score[0, 3] = score[1, 1] = 1
    assert choose(score, None, 4, 0).tolist() == [[1, 1], [2, 1], [0, 3], [0, 0]]


@CHOICES
def test_an_exhausted_image_gives_the_corner_again_and_again(choose: object) -> None:
    score = torch.full((4, 4), -INFINITY)
    score[3, 3] = 1
    assert choose(score, None, 3, 1).tolist() == [[3, 3], [0, 0], [0, 0]]


@CHOICES
def test_many_ties_at_the_last_candidate_are_all_considered(choose: object) -> None:
    score = torch.zeros(60, 60)
    score[30:33, 30:33] = torch.arange(9.0).view(3, 3) + 1  # one region takes all of the better pixels
    assert candidate_count(3, 2, score.numel()) < score.numel()
    expected = plain.greedy_picks(score.numpy(), None, 200, 2)
    assert [tuple(pick) for pick in choose(score, None, 200, 2).tolist()] == expected


@CHOICES
def test_a_transposed_view_is_picked_from_as_its_copy(choose: object) -> None:
    score = torch.rand(30, 20, generator=torch.Generator().manual_seed(1)).t()
    assert torch.equal(choose(score, None, 15, 2), choose(score.contiguous(), None, 15, 2))


def test_a_score_that_is_not_a_number_is_refused() -> None:
    score = torch.zeros(3, 3)
    score[1, 2] = torch.nan
    with pytest.raises(ValueError, match="1 of 9 scores are not a number"):
        select_regions(score, None, 1, exclusion_radius=1)


@pytest.mark.parametrize(("count", "radius"), [(-1, 1), (1, -1)])
def test_negative_counts_and_radii_are_refused(count: int, radius: int) -> None:
    with pytest.raises(ValueError, match="cannot pick"):
        select_regions(torch.zeros(3, 3), None, count, exclusion_radius=radius)


@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    radius=st.integers(0, 25),
    count=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=100)
def test_squares_are_the_union_of_clipped_squares(
    size: tuple[int, int], radius: int, count: int, seed: int
) -> None:
    picks = np.random.default_rng(seed).integers(0, size, (count, 2)).astype(np.uint16)
    union = squares(picks, radius, size)
    assert union.dtype == bool
    assert np.array_equal(union, plain.squares(picks.astype(int).tolist(), radius, size))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("count", "radius"), [(2331, 2), (21, 32), (26, 18)])
def test_a_device_picks_what_the_cpu_picks(count: int, radius: int) -> None:
    score = torch.randint(0, 1000, (512, 1024), generator=torch.Generator().manual_seed(1)).float()
    picks = select_regions(score.cuda(), None, count, exclusion_radius=radius)
    assert picks.device.type == "cuda"
    assert torch.equal(picks.cpu(), select_regions(score, None, count, exclusion_radius=radius))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 5), (30, 40)])
def test_squares_as_large_as_the_image_are_the_image(size: tuple[int, int]) -> None:
    everything = np.arange(size[0] * size[1])
    for pick in ([0, 0], [size[0] - 1, size[1] - 1], whole_image_pick(size)[0].tolist()):
        picks = np.array([pick], np.uint16)
        for radius in (max(size) - 1, max(size), WHOLE_IMAGE):
            found = queried_pixels(picks, radius, size)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, everything)
            assert squares(picks, radius, size).all()
    assert not squares(np.zeros((0, 2), np.uint16), WHOLE_IMAGE, size).any()
    assert len(queried_pixels(np.zeros((0, 2), np.uint16), 3, size)) == 0


def test_the_largest_radius_that_does_not_cover_the_image_is_cut() -> None:
    picks, size = np.array([[0, 0]], np.uint16), (30, 40)
    np.testing.assert_array_equal(np.flatnonzero(squares(picks, 38, size)), queried_pixels(picks, 38, size))
    assert not squares(picks, 38, size).all()
