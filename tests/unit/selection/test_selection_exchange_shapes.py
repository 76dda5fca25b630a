"""What people draw, as pixels of the image; compared with plain tests of every pixel's centre."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selection.exchange import shapes
from selection.exchange.crops import Crop
from selection.exchange.shapes import CropAnswer


def crop_of(height: int, width: int, scale: int) -> Crop:
    """A crop without regions."""
    return Crop("a.png", (99, 99), 0, 0, height, width, scale, ())


def plain_polygon(crop: Crop, points: list[tuple[float, float]]) -> np.ndarray:
    """Even-odd rule by a ray to the left from every centre."""
    inside = np.zeros(crop.size, bool)
    for row in range(crop.height):
        for column in range(crop.width):
            x, y = (column + 0.5) * crop.scale, (row + 0.5) * crop.scale
            crossings = 0
            for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
                if (y0 <= y) != (y1 <= y):
                    crossings += x0 + (y - y0) * (x1 - x0) / (y1 - y0) <= x
            inside[row, column] = crossings % 2 == 1
    return inside


COORDINATE = st.integers(-8, 60).map(lambda value: value / 2)


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 5),
    st.lists(st.tuples(COORDINATE, COORDINATE), min_size=3, max_size=8),
)
@settings(max_examples=150, deadline=None)
def test_a_polygon_covers_the_centres_inside(
    height: int, width: int, scale: int, points: list[tuple[float, float]]
) -> None:
    crop = crop_of(height, width, scale)
    np.testing.assert_array_equal(shapes.polygon(crop, points), plain_polygon(crop, points))


@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 5), COORDINATE, COORDINATE, COORDINATE, COORDINATE
)
@settings(max_examples=100, deadline=None)
def test_a_rectangle_is_the_polygon_of_its_corners(
    height: int, width: int, scale: int, left: float, top: float, right: float, bottom: float
) -> None:
    crop = crop_of(height, width, scale)
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    expected = plain_polygon(crop, corners)
    np.testing.assert_array_equal(shapes.rectangle(crop, [(right, top), (left, bottom)]), expected)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("cut", [2.0, 3.0, 4.5, 5.5])
def test_neighbours_with_a_common_edge_share_no_pixel_and_leave_none(scale: int, cut: float) -> None:
    crop = crop_of(8 // scale, 8 // scale, scale)
    upper = shapes.polygon(crop, [(0, 0), (8, 0), (8, cut), (0, cut)])
    lower = shapes.polygon(crop, [(0, cut), (8, cut), (8, 8), (0, 8)])
    assert not (upper & lower).any()
    assert (upper | lower).all()
    left = shapes.polygon(crop, [(0, 0), (cut, 0), (cut, 8), (0, 8)])
    right = shapes.polygon(crop, [(cut, 0), (8, 0), (8, 8), (cut, 8)])
    np.testing.assert_array_equal(left, upper.T)
    np.testing.assert_array_equal(right, lower.T)


def test_the_outline_of_a_source_pixel_is_that_pixel() -> None:
    for scale in (1, 2, 5):
        crop = crop_of(4, 6, scale)
        expected = np.zeros((4, 6), bool)
        expected[1:3, 2] = True
        box = [(2 * scale, scale), (3 * scale, 3 * scale)]
        np.testing.assert_array_equal(shapes.rectangle(crop, box), expected)


@pytest.mark.parametrize("shape", [shapes.polygon, shapes.rectangle, shapes.circle, shapes.dots])
@pytest.mark.parametrize(
    "number",
    [float("nan"), float("inf"), -float("inf"), 10**400, 1e300],
    ids=["nan", "inf", "-inf", "400 digits", "1e300"],
)
def test_coordinates_that_are_no_places_are_refused(shape: Callable[..., np.ndarray], number: float) -> None:
    with pytest.raises(ValueError, match="a coordinate is"):
        shape(crop_of(4, 4, 1), [(0, 0), (4, number), (1, 1)])


@pytest.mark.parametrize(
    ("shape", "points"),
    [
        (shapes.polygon, [(0, 0), (4, 4)]),
        (shapes.polygon, []),
        (shapes.rectangle, [(1, 1)]),
        (shapes.dots, []),
    ],
)
def test_shapes_of_too_few_points_are_refused(
    shape: Callable[..., np.ndarray], points: list[tuple[float, float]]
) -> None:
    with pytest.raises(ValueError, match=r"it has \d point\(s\) and needs"):
        shape(crop_of(4, 4, 1), points)


def test_a_polygon_without_area_covers_nothing() -> None:
    assert not shapes.polygon(crop_of(4, 4, 1), [(1, 1), (1, 1), (1, 1)]).any()


def test_a_circle_covers_the_centres_nearer_than_its_radius() -> None:
    inside = shapes.circle(crop_of(5, 5, 2), [(5, 5), (5, 7.5)])
    expected = np.zeros((5, 5), bool)
    expected[2, 1:4] = expected[1:4, 2] = True
    np.testing.assert_array_equal(inside, expected)


def test_a_point_marks_the_pixel_it_lies_on() -> None:
    inside = shapes.dots(crop_of(3, 4, 4), [(7.9, 4.0), (8.0, 11.9), (16.0, 0), (-0.1, 0)])
    assert np.argwhere(inside).tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_bitmap_of_repeated_pixels_gives_the_pixels_back(scale: int) -> None:
    crop = crop_of(5, 6, scale)
    values = np.random.default_rng(scale).random((5, 6)) < 0.5
    drawn = crop.enlarge(values)
    np.testing.assert_array_equal(shapes.bitmap(crop, drawn), values)
    np.testing.assert_array_equal(shapes.from_picture(crop, drawn), values)
    part = shapes.bitmap(crop, drawn[scale : 3 * scale, 2 * scale : 9 * scale], (2 * scale, scale))
    expected = np.zeros_like(values)
    expected[1:3, 2:] = values[1:3, 2:]
    np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(("scale", "centre"), [(1, 0), (2, 1), (3, 1), (4, 2)])
def test_the_value_at_the_centre_of_a_source_pixel_decides(scale: int, centre: int) -> None:
    crop = crop_of(2, 3, scale)
    drawn = np.zeros((2 * scale, 3 * scale), bool)
    drawn[scale + centre, 2 * scale + centre] = True
    expected = np.zeros((2, 3), bool)
    expected[1, 2] = True
    np.testing.assert_array_equal(shapes.from_picture(crop, drawn), expected)
    np.testing.assert_array_equal(shapes.bitmap(crop, drawn), expected)
    np.testing.assert_array_equal(shapes.bitmap(crop, drawn[1:, 1:], (1, 1)), expected)


def test_a_bitmap_may_begin_outside_of_the_picture() -> None:
    inside = shapes.bitmap(crop_of(3, 3, 2), np.ones((6, 6), bool), (-2, 3))
    assert np.argwhere(inside).tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**16))
@settings(max_examples=80, deadline=None)
def test_run_lengths_keep_a_map(height: int, width: int, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, width)) < 0.5
    runs = shapes.encode_runs(values)
    assert sum(runs) == height * width
    np.testing.assert_array_equal(shapes.decode_runs(runs, (height, width)), values)


def test_run_lengths_go_down_the_columns_and_begin_with_unset_pixels() -> None:
    values = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert shapes.encode_runs(values) == [2, 3, 1]
    assert shapes.encode_runs(~values) == [0, 2, 3, 1]


# The map of the test below, as pycocotools encodes it.
COMPRESSED = "01Z6`0]J00000c>IdA000000000000000000000000000000000000000000000000000000000"


def test_the_compressed_form_is_read() -> None:
    values = np.zeros((40, 50), bool)
    values[3:20, 5:9] = values[30:, 20:] = values[0, 0] = True
    np.testing.assert_array_equal(shapes.decode_runs(COMPRESSED, (40, 50)), values)


@pytest.mark.parametrize("counts", [[3, 2], [7, -1], [float("inf")], "", COMPRESSED, "P"])
def test_run_lengths_of_another_size_are_refused(counts: list[float] | str) -> None:
    with pytest.raises(ValueError, match="run"):
        shapes.decode_runs(counts, (2, 3))


def test_the_first_class_counts_and_a_second_one_is_remembered() -> None:
    answer = CropAnswer.blank((1, 4))
    answer.paint(np.array([[True, True, False, False]]), 3)
    answer.paint(np.array([[False, True, True, False]]), 5)
    answer.paint(np.array([[True, True, True, True]]), 254)
    answer.paint(np.array([[True, False, False, False]]), 3)
    assert answer.first.tolist() == [[3, 3, 5, 254]]
    assert answer.second.tolist() == [[254, 5, 254, 254]]
