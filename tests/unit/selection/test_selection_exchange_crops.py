"""Regions become crops: every queried pixel once, with context, readable."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.exchange import crops as crops_module
from selection.exchange.crops import Crop, CropSettings, cut_crops, pixel_owners, suggestion_map
from selection.queries import ImageQuery, queried_pixels
from tests.toy_annotation import NAMES, asked
from utils.errors import UserError


def query_of(picks: list[list[int]], radius: int, size: tuple[int, int]) -> ImageQuery:
    """A query on the first image, predicted in blocks."""
    return asked([picks], radius, sizes=[size]).images[0]


@st.composite
def images(draw: st.DrawFn) -> tuple[ImageQuery, int, CropSettings]:
    """A query with any picks, its radius, and crop settings."""
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    place = st.tuples(st.integers(0, size[0] - 1), st.integers(0, size[1] - 1)).map(list)
    picks = draw(st.lists(place, min_size=1, max_size=12))
    radius = draw(st.sampled_from([0, 1, 2, 50]))
    smallest = draw(st.integers(1, 20))
    limits = CropSettings(draw(st.integers(0, 9)), smallest, smallest + draw(st.integers(0, 20)))
    return query_of(picks, radius, size), radius, limits


@given(images())
@settings(max_examples=60, deadline=None)
def test_every_queried_pixel_is_in_one_region_of_one_crop(
    drawn: tuple[ImageQuery, int, CropSettings],
) -> None:
    query, radius, limits = drawn
    crops = cut_crops(query, radius, limits)
    owners = pixel_owners(query, radius)
    picks = [region.pick for crop in crops for region in crop.regions]
    assert sorted(picks) == np.unique(owners).tolist()
    pixels = query.pixels(radius)
    for crop in crops:
        assert crop.top >= 0
        assert crop.left >= 0
        assert crop.top + crop.height <= query.size[0]
        assert crop.left + crop.width <= query.size[1]
        assert min(crop.height, query.size[0]) >= min(limits.smallest, query.size[0])
        for region, (top, left, bottom, right) in zip(crop.regions, crop.boxes(), strict=True):
            assert 0 <= top < bottom <= crop.height
            assert 0 <= left < right <= crop.width
            rows, columns = np.divmod(pixels[owners == region.pick], query.size[1])
            first, start, last, end = region.box
            assert ((rows >= first) & (rows < last) & (columns >= start) & (columns < end)).all()


def test_the_earlier_of_two_overlapping_regions_owns_the_common_pixels() -> None:
    query = query_of([[1, 1], [2, 2], [0, 0], [0, 0]], 1, (5, 5))
    assert pixel_owners(query, 1).tolist() == [0] * 3 + [0] * 3 + [1] + [0] * 3 + [1] + [1] * 3
    crop = cut_crops(query, 1, CropSettings(2, 2, 10))[0]
    assert [region.pick for region in crop.regions] == [0, 1]


def test_near_regions_share_a_crop_and_far_ones_do_not() -> None:
    query = query_of([[20, 20], [20, 30], [20, 80]], 1, (60, 100))
    crops = cut_crops(query, 1, CropSettings(margin=8, smallest=10, largest=60))
    assert [[region.pick for region in crop.regions] for crop in crops] == [[0, 1], [2]]
    assert crops[0].size == (19, 29)  # 3 x 13 with 8 on each side
    assert (crops[0].top, crops[0].left) == (11, 11)


def test_crops_do_not_grow_beyond_the_largest_size() -> None:
    query = query_of([[30, column] for column in range(1, 99, 4)], 1, (60, 100))
    crops = cut_crops(query, 1, CropSettings(margin=5, smallest=10, largest=30))
    assert max(crop.width for crop in crops) <= 30
    assert sum(len(crop.regions) for crop in crops) == 25
    assert len(crops) == 5


def test_a_crop_at_the_border_is_shifted_and_keeps_its_size() -> None:
    query = query_of([[0, 99]], 1, (60, 100))
    crop = cut_crops(query, 1, CropSettings(margin=5, smallest=20, largest=30))[0]
    assert (crop.top, crop.left, crop.size) == (0, 80, (20, 20))
    assert list(crop.boxes()) == [(0, 18, 2, 20)]


@pytest.mark.parametrize(("radius", "scale"), [(0, 12), (1, 4), (2, 3), (6, 1), (9, 1)])
def test_small_regions_are_enlarged_until_they_can_be_seen(radius: int, scale: int) -> None:
    query = query_of([[30, 30]], radius, (60, 100))
    assert cut_crops(query, radius, CropSettings(8, 16, 64))[0].scale == scale
    assert cut_crops(query, radius, CropSettings(8, 16, 64, scale=7))[0].scale == 7


def test_large_crops_are_enlarged_less() -> None:
    query = query_of([[300, 300]], 0, (900, 900))
    crop = cut_crops(query, 0, CropSettings(200, 400, 400))[0]
    assert (crop.size, crop.scale) == ((401, 401), 3)


def test_a_whole_image_is_one_crop_as_large_as_it_is_and_suggested_as_predicted() -> None:
    query = query_of([[3, 4]], 100, (60, 90))
    (crop,) = cut_crops(query, 100, CropSettings(scale=5))
    assert (crop.top, crop.left, crop.size, crop.scale) == (0, 0, (60, 90), 1)
    np.testing.assert_array_equal(suggestion_map(crop, query, 100), query.predicted.reshape(60, 90))


def test_a_region_is_suggested_as_most_of_its_pixels_were_predicted() -> None:
    picks, predicted = np.array([[1, 1], [4, 4]], np.uint16), [5, 5, 5, 5, 2, 2, 2, 2, 2, *([7] * 9)]
    query = ImageQuery(NAMES[0], (6, 6), picks, np.array(predicted, np.uint8))
    (crop,) = cut_crops(query, 1, CropSettings(0, 6, 6))
    assert [region.suggestion for region in crop.regions] == [2, 7]
    expected = np.full((6, 6), 254)
    expected[:3, :3], expected[3:, 3:] = 2, 7
    np.testing.assert_array_equal(suggestion_map(crop, query, 1), expected)


def test_only_regions_with_open_pixels_are_asked_again() -> None:
    query = query_of([[5, 5], [20, 20]], 1, (40, 40))
    still_open = np.zeros(18, bool)
    still_open[-1] = True
    crops = cut_crops(query, 1, CropSettings(2, 4, 9), still_open)
    assert [[region.pick for region in crop.regions] for crop in crops] == [[1]]
    assert cut_crops(query, 1, CropSettings(2, 4, 9), np.zeros(18, bool)) == []


def test_a_crop_survives_json() -> None:
    crop = cut_crops(query_of([[5, 5], [7, 9]], 1, (40, 40)), 1, CropSettings(2, 4, 20))[0]
    assert Crop.from_dict(json.loads(json.dumps(crop.to_dict()))) == crop


def test_a_picture_repeats_every_pixel() -> None:
    query = query_of([[30, 30]], 1, (60, 90))
    crop = cut_crops(query, 1, CropSettings(2, 8, 8, scale=3))[0]
    values = np.arange(60 * 90).reshape(60, 90)
    picture = crop.enlarge(crop.cut(values))
    assert picture.shape == crop.picture_size
    np.testing.assert_array_equal(picture[1::3, 2::3], values[26:34, 26:34])


def test_the_smallest_crop_may_not_be_larger_than_the_largest() -> None:
    with pytest.raises(UserError, match="--min-crop 30 is larger than --max-crop 20"):
        CropSettings(5, 30, 20)


def test_the_pixels_are_those_of_the_query() -> None:
    query = query_of([[0, 0], [59, 89]], 2, (60, 90))
    assert len(pixel_owners(query, 2)) == len(queried_pixels(query.picks, 2, (60, 90))) == 18


def test_the_suggestions_of_an_image_are_computed_once_for_all_its_crops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query = query_of([[5, 5], [5, 80], [50, 5]], 1, (60, 90))
    found = cut_crops(query, 1, CropSettings(2, 4, 9))
    calls = []
    plain = crops_module.pixel_owners
    monkeypatch.setattr(crops_module, "pixel_owners", lambda *words: calls.append(words) or plain(*words))
    maps = [suggestion_map(crop, query, 1) for crop in found]
    assert (len(found), len(calls)) == (3, 1)
    assert [set(np.unique(values)) - {254} for values in maps] == [
        {crop.regions[0].suggestion} for crop in found
    ]
    other = ImageQuery(query.name, query.size, query.picks, (query.predicted + 1) % 19)
    assert not np.array_equal(suggestion_map(found[0], other, 1), maps[0])
