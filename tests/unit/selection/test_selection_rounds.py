"""The files of one round: resumed at any moment, never mixed up, never replaced."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_rounds import NAMES, toy_classes, toy_images, toy_info, toy_queries

from selection.rounds import UNANSWERED, ImageQuery, RoundFolder, RoundInfo, RoundQueries
from utils.errors import UserError

Damage = Callable[[Path], object]


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[120] ^= 1  # in the data of the first array
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_arrays(path: Path) -> None:
    np.savez_compressed(path, x=np.zeros(3))


def bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled_object(path: Path) -> None:
    np.savez_compressed(path, names=np.array([{"a": 1}], dtype=object))


DAMAGES = [cut_off, flip_a_bit, empty, other_arrays, bare_array, pickled_object]


@pytest.fixture
def asked(tmp_path: Path) -> tuple[RoundFolder, RoundQueries]:
    """A round whose queries are written."""
    queries = toy_queries()
    folder = RoundFolder(tmp_path / "round_00")
    folder.begin(queries.info)
    folder.write_queries(queries)
    return folder, queries


def assert_equal_queries(one: ImageQuery, other: ImageQuery) -> None:
    assert (one.name, one.size) == (other.name, other.size)
    np.testing.assert_array_equal(one.picks, other.picks)
    np.testing.assert_array_equal(one.predicted, other.predicted)


# Queried pixels.


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_queried_pixels_are_the_union_of_the_clipped_squares(
    data: st.DataObject, height: int, width: int, radius: int
) -> None:
    place = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    picks = data.draw(st.lists(place, max_size=6))
    expected = {
        row * width + column
        for pick in picks
        for row in range(max(pick[0] - radius, 0), min(pick[0] + radius + 1, height))
        for column in range(max(pick[1] - radius, 0), min(pick[1] + radius + 1, width))
    }
    query = ImageQuery("x", (height, width), np.array(picks, np.uint16).reshape(-1, 2), np.zeros(0, np.uint8))
    pixels = query.pixels(radius)
    assert pixels.dtype == np.int64
    assert pixels.tolist() == sorted(expected)


def test_repeated_picks_of_an_exhausted_image_are_bought_once() -> None:
    picks = np.array([[5, 5], [0, 0], [0, 0]], np.uint16)
    query = ImageQuery("x", (9, 9), picks, np.zeros(0, np.uint8))
    assert query.pixels(0).tolist() == [0, 50]
    assert len(query.pixels(1)) == 4 + 9


def test_the_last_corner_of_the_largest_image_has_its_place() -> None:
    query = ImageQuery("x", (2**16, 2**16), np.array([[2**16 - 1] * 2], np.uint16), np.zeros(0, np.uint8))
    assert query.pixels(1).tolist()[-1] == 2**32 - 1
    with pytest.raises(UserError, match=r"image x is 65537x5 pixels; active learning takes 1 to 65536"):
        dataclasses.replace(query, size=(5, 2**16 + 1))


# Settings.


def test_settings_survive_json_exactly() -> None:
    info = toy_info(class_weights=(0.1, 1 / 3, 1.0), run="00ff")
    assert RoundInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info
    assert RoundInfo.from_dict(toy_info().to_dict()) == toy_info()


@pytest.mark.parametrize(
    "change", [{"seed": "1"}, {"seed": True}, {"class_weights": 3}, {"method": 1}, {"unknown": 1}]
)
def test_settings_of_another_type_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RoundInfo.from_dict({**toy_info().to_dict(), **change})


def test_a_round_may_begin_again_with_the_same_settings_only(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path / "round_00")
    assert folder.info() is None
    folder.begin(toy_info())
    folder.begin(toy_info())
    assert folder.info() == toy_info()
    expected = r"other settings: budget is '2.2%' there and '5%' here; run is '' there and 'ab' here\. Start"
    with pytest.raises(UserError, match=expected):
        folder.begin(toy_info(budget="5%", run="ab"))
    assert folder.info() == toy_info()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 0}', "null", "\xff"])
def test_damaged_settings_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "round.json").write_bytes(content.encode("latin1"))
    with pytest.raises(UserError, match=r"round\.json is damaged .*delete the whole round folder"):
        RoundFolder(tmp_path).info()


def test_queries_without_settings_are_refused(asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder, queries = asked
    (folder.folder / "round.json").unlink()
    with pytest.raises(UserError, match=r"round\.json is missing beside queries\.npz"):
        folder.begin(queries.info)


# Selecting.


def test_parts_of_several_processes_become_the_queries_in_list_order(tmp_path: Path) -> None:
    info = toy_info(class_weights=(0.25,) * 19)
    images = toy_images(info)
    RoundFolder(tmp_path).begin(info)
    RoundFolder(tmp_path).write_part([images[2], images[0]])
    assert RoundFolder(tmp_path).part_names() == {NAMES[2], NAMES[0]}
    RoundFolder(tmp_path).write_part([images[1]])
    folder = RoundFolder(tmp_path)
    assert folder.queries() is None
    queries = folder.assemble(NAMES)
    folder.write_queries(queries)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["queries.npz", "round.json"]
    read = folder.queries()
    assert read is not None
    assert read.info == info
    assert read.digest() == queries.digest()
    for query, image in zip(read.images, images, strict=True):
        assert_equal_queries(query, image)
    assert folder.part_names() == set()


def test_an_image_that_is_not_selected_yet_is_missed(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path)
    folder.begin(toy_info())
    folder.write_part(toy_images(toy_info())[:1])
    with pytest.raises(AssertionError, match=r"2 images are not selected yet, such as ulm"):
        folder.assemble(NAMES)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_images_of_a_damaged_part_are_selected_again(
    tmp_path: Path, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RoundFolder(tmp_path)
    folder.begin(toy_info())
    images = toy_images(toy_info())
    folder.write_part(images[:1])
    path = next((tmp_path / "parts").iterdir())
    folder.write_part(images[1:])
    damage(path)
    assert folder.part_names() == set(NAMES[1:])
    assert f"{path} is damaged" in caplog.text
    assert "its images are selected again" in caplog.text
    folder.write_part(images[:1])
    assert folder.part_names() == set(NAMES)


def test_a_half_written_part_is_as_good_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RoundFolder(tmp_path)
    folder.begin(toy_info())
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".part_00.npz.77.tmp").write_bytes(b"half")
    assert folder.read_parts() == {}
    assert caplog.text == ""
    folder.write_queries(toy_queries())
    assert not (tmp_path / "parts").exists()


def test_parts_of_another_round_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = RoundFolder(tmp_path / "other")
    other.begin(toy_info(seed=2))
    other.write_part(toy_images(toy_info(seed=2)))
    folder = RoundFolder(tmp_path / "round")
    folder.begin(toy_info())
    (tmp_path / "other" / "parts").rename(tmp_path / "round" / "parts")
    assert folder.part_names() == set()
    assert "is of another round" in caplog.text


# Asking.


def test_flat_arrays_are_found_by_image(asked: tuple[RoundFolder, RoundQueries]) -> None:
    queries = asked[0].queries()
    assert queries is not None
    assert queries.pixels == len(queries.predicted) == queries.offsets[-1]
    for name in NAMES:
        assert name in queries
        np.testing.assert_array_equal(queries.predicted[queries.slice_of(name)], queries[name].predicted)
    with pytest.raises(KeyError):
        queries["nowhere.png"]


def test_a_round_without_picks_or_images_can_be_stored(tmp_path: Path) -> None:
    info = toy_info(images=0)
    folder = RoundFolder(tmp_path / "none")
    folder.begin(info)
    folder.write_queries(RoundQueries(info, []))
    folder.write_labels(np.zeros(0, np.uint8))
    labels = folder.labels()
    assert labels is not None
    assert labels.shape == (0,)
    info = toy_info()
    folder = RoundFolder(tmp_path / "no picks")
    folder.begin(info)
    folder.write_queries(RoundQueries(info, toy_images(info, count=0)))
    queries = folder.queries()
    assert queries is not None
    assert [len(query.picks) for query in queries.images] == [0, 0, 0]


def test_written_queries_are_never_replaced(asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder, queries = asked
    content = (folder.folder / "queries.npz").read_bytes()
    folder.write_queries(queries)
    images = list(queries.images)
    images[0] = dataclasses.replace(images[0], predicted=images[0].predicted ^ 1)
    with pytest.raises(UserError, match=r"queries\.npz holds other queries"):
        folder.write_queries(RoundQueries(queries.info, images))
    assert (folder.folder / "queries.npz").read_bytes() == content


def test_queries_of_another_run_are_refused(tmp_path: Path, asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder = RoundFolder(tmp_path / "mine")
    folder.begin(toy_info(run="mine"))
    (asked[0].folder / "queries.npz").rename(tmp_path / "mine" / "queries.npz")
    with pytest.raises(UserError, match=r"mine belongs to another run .*: run is 'mine' there and '' here"):
        folder.queries()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_queries_are_named(asked: tuple[RoundFolder, RoundQueries], damage: Damage) -> None:
    damage(asked[0].folder / "queries.npz")
    with pytest.raises(UserError, match=r"queries\.npz is damaged \(.*delete the whole round folder"):
        asked[0].queries()


@pytest.mark.parametrize("change", ["picks", "predicted", "name", "size", "info"])
def test_the_digest_sees_every_change(change: str) -> None:
    queries = toy_queries()
    info, first = queries.info, queries.images[0]
    changed = {
        "picks": lambda: dataclasses.replace(first, picks=first.picks[::-1].copy()),
        "predicted": lambda: dataclasses.replace(first, predicted=first.predicted[::-1].copy()),
        "name": lambda: dataclasses.replace(first, name="other.png"),
        "size": lambda: dataclasses.replace(first, size=(first.size[0] + 1, first.size[1])),
        "info": lambda: first,
    }[change]()
    if change == "info":
        info = dataclasses.replace(info, class_weights=(1.0,))
    other = RoundQueries(info, [changed, *queries.images[1:]])
    assert other.digest() != queries.digest()
    assert toy_queries().digest() == queries.digest()


# Answering.


def test_answers_are_collected_and_replaced(asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder, queries = asked
    assert folder.answers() is None
    assert folder.answer_extras() == {}
    classes = np.full(queries.pixels, UNANSWERED, np.uint8)
    folder.write_answers(classes, annotator=np.arange(queries.pixels))
    classes[:3] = 7, 255, 18
    folder.write_answers(classes, annotator=np.arange(queries.pixels), queries=queries)
    np.testing.assert_array_equal(folder.answers(), classes)
    np.testing.assert_array_equal(folder.answer_extras()["annotator"], np.arange(queries.pixels))
    assert folder.labels() is None


def test_labels_end_the_round_and_are_never_replaced(asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder, queries = asked
    classes = toy_classes(queries)
    assert folder.labels() is None
    assert not folder.has_labels()
    folder.write_labels(classes)
    folder.write_labels(classes.copy(), queries=queries)
    assert folder.has_labels()
    np.testing.assert_array_equal(folder.labels(), classes)
    classes[0] ^= 1
    with pytest.raises(
        UserError, match=r"labels\.npz holds other labels and bought labels are never replaced"
    ):
        folder.write_labels(classes)


def test_unanswered_pixels_are_no_labels(asked: tuple[RoundFolder, RoundQueries]) -> None:
    folder, queries = asked
    classes = toy_classes(queries)
    classes[[1, 5]] = UNANSWERED
    with pytest.raises(UserError, match=rf"labels\.npz: 2 of {queries.pixels} queried pixels are unanswered"):
        folder.write_labels(classes)
    assert folder.labels() is None


@pytest.mark.parametrize("kind", ["answers", "labels"])
def test_classes_outside_the_space_are_refused(asked: tuple[RoundFolder, RoundQueries], kind: str) -> None:
    folder, queries = asked
    classes = toy_classes(queries)
    classes[:2] = 19, 253
    with pytest.raises(
        UserError, match=r"classes \[19, 253\] are not train ids 0\.\.18 of cityscapes19 or 255"
    ):
        getattr(folder, f"write_{kind}")(classes)


def test_answers_to_other_queries_are_refused(
    tmp_path: Path, asked: tuple[RoundFolder, RoundQueries]
) -> None:
    folder, queries = asked
    folder.write_labels(toy_classes(queries))
    other = RoundFolder(tmp_path / "other")
    changed = toy_queries(seed=2)
    other.begin(changed.info)
    other.write_queries(changed)
    (folder.folder / "labels.npz").rename(tmp_path / "other" / "labels.npz")
    with pytest.raises(UserError, match=r"labels\.npz does not belong to .*queries\.npz"):
        other.labels()


def test_answers_need_queries(tmp_path: Path) -> None:
    folder = RoundFolder(tmp_path)
    folder.begin(toy_info())
    with pytest.raises(UserError, match=r"queries\.npz is missing; start the training again"):
        folder.write_answers(np.zeros(3, np.uint8))


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_labels_are_named(asked: tuple[RoundFolder, RoundQueries], damage: Damage) -> None:
    folder, queries = asked
    folder.write_labels(toy_classes(queries))
    damage(folder.folder / "labels.npz")
    with pytest.raises(UserError, match=r"labels\.npz is damaged \(.*import the answers again"):
        folder.labels()


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "round_00").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*round\.json"):
        RoundFolder(tmp_path / "round_00").begin(toy_info())
