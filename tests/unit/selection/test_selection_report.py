"""What a round bought, in numbers, pictures and one page."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from toy_rounds import (
    CLASSES,
    NAMES,
    fill_store,
    toy_classes,
    toy_info,
    toy_queries,
    toy_query,
    whole_queries,
)

from selection import report
from selection.queries import WHOLE_IMAGE
from selection.report import RoundSummary
from selection.rounds import ImageQuery, RoundQueries
from selection.store import AnnotationStore
from utils.class_spaces import class_space
from utils.errors import UserError
from utils.pictures import colorize, contact_sheet, write_png

PALETTE = class_space("cityscapes19").palette


def square_query(picks: list[tuple[int, int]], predicted: list[int] | None = None) -> ImageQuery:
    """A query of single pixels in a 20x20 image."""
    places = np.array(picks, np.uint16).reshape(-1, 2)
    return ImageQuery("x.png", (20, 20), places, np.array(predicted or [0] * len(set(picks)), np.uint8))


class Page(HTMLParser):
    """Tags, links and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_round_is_counted() -> None:
    info = toy_info(images=1, label_radius=0)
    query = square_query([(3, 3), (9, 9), (0, 1), (9, 1), (19, 19)], predicted=[1, 0, 2, 1, 5])
    queries = RoundQueries(info, [query])
    summary = report.round_summary(queries, np.array([1, 1, 2, 255, 254], np.uint8), 3)
    assert (summary.decisions, summary.pixels, summary.labelled) == (5, 5, 3)
    assert summary.per_class == (0, 2, 1)
    assert summary.predicted_per_class == (1, 2, 1)
    assert summary.shares == (0.0, 0.4, 0.2)
    assert (summary.ignored, summary.unanswered) == (1, 1)
    assert summary.agreeing == 2
    assert summary.agreement == pytest.approx(2 / 3)
    assert summary.exhausted == ()


def test_the_repeated_picks_of_an_exhausted_image_are_no_decisions() -> None:
    query = square_query([(0, 3), (3, 3), (0, 0), (0, 0), (0, 0)])
    queries = RoundQueries(toy_info(images=1, label_radius=0), [query])
    assert report.round_summary(queries, np.zeros(3, np.uint8), 3).decisions == 3


def test_a_round_without_labels_agrees_with_nothing() -> None:
    queries = RoundQueries(toy_info(images=0), [])
    summary = report.round_summary(queries, np.zeros(0, np.uint8), 2)
    assert (summary.agreement, summary.shares) == (None, (0.0, 0.0))


def test_ignored_answers_agree_with_nothing() -> None:
    queries = RoundQueries(toy_info(images=1, label_radius=0), [square_query([(1, 1)], predicted=[255])])
    assert report.round_summary(queries, np.array([255], np.uint8), 3).agreeing == 0


@pytest.mark.parametrize(
    ("picks", "exhausted"),
    [
        ([], False),
        ([(5, 5)], False),
        ([(0, 0)], False),  # a proper pick, or only one that could not be placed after earlier rounds
        ([(9, 9), (0, 0)], False),
        ([(0, 0), (9, 9)], False),
        ([(0, 0), (0, 0)], True),
        ([(2, 1), (0, 0)], True),
        ([(3, 0), (0, 0)], False),
    ],
)
def test_exhausted_images_are_seen(picks: list[tuple[int, int]], exhausted: bool) -> None:
    assert report.is_exhausted(square_query(picks), 2) is exhausted
    summary_info = toy_info(images=1, label_radius=0)
    summary = report.round_summary(
        RoundQueries(summary_info, [square_query(picks)]), np.zeros(len(set(picks)), np.uint8), 3
    )
    assert summary.exhausted == (("x.png",) if exhausted else ())


def test_summaries_are_kept_and_counted_again_where_they_are_lost(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    written = fill_store(store, 3, class_weights=(0.5,) * CLASSES)
    expected = [report.round_summary(queries, classes, CLASSES) for queries, classes in written]
    for summary in expected:
        report.write_summary(store, summary)
        assert RoundSummary.from_dict(json.loads(json.dumps(summary.to_dict()))) == summary
    (tmp_path / "round_00" / "summary.json").unlink()
    (tmp_path / "round_01" / "summary.json").write_text('{"info": 3}')
    assert report.read_summaries(store, CLASSES) == expected


def test_the_kept_summary_is_used(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    ((queries, classes),) = fill_store(store, 1)
    summary = dataclasses.replace(report.round_summary(queries, classes, CLASSES), ignored=12345)
    report.write_summary(store, summary)
    assert report.read_summaries(store, CLASSES) == [summary]


def test_damaged_rounds_are_not_summarised(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    fill_store(store, 1)
    (tmp_path / "round_00" / "labels.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"labels\.npz is damaged"):
        report.read_summaries(store, CLASSES)


# Pictures.


def test_the_picture_shows_where_was_asked_and_what_was_bought() -> None:
    info = toy_info()
    query = toy_query("x.png", (40, 60), [(10, 12)], info)
    answered = np.array([0, 0, 0, 13, 13, 13, 255, 255, 255], np.uint8)
    score = np.full((40, 60), -np.inf)
    score[5:] = np.linspace(0, 1, 60)
    sheet = report.picks_picture(
        np.full((40, 60, 3), 100, np.uint8), score, query, 1, answered=answered, palette=PALETTE
    )
    top, left, step = 26, 4, 64  # title bar and gap; gap; picture and gap
    assert sheet.shape == (70, 4 * step + 4, 3)
    image, heat, picked, bought = (sheet[top : top + 40, left + i * step :][:, :60] for i in range(4))
    assert (image == 100).all()
    assert (heat[:5] == 0).all()
    assert heat[20, 59].sum() > heat[20, 0].sum()
    is_marked = (picked == report.PICKED).all(axis=-1)
    assert np.flatnonzero(is_marked).tolist() == query.pixels(1).tolist()
    assert [tuple(bought[row, 12].tolist()) for row in (9, 10, 11)] == [PALETTE[0], PALETTE[13], (0, 0, 0)]
    np.testing.assert_array_equal(bought[~is_marked], picked[~is_marked])


def test_small_regions_of_large_images_can_be_seen() -> None:
    info = toy_info()
    query = toy_query("x.png", (1000, 2000), [(0, 0), (500, 1000), (999, 1999)], info)
    sheet = report.picks_picture(
        np.zeros((1000, 2000, 3), np.uint8), np.zeros((1000, 2000)), query, 1, answered=None, palette=PALETTE
    )
    marked = (sheet == report.PICKED).all(axis=-1)
    assert 3 * 4 <= marked.sum() <= 3 * 16
    rows = np.flatnonzero(marked.any(axis=1))
    assert rows.max() - rows.min() == report.PICTURE_HEIGHT - 1


def test_neighbours_drawn_larger_do_not_hide_each_other() -> None:
    info = toy_info(label_radius=0)
    query = toy_query("x.png", (768, 768), [(400, 400), (400, 402)], info)
    sheet = report.picks_picture(
        np.zeros((768, 768, 3), np.uint8),
        np.zeros((768, 768)),
        query,
        0,
        answered=np.array([0, 13], np.uint8),
        palette=PALETTE,
    )
    bought = sheet[26:, 4 + 3 * 388 :]  # half the size
    assert [tuple(bought[200, column].tolist()) for column in (200, 201)] == [PALETTE[0], PALETTE[13]]


@pytest.mark.parametrize("is_answered", [True, False])
def test_the_picture_of_a_whole_image_shows_the_prediction_and_what_was_bought(
    is_answered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, ...]] = []

    def sheet_of(rows: Any, titles: tuple[str, ...], *, height: int) -> np.ndarray:
        said.append(titles)
        return contact_sheet(rows, titles, height=height)

    monkeypatch.setattr(report, "contact_sheet", sheet_of)
    (query,) = whole_queries(NAMES[:1]).images  # 30 x 40
    answered = np.full(query.size, 13, np.uint8)
    answered[:10] = 255
    sheet = report.picks_picture(
        np.full((30, 40, 3), 100, np.uint8),
        np.zeros((30, 40)),
        query,
        WHOLE_IMAGE,
        answered=answered.ravel() if is_answered else None,
        palette=PALETTE,
    )
    assert said == [("image", "entropy", "predicted", "bought")]
    shown = 4 if is_answered else 3
    assert sheet.shape == (60, 44 * shown + 4, 3)
    _, _, predicted, *bought = (sheet[26:56, 4 + i * 44 :][:, :40] for i in range(shown))
    np.testing.assert_array_equal(predicted, colorize(query.predicted.reshape(30, 40), PALETTE))
    for picture in bought:
        np.testing.assert_array_equal(picture, colorize(answered, PALETTE))


def test_a_round_of_whole_images_is_counted() -> None:
    queries = whole_queries()
    summary = report.round_summary(queries, queries.predicted, CLASSES)
    assert (summary.decisions, summary.info.images, summary.exhausted) == (2, 2, ())
    assert summary.pixels == summary.labelled == summary.agreeing == 30 * 40 + 31 * 57
    assert summary.per_class == summary.predicted_per_class


# The page.


def test_the_page_lists_every_round_and_its_pictures(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    names = ["<b>road</b> & kerb", *(f"class {number}" for number in range(1, CLASSES))]
    summaries = [report.round_summary(queries, classes, CLASSES) for queries, classes in fill_store(store, 2)]
    picture = report.picture_path(store, 1, NAMES[2])
    write_png(picture, np.zeros((4, 4, 3), np.uint8))
    path = report.write_index(tmp_path, summaries, names, PALETTE)
    assert path == tmp_path / "index.html"
    page = Page(path)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert names[0] in page.texts
    assert page.texts.count(str(summaries[0].pixels)) >= 1
    assert f"{100 * summaries[1].shares[3]:.2f} %" in page.texts
    assert [path.parent / unquote(link) for link in page.links] == [picture, picture]
    assert picture.is_file()
    assert picture.stem in page.texts
    assert path.stat().st_size < 20_000


def test_the_page_of_whole_images_speaks_of_them_alone(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(CLASSES)]
    pages = {}
    for kind, queries in (("whole", whole_queries()), ("regions", toy_queries())):
        summary = report.round_summary(queries, queries.predicted, CLASSES)
        pages[kind] = Page(report.write_index(tmp_path, [summary], names, PALETTE)).texts
    assert "mada, image, budget 5%, seed 1" in pages["whole"]
    assert "ripu, region, budget 2.2% in 5 rounds, seed 1" in pages["regions"]
    assert "exhausted images" in pages["regions"]
    assert "exhausted images" not in pages["whole"]


def test_captions_order_the_pictures_and_stand_below_them(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    [(queries, classes)] = fill_store(store, 1)
    for name in NAMES[:3]:
        write_png(report.picture_path(store, 0, name), np.zeros((4, 4, 3), np.uint8))
    captions = {NAMES[2]: "entropy: <b>0.5</b>", NAMES[1]: ""}
    report.write_captions(store.round(0).folder, captions)
    assert list(report.read_captions(store.round(0).folder).items()) == list(captions.items())
    summary = report.round_summary(queries, classes, CLASSES)
    page = Page(report.write_index(tmp_path, [summary], ["class"] * CLASSES, PALETTE))
    stems = [report.picture_path(store, 0, name).stem for name in (NAMES[2], NAMES[1], NAMES[0])]
    assert [Path(unquote(link)).stem for link in page.links[::2]] == stems
    shown = [text for text in page.texts if any(text.startswith(stem) for stem in stems)]
    assert shown == [f"{stems[0]}; entropy: <b>0.5</b>", *stems[1:]]
    assert "b" not in page.tags


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_captions_that_are_missing_or_damaged_say_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / report.CAPTIONS).write_bytes(content)
    assert report.read_captions(tmp_path) == {}


def test_a_hostile_setting_stays_text(tmp_path: Path) -> None:
    queries = toy_queries(method="<script>alert(1)</script>", class_space="mine")
    summary = report.round_summary(queries, toy_classes(queries), CLASSES)
    page = Page(report.write_index(tmp_path, [summary], ["<script>"] * CLASSES, PALETTE))
    assert "script" not in page.tags


def test_a_page_without_rounds_says_so(tmp_path: Path) -> None:
    assert "No round is complete yet." in Page(report.write_index(tmp_path, [], [], [])).texts
