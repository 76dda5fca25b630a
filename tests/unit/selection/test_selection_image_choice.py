"""Which images are asked about, and the files and words that say so."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np
import pytest

from selection.budget import Budget
from selection.image_choice import (
    ImageChoice,
    choose_images,
    entropy_scores,
    random_scores,
    write_choice,
)
from selection.image_distance import ImageScores
from utils.errors import UserError

NAMES = [f"city/{number}.png" for number in range(5)]
VALUES = np.array([5.0, 1.0, 4.0, 3.0, 2.0])
DISTANCES = ImageScores(VALUES, "distance to 3 source anchors", np.array([0, 2, 1, 0, 0]))
SHARE = Budget.parse("40%")


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def table(folder: Path) -> list[list[str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return list(csv.reader(file))


class TestChoice:
    @pytest.mark.parametrize(
        ("known", "count", "chosen"),
        [([], 2, [0, 2]), ([0, 1], 3, [2]), ([1, 4], 2, []), ([4], 5, [0, 1, 2, 3]), ([2, 0, 2], 4, [3, 4])],
    )
    def test_known_images_are_asked_about_but_never_chosen(
        self, known: list[int], count: int, chosen: list[int]
    ) -> None:
        choice = choose_images(DISTANCES, numbers(*known), count)
        assert choice.chosen.tolist() == chosen
        assert choice.asked.tolist() == sorted({*known, *chosen})
        assert choice.asked.dtype == np.int64

    def test_of_equal_scores_the_earlier_image_is_chosen(self) -> None:
        assert choose_images(entropy_scores(np.ones(5)), numbers(1), 3).asked.tolist() == [0, 1, 2]

    def test_scores_that_are_not_finite_are_refused(self) -> None:
        with pytest.raises(UserError, match="2 of 5 image scores are not finite"):
            choose_images(entropy_scores(np.array([1, np.nan, 2, np.inf, 3])), numbers(), 2)

    def test_random_order_follows_from_the_seed(self) -> None:
        first, same, other = (random_scores(20, seed).values.tolist() for seed in (0, 0, 1))
        assert first == same != other
        assert sorted(first) == list(range(1, 21))

    def test_foremost_are_those_with_the_highest_scores(self) -> None:
        choice = choose_images(DISTANCES, numbers(0), 4)
        assert [choice.foremost(count) for count in (0, 1, 2, 9)] == [[], [2], [2, 3], [2, 3, 4, 0]]
        assert ImageChoice(numbers(1, 3), numbers()).foremost(1) == [1]

    def test_captions_say_score_and_nearest_anchor(self) -> None:
        assert (
            choose_images(DISTANCES, numbers(), 1).caption(1) == "distance to 3 source anchors: 1, nearest 2"
        )
        scores = entropy_scores(np.array([0.123456, 2]))
        assert choose_images(scores, numbers(), 1).caption(0) == "mean pixel entropy in nats: 0.1235"
        assert ImageChoice(numbers(1), numbers()).caption(1) == ""


class TestExtent:
    @pytest.mark.parametrize(
        ("budget", "name"),
        [("5%", "0.05"), ("2.2%", "0.022"), ("100%", "1"), ("10%", "0.1"), ("0.0000005%", "0.000000005"),
         ("148images", "2images")],
    )  # fmt: skip
    def test_is_the_share_where_nothing_else_is_asked_about(self, budget: str, name: str) -> None:
        assert choose_images(DISTANCES, numbers(), 2).extent(Budget.parse(budget)) == name

    @pytest.mark.parametrize("budget", ["40%", "2images"])
    def test_counts_known_images_too(self, budget: str) -> None:
        assert choose_images(DISTANCES, numbers(4), 3).extent(Budget.parse(budget)) == "3images"

    @pytest.mark.parametrize("budget", [None, Budget(2.0, "images"), SHARE])
    def test_counts_images_of_a_list(self, budget: Budget | None) -> None:
        assert ImageChoice(numbers(1, 3), numbers()).extent(budget) == "2images"


class TestFiles:
    def test_of_chosen_images(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            write_choice(tmp_path, choose_images(DISTANCES, numbers(), 2), NAMES, SHARE)
        path = tmp_path / "stage1_cac_list_0.4.txt"
        assert path.read_text() == "city/0.png\ncity/2.png\n"
        assert (tmp_path / "stage1_cac_index_0.4.txt").read_text() == "0\n2\n"
        assert table(tmp_path) == [
            ["name", "score", "nearest anchor", "chosen", "by"],
            ["city/0.png", "5.0", "0", "1", "score"],
            ["city/1.png", "1.0", "2", "0", ""],
            ["city/2.png", "4.0", "1", "1", "score"],
            ["city/3.png", "3.0", "0", "0", ""],
            ["city/4.png", "2.0", "0", "0", ""],
        ]
        assert caplog.messages == [
            "chose 2 of 5 images by distance to 3 source anchors, 4 to 5 where all have 1 to 5; " + str(path)
        ]

    def test_of_known_images_too(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            write_choice(tmp_path, choose_images(entropy_scores(VALUES), numbers(0, 1), 3), NAMES, SHARE)
        path = tmp_path / "stage1_cac_list_3images.txt"
        assert path.read_text() == "city/0.png\ncity/1.png\ncity/2.png\n"
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "scores.csv", "stage1_cac_index_3images.txt", path.name
        ]  # fmt: skip
        assert [row[1:] for row in table(tmp_path)[1:]] == [
            ["5.0", "", "1", "labelled-list"],
            ["1.0", "", "1", "labelled-list"],
            ["4.0", "", "1", "score"],
            ["3.0", "", "0", ""],
            ["2.0", "", "0", ""],
        ]
        assert caplog.messages == [
            "chose 1 of 5 images by mean pixel entropy in nats, 4 to 4 where all have 1 to 5, "
            f"2 others are known; {path}"
        ]

    def test_of_a_list(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            write_choice(tmp_path, ImageChoice(numbers(1, 3), numbers()), NAMES, None)
        path = tmp_path / "stage1_cac_list_2images.txt"
        assert path.read_text() == "city/1.png\ncity/3.png\n"
        assert [row[1:] for row in table(tmp_path)[1:]] == [
            ["", "", "0", ""],
            ["", "", "1", "image-list"],
            ["", "", "0", ""],
            ["", "", "1", "image-list"],
            ["", "", "0", ""],
        ]
        assert caplog.messages == [f"2 of 5 images are given; {path}"]

    def test_names_with_commas_and_odd_bytes(self, tmp_path: Path) -> None:
        names = ["a,b.png", 'c"d.png', "e\udcff.png"]
        write_choice(tmp_path, ImageChoice(numbers(0), numbers()), names, None)
        text = (tmp_path / "scores.csv").read_bytes().decode("utf-8", "surrogateescape")
        assert [row[0] for row in csv.reader(text.splitlines())][1:] == names
