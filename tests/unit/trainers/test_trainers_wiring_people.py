"""What people are asked for whole images, in words, and which labels of another run they are spared."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from selection.exchange.earlier_run import EarlierLabels
from selection.store import AnnotationStore
from tests.unit.selection.toy_rounds import begun, toy_classes, whole_queries
from trainers.oracles import PeopleOracle
from trainers.wiring_people import people_for_images
from utils.errors import UserError


def options(folder: Path, **given: object) -> argparse.Namespace:
    """As the command line leaves them."""
    defaults = {
        "budget": "20%",
        "image_list": None,
        "labelled_list": None,
        "labels_from": None,
        "seconds_per_decision": None,
        "accept_partial": False,
        "snapshot_dir": folder,
    }
    return argparse.Namespace(**{**defaults, **given})


def people(folder: Path, *, asked: int = 2, known: int = 0, **given: object) -> PeopleOracle:
    store = AnnotationStore(folder / "queries")
    return people_for_images(
        options(folder, **given), store, "cityscapes19", asked=asked, known=known, total=10
    )


def labelled(run: Path) -> Path:
    """A run with labels."""
    queries = whole_queries()
    begun(run, queries).write_labels(toy_classes(queries))
    return run


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {},
            "--budget 20% asks people for all pixels of 2 of 10 images: about 3.0 h at an assumed 1.5 h per "
            "image",
        ),
        (
            {"seconds_per_decision": 900.0},
            "--budget 20% asks people for all pixels of 2 of 10 images: about 0.5 h at an assumed 0.25 h per "
            "image",
        ),
        (
            {"image_list": Path("names.txt"), "asked": 4},
            "--image-list names.txt asks people for all pixels of the 4 listed images: about 6.0 h at an "
            "assumed 1.5 h per image",
        ),
        (
            {"labelled_list": Path("old.txt"), "asked": 6, "known": 4},
            "--budget 20% asks people for all pixels of 2 of 10 images, --labelled-list old.txt for those of "
            "4 more: about 9.0 h at an assumed 1.5 h per image",
        ),
    ],
)
def test_price_names_what_was_given(
    given: dict[str, object], sentence: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        oracle = people(tmp_path, **given)
    assert oracle.price == sentence
    assert oracle.earlier is None
    assert f"people are the oracle: {sentence}" in caplog.text


def test_known_images_are_no_work_where_another_run_has_their_labels(tmp_path: Path) -> None:
    there = labelled(tmp_path / "there")
    given = {"labelled_list": Path("old.txt"), "labels_from": there}
    oracle = people(tmp_path / "here", asked=6, known=4, **given)
    assert oracle.price == (
        "--budget 20% asks people for all pixels of 2 of 10 images: about 3.0 h at an assumed 1.5 h per "
        f"image, less what --labels-from {there} has"
    )
    assert isinstance(oracle.earlier, EarlierLabels)
    assert oracle.earlier.run == there


def test_settings_reach_the_oracle(tmp_path: Path) -> None:
    oracle = people(tmp_path, accept_partial=True, seconds_per_decision=1800.0)
    assert (oracle.run, oracle.accept_partial, oracle.hours_per_image) == (str(tmp_path), True, 0.5)


def test_other_run_is_not_needed_once_the_round_has_labels(tmp_path: Path) -> None:
    here = labelled(tmp_path / "here")
    assert people(here, labels_from=tmp_path / "removed").earlier is None


def test_folder_without_labels_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--labels-from .*/removed has no labels"):
        people(tmp_path / "here", labels_from=tmp_path / "removed")


def test_run_cannot_take_labels_from_itself(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(UserError, match="is the folder of this very run"):
        people(tmp_path / "here", labels_from=tmp_path / "here" / ".." / "here")
