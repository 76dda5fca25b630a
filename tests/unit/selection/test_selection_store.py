"""Bought labels: what a run knows about its images after some rounds."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_rounds import (
    NAMES,
    SIZES,
    fill_store,
    toy_classes,
    toy_images,
    toy_info,
    toy_query,
    whole_queries,
)

from selection.imported import PublishedAnnotation
from selection.rounds import ImageQuery, RoundQueries
from selection.store import AnnotationStore, BoughtLabels
from utils.errors import UserError

Written = list[tuple[RoundQueries, np.ndarray]]


def plain_squares(query: ImageQuery, radius: int) -> np.ndarray:
    """Union of the clipped squares around the picks, one by one."""
    inside = np.zeros(query.size, bool)
    for row in range(query.size[0]):
        for column in range(query.size[1]):
            inside[row, column] = any(
                max(abs(row - int(r)), abs(column - int(c))) <= radius for r, c in query.picks
            )
    return inside


def plain_mask(written: Written, name: str, size: tuple[int, int]) -> np.ndarray:
    """The bought classes, pixel by pixel; later rounds over earlier ones."""
    mask = np.full(size, 255, np.uint8)
    for queries, classes in written:
        selected = plain_squares(queries[name], queries.info.label_radius)
        mask[selected] = classes[queries.slice_of(name)]  # both in row-major order
    return mask


def annotations() -> list[PublishedAnnotation]:
    """An original run's maps of two toy images; some selected pixels are ignored."""
    found = []
    for name, size in zip(NAMES[:2], SIZES[:2], strict=True):
        generator = np.random.default_rng(len(name))
        selected = generator.random(size) < 0.1
        active = selected | (generator.random(size) < 0.2)
        classes = generator.choice([0, 3, 18, 255], size)
        found.append(
            PublishedAnnotation(name, np.where(selected, classes, 255).astype(np.uint8), active, selected)
        )
    return found


@pytest.mark.parametrize(("label_radius", "exclusion_radius"), [(1, 2), (0, 6), (3, 1)])
def test_maps_are_those_of_all_rounds(tmp_path: Path, label_radius: int, exclusion_radius: int) -> None:
    store = AnnotationStore(tmp_path)
    written = fill_store(store, 3, label_radius=label_radius, exclusion_radius=exclusion_radius)
    bought = store.load(3)
    assert bought.rounds == store.complete_rounds() == 3
    for name, size in zip(NAMES, SIZES, strict=True):
        assert bought.size_of(name) == size
        mask = bought.mask(name)
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, plain_mask(written, name, size))
        selected = np.any([plain_squares(queries[name], label_radius) for queries, _ in written], axis=0)
        blocked = np.any([plain_squares(queries[name], exclusion_radius) for queries, _ in written], axis=0)
        np.testing.assert_array_equal(bought.selected(name, size), selected)
        np.testing.assert_array_equal(bought.blocked(name, size), blocked)


def test_a_resumed_run_sees_only_the_rounds_it_asks_for(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    written = fill_store(store, 3)
    for rounds in range(4):
        bought = store.load(rounds)
        assert bought.rounds == rounds
        mask = bought.mask(NAMES[0], SIZES[0])
        np.testing.assert_array_equal(mask, plain_mask(written[:rounds], NAMES[0], SIZES[0]))


@pytest.mark.parametrize("deleted", ["labels.npz", "queries.npz", "."])
def test_deleted_rounds_are_missed(tmp_path: Path, deleted: str) -> None:
    store = AnnotationStore(tmp_path)
    fill_store(store, 3)
    path = store.round(1).folder / deleted
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    store.load(1)
    with pytest.raises(UserError, match=r"round_01 has no .* has bought 3 rounds: annotations were deleted"):
        store.load(3)
    with pytest.raises(UserError, match=r"annotations were deleted"):
        store.digest(2)


def test_complete_rounds_are_counted_up_to_the_first_gap(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "queries")
    assert store.complete_rounds() == 0
    fill_store(store, 3)
    assert store.complete_rounds() == 3
    (store.round(1).folder / "labels.npz").unlink()
    assert store.complete_rounds() == 1


def test_the_digest_follows_the_content_not_the_files(tmp_path: Path) -> None:
    first, second = AnnotationStore(tmp_path / "a"), AnnotationStore(tmp_path / "b")
    fill_store(first, 2)
    fill_store(second, 2)
    path = second.round(0).folder / "labels.npz"
    with np.load(path) as archive:
        np.savez(path, **dict(archive))  # the same content, not compressed
    digests = [first.digest(rounds) for rounds in range(3)]
    assert len(set(digests)) == 3
    assert [second.digest(rounds) for rounds in range(3)] == digests
    assert second.load(2).digest == digests[2]


def test_the_digest_sees_other_labels(tmp_path: Path) -> None:
    digests = set()
    for change in range(2):
        store = AnnotationStore(tmp_path / str(change))
        ((queries, classes),) = fill_store(store, 1)
        (store.round(0).folder / "labels.npz").unlink()
        store.round(0).write_labels(
            np.where(np.arange(queries.pixels) == 3, 5 + change, classes).astype("u1")
        )
        digests.add(store.digest(1))
    assert len(digests) == 2


def test_an_image_never_asked_about_is_all_ignored(tmp_path: Path) -> None:
    for bought in (BoughtLabels(), AnnotationStore(tmp_path).load(0)):
        assert bought.size_of("x.png") is None
        assert (bought.mask("x.png", (4, 5)) == 255).all()
        assert bought.mask("x.png", (4, 5)).shape == (4, 5)
        assert not bought.blocked("x.png", (4, 5)).any()
        assert not bought.selected("x.png", (4, 5)).any()
        with pytest.raises(KeyError, match=r"x\.png"):
            bought.mask("x.png")


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    fill_store(store, 1)
    for of in (store.load(1).mask, store.load(1).selected, store.load(1).blocked):
        with pytest.raises(UserError, match=rf"image {NAMES[0]} is 41x30 pixels now but was 40x30"):
            of(NAMES[0], (30, 41))


def test_rounds_of_different_image_folders_are_refused(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    fill_store(store, 1)
    info = toy_info(1)
    images = toy_images(info)
    images[1] = toy_query(NAMES[1], (40, 40), [(3, 3)], info)
    folder = store.round(1)
    folder.begin(info)
    folder.write_queries(RoundQueries(info, images))
    folder.write_labels(toy_classes(RoundQueries(info, images)))
    with pytest.raises(UserError, match=rf"image {NAMES[1]} is 40x40 pixels in round 1 but 57x31 before"):
        store.load(2)


def test_the_order_of_the_images_may_differ_between_rounds(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    written = fill_store(store, 1)
    info = toy_info(1)
    queries = RoundQueries(info, toy_images(info)[::-1])
    folder = store.round(1)
    folder.begin(info)
    folder.write_queries(queries)
    folder.write_labels(toy_classes(queries))
    written.append((queries, toy_classes(queries)))
    for name, size in zip(NAMES, SIZES, strict=True):
        np.testing.assert_array_equal(store.load(2).mask(name), plain_mask(written, name, size))


def test_workers_get_the_labels_by_pickle(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    store.import_annotations(annotations())
    fill_store(store, 2)
    bought = store.load(2)
    copy = pickle.loads(pickle.dumps(bought))
    assert copy.digest == bought.digest
    np.testing.assert_array_equal(copy.mask(NAMES[0]), bought.mask(NAMES[0]))


# Annotations of an original run.


def test_imported_annotations_count_as_bought_before_the_first_round(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    store.import_annotations(annotations())
    before = store.load(0)
    for annotation in annotations():
        np.testing.assert_array_equal(before.mask(annotation.name), annotation.mask)
        np.testing.assert_array_equal(before.blocked(annotation.name), annotation.active)
        np.testing.assert_array_equal(before.selected(annotation.name), annotation.selected)
    assert before.size_of(NAMES[2]) is None
    ((queries, classes),) = fill_store(store, 1)
    after = store.load(1)
    annotation = annotations()[0]
    selected = plain_squares(queries[NAMES[0]], 1)
    expected = annotation.mask.copy()
    expected[selected] = classes[queries.slice_of(NAMES[0])]
    np.testing.assert_array_equal(after.mask(NAMES[0]), expected)
    np.testing.assert_array_equal(after.selected(NAMES[0]), annotation.selected | selected)
    np.testing.assert_array_equal(
        after.blocked(NAMES[0]), annotation.active | plain_squares(queries[NAMES[0]], 2)
    )
    np.testing.assert_array_equal(after.mask(NAMES[2]), plain_mask([(queries, classes)], NAMES[2], SIZES[2]))


def test_imported_annotations_are_part_of_the_digest(tmp_path: Path) -> None:
    plain, continued = AnnotationStore(tmp_path / "a"), AnnotationStore(tmp_path / "b")
    continued.import_annotations(annotations())
    fill_store(plain, 1)
    fill_store(continued, 1)
    assert plain.digest(1) != continued.digest(1)
    continued.import_annotations(annotations())  # again the same: nothing happens
    changed = annotations()
    changed[0] = dataclasses.replace(changed[0], active=~changed[0].active)
    with pytest.raises(UserError, match=r"imported\.npz holds other annotations and none are ever replaced"):
        continued.import_annotations(changed)
    with pytest.raises(UserError, match=r"round_00 was selected without the annotations to import"):
        plain.import_annotations(annotations())


def test_damaged_imported_annotations_are_named(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    store.import_annotations(annotations())
    path = tmp_path / "imported.npz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"imported\.npz is damaged .*import the folder again"):
        store.load(0)


def test_whole_images_are_bought_pixel_by_pixel(tmp_path: Path) -> None:
    store, queries = AnnotationStore(tmp_path), whole_queries()
    folder = store.round(0)
    folder.begin(queries.info)
    for query in queries.images:
        folder.write_part([query])
    folder.write_queries(folder.assemble([query.name for query in queries.images]))
    classes = toy_classes(queries)
    folder.write_labels(classes)
    bought = store.load(1)
    for query in queries.images:
        expected = classes[queries.slice_of(query.name)].reshape(query.size)
        np.testing.assert_array_equal(bought.mask(query.name), expected)
        assert bought.selected(query.name).all()
        assert bought.blocked(query.name).all()
    assert bought.size_of(NAMES[2]) is None
    assert store.round(0).queries().info.whole_images
    assert bought.names_with_labels() == NAMES[:2]


def test_images_without_any_label_are_not_among_those_with_labels(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    assert store.load(0).names_with_labels() == ()
    for number, (names, ignored) in enumerate([((NAMES[1], NAMES[0]), NAMES[0]), ((NAMES[2],), "")]):
        queries = whole_queries(names, number=number)
        classes = np.full(queries.pixels, 3, np.uint8)
        if ignored:
            classes[queries.slice_of(ignored)] = 255
        store.round(number).begin(queries.info)
        store.round(number).write_queries(queries)
        store.round(number).write_labels(classes)
    assert store.load(2).names_with_labels() == (NAMES[1], NAMES[2])
    assert store.load(1).names_with_labels() == (NAMES[1],)


def test_a_label_that_a_later_answer_ignores_is_none(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    for number, value in enumerate((3, 255)):
        queries = whole_queries(NAMES[:1], number=number)
        store.round(number).begin(queries.info)
        store.round(number).write_queries(queries)
        store.round(number).write_labels(np.full(queries.pixels, value, np.uint8))
    assert store.load(1).names_with_labels() == NAMES[:1]
    assert store.load(2).names_with_labels() == ()


def test_imported_labels_count_as_labels(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    store.import_annotations(annotations())
    assert store.load(0).names_with_labels() == NAMES[:2]
