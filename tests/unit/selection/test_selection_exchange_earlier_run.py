"""Labels of whole images of another run: what is taken over, what stays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selection.exchange.answers import RoundAnswers, import_lock
from selection.exchange.earlier_run import EarlierLabels
from selection.exchange.status import round_status
from selection.queries import whole_image_pick
from selection.rounds import UNANSWERED, ImageQuery, RoundFolder, RoundQueries
from tests.unit.selection.toy_rounds import NAMES, begun, toy_classes, toy_queries, whole_queries
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

SPACE = "cityscapes19"


def labelled(run: Path, *names: str, **changes: object) -> EarlierLabels:
    """A run that has labels of these toy images."""
    queries = whole_queries(names, **changes)
    begun(run, queries).write_labels(toy_classes(queries), queries=queries)
    return EarlierLabels(run)


def content(folder: RoundFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.folder.glob("*.npz")}


@pytest.fixture
def here(tmp_path: Path) -> RoundFolder:
    """A round about the first two toy images that waits for answers."""
    return begun(tmp_path / "here", whole_queries())


def test_an_image_takes_its_labels_whatever_else_the_run_asked(here: RoundFolder, tmp_path: Path) -> None:
    earlier = labelled(tmp_path / "there", NAMES[2], NAMES[1], seed=5, budget="9images")
    there = whole_queries((NAMES[2], NAMES[1]), seed=5, budget="9images")
    earlier.check(SPACE)
    queries = here.queries()
    assert earlier.answer(here, queries) == [NAMES[1]]
    answers = here.answers()
    assert (answers[queries.slice_of(NAMES[0])] == UNANSWERED).all()
    expected = toy_classes(there)[there.slice_of(NAMES[1])]
    assert (expected == IGNORE_LABEL).any()
    np.testing.assert_array_equal(answers[queries.slice_of(NAMES[1])], expected)
    assert not here.has_labels()


def test_a_second_call_changes_nothing_and_reads_nothing_where_all_is_answered(
    here: RoundFolder, tmp_path: Path
) -> None:
    earlier, queries = labelled(tmp_path / "there", *NAMES[:2]), here.queries()
    assert earlier.answer(here, queries) == list(NAMES[:2])
    before = content(here)
    assert earlier.answer(here, queries) == []
    assert EarlierLabels(tmp_path / "nowhere").answer(here, queries) == []
    assert content(here) == before


def test_what_people_have_answered_here_stays(here: RoundFolder, tmp_path: Path) -> None:
    queries = here.queries()
    answers = RoundAnswers(queries)
    said = np.full(len(queries.images[0].predicted), UNANSWERED, np.uint8)
    said[:7] = 3
    answers.put("ann", NAMES[0], slice(None), said, blind=False)
    answers.store(here)
    assert labelled(tmp_path / "there", *NAMES[:2]).answer(here, queries) == [NAMES[1]]
    np.testing.assert_array_equal(here.answers()[queries.slice_of(NAMES[0])], said)
    assert RoundAnswers.load(here, queries).of("ann", NAMES[0]).tolist() == said.tolist()


def test_people_go_on_beside_it_and_their_agreement_with_suggestions_is_theirs_alone(
    here: RoundFolder, tmp_path: Path
) -> None:
    queries = here.queries()
    labelled(tmp_path / "there", NAMES[1]).answer(here, queries)
    answers = RoundAnswers.load(here, queries)
    first = queries.images[0]
    answers.put("ann", NAMES[0], slice(None), first.predicted, blind=False)
    answers.store(here)
    status = round_status(RoundAnswers.load(here, queries), [], seconds_per_decision=3600)
    assert (status.answered, status.regions, status.decisions_left) == (2, 2, 0)
    assert (status.as_suggested.pixels, status.as_hidden.pixels) == (len(first.predicted), 0)
    assert (here.answers() != UNANSWERED).all()


def test_a_run_whose_people_are_still_at_work_gives_what_they_have(here: RoundFolder, tmp_path: Path) -> None:
    there = whole_queries()
    classes = toy_classes(there)
    classes[there.slice_of(NAMES[0])] = UNANSWERED
    classes[there.offsets[1] : there.offsets[1] + 5] = UNANSWERED
    begun(tmp_path / "there", there).write_answers(classes)
    assert EarlierLabels(tmp_path / "there").answer(here, here.queries()) == [NAMES[1]]
    np.testing.assert_array_equal(here.answers(), classes)


def test_what_a_run_went_on_without_is_no_answer(here: RoundFolder, tmp_path: Path) -> None:
    there = whole_queries()
    answers = toy_classes(there)
    answers[there.slice_of(NAMES[0])] = UNANSWERED
    folder = begun(tmp_path / "there", there)
    folder.write_answers(answers)
    folder.write_labels(np.where(answers == UNANSWERED, IGNORE_LABEL, answers))  # --accept-partial
    assert EarlierLabels(tmp_path / "there").answer(here, here.queries()) == [NAMES[1]]
    np.testing.assert_array_equal(here.answers(), answers)


def test_a_run_that_labelled_other_images_is_said(
    here: RoundFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = labelled(tmp_path / "there", NAMES[2])
    assert earlier.answer(here, here.queries()) == []
    assert f"--labels-from {tmp_path / 'there'} labels 0 of 2 images" in caplog.text
    assert content(here).keys() == {"queries.npz"}


def test_images_of_another_size_are_refused_and_nothing_is_stored(here: RoundFolder, tmp_path: Path) -> None:
    (query,) = whole_queries(NAMES[1:2]).images
    size = (query.size[0] * 2, query.size[1])
    larger = ImageQuery(query.name, size, whole_image_pick(size), np.zeros(size[0] * size[1], np.uint8))
    there = RoundQueries(whole_queries(NAMES[1:2]).info, [larger])
    begun(tmp_path / "there", there).write_labels(larger.predicted)
    with pytest.raises(
        UserError, match=r"ulm_1_leftImg8bit.png was labelled at 57x62 pixels but is 57x31 here"
    ):
        EarlierLabels(tmp_path / "there").answer(here, here.queries())
    assert content(here).keys() == {"queries.npz"}


def test_an_import_at_the_same_moment_is_not_overwritten(here: RoundFolder, tmp_path: Path) -> None:
    earlier = labelled(tmp_path / "there", NAMES[1])
    with import_lock(here), pytest.raises(UserError, match=r"the round .*round_00 is in use by process"):
        earlier.answer(here, here.queries())
    assert earlier.answer(here, here.queries()) == [NAMES[1]]


class TestRefusals:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"--labels-from .*/run has no labels; name the folder of a run"):
            EarlierLabels(tmp_path / "run").check(SPACE)

    def test_nothing_answered_there(self, tmp_path: Path) -> None:
        begun(tmp_path, whole_queries())
        with pytest.raises(UserError, match="has no labels"):
            EarlierLabels(tmp_path).check(SPACE)

    def test_regions(self, tmp_path: Path) -> None:
        queries = toy_queries()
        begun(tmp_path, queries).write_labels(toy_classes(queries))
        with pytest.raises(
            UserError, match="is a run of ripu about parts of images; name one of --method mada"
        ):
            EarlierLabels(tmp_path).check(SPACE)

    def test_other_classes(self, tmp_path: Path) -> None:
        earlier = labelled(tmp_path, NAMES[0])
        with pytest.raises(UserError, match="labels of the classes cityscapes19, this run trains synthia16"):
            earlier.check("synthia16")
        earlier.check(SPACE)
