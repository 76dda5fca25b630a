"""The typed budget, what it means per image, and its price."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selection.budget import SECONDS_PER_DECISION, WHOLE_IMAGE_HOURS, Budget, ImagePrice, price
from utils.errors import UserError

CITYSCAPES = (1024, 2048)
TRAINING = (1280, 640)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("2.2%", 2.2, "percent"),
        (" 5 % ", 5, "percent"),
        ("100%", 100, "percent"),
        ("1e-3%", 0.001, "percent"),
        ("40px", 40, "pixels"),
        ("148images", 148, "images"),
    ],
)
def test_a_budget_is_an_amount_and_a_unit(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)


@given(st.floats(1e-9, 100))
def test_a_written_share_is_read_back(amount: float) -> None:
    assert Budget.parse(str(Budget(amount, "percent"))) == Budget(amount, "percent")


@pytest.mark.parametrize("text", ["2.2%", "5%", "40px", "148images", "10000000px"])
def test_a_budget_is_written_as_it_was_typed(text: str) -> None:
    assert str(Budget.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0%", "buys nothing"),
        ("0px", "buys nothing"),
        ("-1%", "buys nothing"),
        ("100.1%", "more than the whole images"),
        ("2.2", "no known unit"),
        ("40 pixels", "no known unit"),
        ("2.2percent", "no known unit"),
        ("", "no known unit"),
        ("%", "does not begin with a number"),
        ("many px", "does not begin with a number"),
        ("nan%", "does not begin with a number"),
        ("infpx", "does not begin with a number"),
        ("1e999%", "does not begin with a number"),
        ("2,2%", "does not begin with a number"),
        ("40.5px", "not a whole number of pixels"),
        ("1.5images", "not a whole number of images"),
    ],
)
def test_what_no_budget_is_gives_one_line_with_the_text(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        Budget.parse(text)
    assert "--budget" in str(caught.value)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size", "label_radius", "rounds", "picks"),
    [
        ("2.2%", CITYSCAPES, 1, 5, 1026),
        ("5%", CITYSCAPES, 1, 5, 2331),
        ("2.2%", CITYSCAPES, 0, 5, 9228),  # 2.2 % as single pixels
        ("40px", CITYSCAPES, 0, 5, 21),
        ("40px", CITYSCAPES, 1, 5, 3),  # 40 pixels as 3 x 3 squares
        ("40px", (512, 1024), 0, 5, 6),
        ("2.2%", (8, 8), 1, 5, 1),
    ],
)
def test_picks_per_round(
    text: str, size: tuple[int, int], label_radius: int, rounds: int, picks: int
) -> None:
    budget = Budget.parse(text)
    assert picks == budget.picks_per_round(
        size, label_radius=label_radius, rounds=rounds, training_size=TRAINING
    )


@pytest.mark.parametrize(
    ("text", "size", "label_radius", "message"),
    [
        ("819201px", CITYSCAPES, 0, "more than an image of 2048x1024 pixels can hold"),
        ("1000000px", CITYSCAPES, 1, "of 3x3 pixels per image"),
        ("2.2%", (20, 30), 30, "--radius 30 is larger than an image of 30x20"),
        ("148images", CITYSCAPES, 1, "buys whole images"),
    ],
)
def test_more_than_an_image_can_hold_is_refused(
    text: str, size: tuple[int, int], label_radius: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Budget.parse(text).check_fits(size, label_radius=label_radius, rounds=1, training_size=TRAINING)


@pytest.mark.parametrize("text", ["100%", "819200px", "2.2%"])
@pytest.mark.parametrize("size", [CITYSCAPES, (33, 49), (1, 37), (8, 8)])
@pytest.mark.parametrize(("label_radius", "rounds"), [(0, 1), (1, 5), (3, 5)])
def test_rounding_up_is_never_too_much(
    text: str, size: tuple[int, int], label_radius: int, rounds: int
) -> None:
    Budget.parse(text).check_fits(size, label_radius=label_radius, rounds=rounds, training_size=TRAINING)


def test_a_share_of_small_squares_costs_people_more_than_whole_images() -> None:
    asked = price(
        Budget.parse("2.2%"), sizes=[CITYSCAPES] * 2975, label_radius=1, rounds=5, training_size=TRAINING
    )
    assert (asked.decisions_per_image, asked.images, asked.decisions) == (5130, 2975, 5130 * 2975)
    assert asked.hours == pytest.approx(5130 * 2975 * SECONDS_PER_DECISION / 3600)
    assert asked.for_papers_only
    sentence = asked.sentence()
    assert "5130 decisions per image" in sentence
    assert f"{SECONDS_PER_DECISION:g} s per decision" in sentence
    assert "40px" in sentence
    assert "or label whole images" not in sentence  # no budget of this method does that
    assert "\n" not in sentence


def test_a_few_pixels_per_image_are_for_people() -> None:
    asked = price(
        Budget.parse("40px"),
        sizes=[CITYSCAPES, (512, 1024)],
        label_radius=0,
        rounds=5,
        training_size=TRAINING,
        seconds_per_decision=2,
    )
    assert (asked.decisions_per_image, asked.images, asked.decisions) == (68, 2, 5 * 21 + 5 * 6)
    assert asked.hours == pytest.approx(135 * 2 / 3600)
    assert not asked.for_papers_only
    assert "papers" not in asked.sentence()
    assert "2 s per decision" in asked.sentence()


def test_whole_images_have_no_price_per_place() -> None:
    with pytest.raises(UserError, match="whole images"):
        price(Budget(3, "images"), sizes=[CITYSCAPES], label_radius=0, rounds=1, training_size=TRAINING)


@pytest.mark.parametrize(
    ("text", "total", "images"),
    [
        ("5%", 2975, 148),  # 148.75 images, rounded down
        ("5%", 20, 1),
        ("5%", 140, 7),
        ("29%", 100, 29),  # 0.29 * 100 is below 29 in binary
        ("100%", 7, 7),
        ("148images", 2975, 148),
        ("3images", 3, 3),
    ],
)
def test_whole_images_are_rounded_down(text: str, total: int, images: int) -> None:
    assert Budget.parse(text).whole_images(total) == images


@pytest.mark.parametrize(
    ("budget", "total", "message"),
    [
        (Budget.parse("5%"), 19, "--budget 5% of 19 images is less than one image; give 1images or more"),
        (Budget.parse("1images"), 0, "is more than the 0 images there are"),
        (Budget.parse("149images"), 148, "--budget 149images is more than the 148 images there are"),
        (Budget.parse("40px"), 100, "--budget 40px buys pixels of every image"),
        (Budget(0.0, "percent"), 100, "is no share of the images"),
        (Budget(100.5, "percent"), 1000, "is no share of the images"),
        (Budget(-5, "percent"), 100, "is no share of the images"),
    ],
)
def test_budgets_that_are_no_whole_images_are_refused(budget: Budget, total: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        budget.whole_images(total)


def test_the_price_of_whole_images_is_in_hours() -> None:
    asked = ImagePrice(148)
    assert asked.hours == 148 * WHOLE_IMAGE_HOURS
    assert asked.words() == "about 222 h at an assumed 1.5 h per image"
    assert ImagePrice(3, hours_per_image=0.25).words() == "about 0.8 h at an assumed 0.25 h per image"
