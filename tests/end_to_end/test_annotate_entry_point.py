"""annotate.py as a user runs it: export, status, import, and everything that can be wrong on the way."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from annotate import main
from selection.exchange.class_names import ClassNames
from selection.exchange.packages import Package
from selection.oracles import GroundTruthOracle
from selection.rounds import RoundQueries
from tests.toy_annotation import (
    COMMAND,
    answer,
    asked,
    asked_whole,
    make_run,
    random_picks,
    round_of,
    spoil,
    truth_of,
)
from tests.toy_annotation import run_export as export
from utils.class_spaces import class_space

Said = pytest.CaptureFixture[str]


@pytest.fixture
def queries() -> RoundQueries:
    """Two images with 3x3 squares, some at their borders."""
    return asked([random_picks(20), random_picks(8, seed=1)], 1)


@pytest.fixture
def run(tmp_path: Path, queries: RoundQueries) -> Path:
    """The folder of a run whose round waits for labels."""
    return make_run(tmp_path, queries)


@pytest.mark.parametrize("tool", ["labelme", "coco", "png"])
def test_people_who_know_the_truth_end_with_the_labels_of_the_ground_truth_oracle(
    tool: str,
    run: Path,
    queries: RoundQueries,
    tmp_path: Path,
    capsys: Said,
    caplog: pytest.LogCaptureFixture,
) -> None:
    out, truth = tmp_path / "work", truth_of(queries)
    share = ["--annotators", "ann,bob", "--blind-share", "0.3", "--duplicate-share", "0.2"]
    assert export(run, out, *share, to=tool) == 0
    assert sorted(path.name for path in out.iterdir()) == ["ann", "bob"]
    assert "has no effect" not in caplog.text
    assert "h at an assumed 5 s per decision" in capsys.readouterr().out
    answer(out, truth)
    assert main(["import", str(run), str(out / "ann"), "--accept-unchanged"]) == 0
    assert "queried pixels are left to answer" in capsys.readouterr().out
    assert not round_of(run).has_labels()
    assert main(["import", str(run), str(out / "bob"), "--accept-unchanged"]) == 0
    text = capsys.readouterr().out
    assert f"stored; the round is complete. Go on training:\n  python {COMMAND}\n" in text
    expected = GroundTruthOracle(truth).answer_round(queries)
    np.testing.assert_array_equal(round_of(run).labels(), expected)
    assert main(["status", str(run)]) == 0
    text = capsys.readouterr().out
    assert "round 1 of 2" in text
    assert "complete" in text
    assert "agreement of two annotators: 100.0 %" in text
    assert "left: 0 decisions" in text


@pytest.mark.parametrize("tool", ["labelme", "coco", "png"])
def test_whole_images_end_with_the_labels_of_the_ground_truth_oracle(
    tool: str, tmp_path: Path, capsys: Said, caplog: pytest.LogCaptureFixture
) -> None:
    queries = asked_whole()
    run, out, truth = make_run(tmp_path, queries), tmp_path / "work", truth_of(queries)
    assert export(run, out, "--annotators", "ann,bob", "--scale", "3", to=tool) == 0
    for option in ("--margin", "--min-crop", "--max-crop", "--scale"):
        assert f"{option} has no effect on whole images" in caplog.text
    text = capsys.readouterr().out
    assert "ann: 1 whole images; see README.txt there" in text
    assert "2 images, about 3.0 h at an assumed 1.5 h per image" in text
    answer(out, truth)
    assert main(["status", str(run), str(out / "ann"), "--list", "--seconds-per-decision", "3600"]) == 0
    text = capsys.readouterr().out
    assert "round 1 of 1" in text
    assert "answered: 1 of 2 images" in text
    assert "left: 1 images, about 1.0 h at an assumed 1 h per image" in text
    assert f"image {queries.images[1].name}: 1767 of 1767 queried pixels are open" in text
    assert main(["import", str(run), str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("2 images answered: 7167 queried pixels, ")
    assert "crops" not in text
    assert "regions" not in text
    assert f"stored; the round is complete. Go on training:\n  python {COMMAND}\n" in text
    expected = GroundTruthOracle(truth).answer_round(queries)
    np.testing.assert_array_equal(round_of(run).labels(), expected)
    assert main(["status", str(run)]) == 0
    assert "left: 0 images" in capsys.readouterr().out


def test_an_image_with_gaps_can_be_given_to_somebody_else(tmp_path: Path, capsys: Said) -> None:
    queries = asked_whole()
    run, truth = make_run(tmp_path, queries), truth_of(queries)

    def mostly(name: str) -> np.ndarray:
        label = truth(name).copy()
        if name == queries.images[0].name:
            label[:2] = 254
        return label

    assert export(run, tmp_path / "first", to="png") == 0
    answer(tmp_path / "first", mostly)
    assert main(["import", str(run), str(tmp_path / "first")]) == 0
    assert "180 of 5400 queried pixels have no label" in capsys.readouterr().out
    assert export(run, tmp_path / "rest", "--annotators", "cat", "--unanswered", to="labelme") == 0
    assert "1 images, about 1.5 h" in capsys.readouterr().out
    answer(tmp_path / "rest", truth)
    assert main(["import", str(run), str(tmp_path / "rest")]) == 0
    assert "the round is complete" in capsys.readouterr().out
    np.testing.assert_array_equal(round_of(run).labels(), GroundTruthOracle(truth).answer_round(queries))


def test_the_status_sees_what_is_not_imported_yet(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    assert export(run, tmp_path / "work") == 0
    assert main(["status", str(run)]) == 0
    before = capsys.readouterr().out
    assert "answered: 0 of 28 regions" in before
    assert "left: 28 decisions" in before
    answer(tmp_path / "work", truth_of(queries))
    assert main(["status", str(run), str(tmp_path / "work"), "--seconds-per-decision", "60"]) == 0
    assert "answered: 28 of 28 regions" in capsys.readouterr().out
    assert round_of(run).answers() is None
    assert main(["status", str(run)]) == 0
    assert "answered: 0 of 28 regions" in capsys.readouterr().out


def test_a_dry_run_stores_nothing(run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said) -> None:
    assert export(run, tmp_path / "work") == 0
    answer(tmp_path / "work", truth_of(queries))
    assert main(["import", str(run), str(tmp_path / "work"), "--dry-run"]) == 0
    assert "nothing is stored (--dry-run); 0 of" in capsys.readouterr().out
    assert round_of(run).answers() is None
    assert not round_of(run).has_labels()


def test_the_rest_can_be_exported_to_somebody_else(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    assert export(run, tmp_path / "first", "--annotators", "ann,bob") == 0
    answer(tmp_path / "first", truth_of(queries))
    assert main(["import", str(run), str(tmp_path / "first" / "ann")]) == 0
    assert export(run, tmp_path / "rest", "--annotators", "cat", "--unanswered", to="png") == 0
    rest = Package.read(tmp_path / "rest" / "cat" / "package.json")
    bob = Package.read(tmp_path / "first" / "bob" / "package.json")
    assert rest.decisions == bob.decisions
    answer(tmp_path / "rest", truth_of(queries))
    capsys.readouterr()
    assert main(["import", str(run), str(tmp_path / "rest")]) == 0
    assert "the round is complete" in capsys.readouterr().out


def test_a_second_opinion_after_the_end_counts_for_the_status_alone(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    assert export(run, tmp_path / "work", "--duplicate-share", "1") == 0
    answer(tmp_path / "work", truth_of(queries))
    assert main(["import", str(run), str(tmp_path / "work" / "annotator")]) == 0
    labels = round_of(run).labels()
    answer(tmp_path / "work", lambda name: np.zeros(queries[name].size, np.uint8))
    capsys.readouterr()
    assert main(["import", str(run), str(tmp_path / "work" / "annotator-again")]) == 0
    assert "the round was complete before: its labels stay as they are" in capsys.readouterr().out
    np.testing.assert_array_equal(round_of(run).labels(), labels)
    assert main(["status", str(run)]) == 0
    assert f"% of {queries.pixels} pixels, Cohen's kappa" in capsys.readouterr().out


def test_where_two_annotators_differ_the_first_counts_or_neither(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--annotators", "zoe", "--duplicate-share", "1") == 0
    for name, value in (("zoe", 3), ("zoe-again", 4)):
        answer(out, lambda image, value=value: np.full(queries[image].size, value, np.uint8))
        assert main(["import", str(run), str(out / name), "--dry-run"]) == 0
        (out / name).rename(tmp_path / name)
    both = [str(tmp_path / "zoe"), str(tmp_path / "zoe-again")]
    other = make_run(tmp_path / "other", queries)
    assert main(["import", str(run), *both]) == 0
    text = capsys.readouterr().out
    assert "annotators contradict each other in 2 images:" in text
    name = queries.images[0].name
    assert f"image {name}, zoe and zoe-again: " in text
    assert (
        f"contradict each other in {queries.pixels} of these pixels; settle them with --on-conflict" in text
    )
    assert not round_of(run).has_labels()
    assert (round_of(run).answers() == 254).all()
    assert main(["status", str(run)]) == 0
    assert f"contradict each other in {queries.pixels} pixels" in capsys.readouterr().out
    assert main(["import", str(run), *both, "--on-conflict", "first"]) == 0
    assert set(round_of(run).labels().tolist()) == {3}
    assert main(["import", str(other), *both, "--on-conflict", "ignore"]) == 0
    assert set(round_of(other).labels().tolist()) == {255}


def test_bad_files_are_listed_together_and_nothing_is_stored(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--max-crop", "16") == 0
    answer(out, truth_of(queries))
    spoil(out, 22)
    assert main(["import", str(run), str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: 22 problem(s), so nothing is stored; repair the files, or store the rest by"
    )
    assert error.count("'Side Walk' is no class of cityscapes19; did you mean 'sidewalk'?") == 20
    assert "  ... and 2 more" in error
    assert round_of(run).answers() is None
    assert main(["import", str(run), str(out), "--skip-bad-files"]) == 0
    text = capsys.readouterr().out
    assert "skipped 22:" in text
    assert "queried pixels are left to answer" in text
    assert (round_of(run).answers() != 254).any()


def test_the_training_command_of_several_processes_is_said_as_it_was(
    tmp_path: Path, queries: RoundQueries, capsys: Said
) -> None:
    run = make_run(tmp_path, queries, processes=2)
    assert export(run, tmp_path / "work") == 0
    answer(tmp_path / "work", truth_of(queries))
    assert main(["import", str(run), str(tmp_path / "work")]) == 0
    assert f"  torchrun --standalone --nproc-per-node 2 {COMMAND}\n" in capsys.readouterr().out


def complete(run: Path, queries: RoundQueries) -> None:
    round_of(run).write_labels(np.zeros(queries.pixels, np.uint8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--round", "2"], "--round 2 of {run} has no queries; possible: 1"),
        (["--annotators", "a,a"], "--annotators 'a,a' must be different names"),
        (["--annotators", "a/b"], "--annotators 'a/b' is no name for a folder"),
        (["--min-crop", "99"], "--min-crop 99 is larger than --max-crop 40"),
        (["--blind-share", "2"], "--blind-share: must be between 0 and 1"),
        (["--to", "yolo"], "argument --to: invalid choice: 'yolo'"),
        (["--target-root", "{empty}"], "data set cityscapes, split train: no images"),
    ],
)
def test_a_wrong_export_says_so_in_one_line(
    words: list[str], message: str, run: Path, tmp_path: Path, capsys: Said
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert export(run, tmp_path / "work", *(word.format(empty=empty) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message.format(run=run) in error
    assert not (tmp_path / "work").exists()


def test_missing_images_are_named(run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "city" / "leftImg8bit" / "train" / queries.images[1].name).unlink()
    assert export(run, tmp_path / "work") == 2
    assert f"1 images of the round are not in {tmp_path / 'city'}" in capsys.readouterr().err


def test_a_run_that_does_not_wait_is_refused(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    complete(run, queries)
    assert export(run, tmp_path / "work") == 2
    assert f"no round of {run} waits for labels; start the training" in capsys.readouterr().err
    assert export(run, tmp_path / "work", "--round", "1") == 2
    assert "--round 1 of" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    assert main(["status", str(tmp_path / "nothing")]) == 2
    assert "waits for labels" in capsys.readouterr().err


def test_the_newest_round_that_waits_is_chosen(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    complete(run, queries)
    later = asked([[[30, 30]], [[40, 50]]], 1, number=1)
    round_of(run, 1).begin(later.info)
    round_of(run, 1).write_queries(later)
    assert main(["status", str(run)]) == 0
    assert "round 2 of 2" in capsys.readouterr().out
    assert main(["status", str(run), "--round", "1"]) == 0
    assert "round 1 of 2" in capsys.readouterr().out
    assert export(run, tmp_path / "work") == 0
    assert Package.read(tmp_path / "work" / "annotator" / "package.json").round == 1


@pytest.mark.parametrize("text", [None, "{", "{}", '{"arguments": {"target": "cityscapes"}}'])
def test_a_folder_that_is_no_run_is_refused(
    text: str | None, run: Path, tmp_path: Path, capsys: Said
) -> None:
    file = run / "arguments.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
    assert export(run, tmp_path / "work") == 2
    assert "arguments.json" in capsys.readouterr().err


def test_an_answer_to_another_run_is_refused(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    other = make_run(tmp_path / "other", asked([random_picks(20, seed=9), random_picks(8, seed=1)], 1))
    assert export(other, tmp_path / "work") == 0
    assert main(["import", str(run), str(tmp_path / "work")]) == 2
    assert "belongs to another run" in capsys.readouterr().err


OWN = """
[class_space]
name = "annotated_two"
names = ["floor", "void"]
palette = [[1, 2, 3], [4, 5, 6]]
[[layouts]]
image = "photos/{name}.{ext}"
"""


def test_classes_of_a_description_of_ones_own_are_known(tmp_path: Path, queries: RoundQueries) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    info = dataclasses.replace(queries.info, class_space="annotated_two")
    run = make_run(tmp_path, RoundQueries(info, queries.images))
    record = json.loads((run / "arguments.json").read_text())
    record["arguments"]["target"] = str(tmp_path / "own.toml")
    (run / "arguments.json").write_text(json.dumps(record))
    assert main(["status", str(run)]) == 0
    names = ClassNames(class_space("annotated_two"))
    assert names.choices == ("floor", "void", "cannot tell", "?")
    assert names.parse("void") == 1
