"""annotate.py loses no answer and invents none: copies, names, contradictions, kills, several at once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import annotate
from annotate import main
from selection.exchange.export import remembered
from selection.exchange.import_report import ImportReport
from selection.exchange.importing import read_packages
from selection.exchange.packages import Package
from selection.rounds import RoundQueries
from tests.toy_annotation import COMMAND, answer, asked, make_run, random_picks, round_of, spoil, truth_of
from tests.toy_annotation import run_export as export

REPOSITORY = Path(__file__).parents[2]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def queries() -> RoundQueries:
    """Two images with 3x3 squares, some at their borders."""
    return asked([random_picks(20), random_picks(8, seed=1)], 1)


@pytest.fixture
def run(tmp_path: Path, queries: RoundQueries) -> Path:
    """The folder of a run whose round waits for labels."""
    return make_run(tmp_path, queries)


def test_an_import_that_reads_nothing_stores_nothing(run: Path, tmp_path: Path, capsys: Said) -> None:
    assert export(run, tmp_path / "work", "--annotators", "ann,bob") == 0
    capsys.readouterr()
    assert main(["import", str(run), str(tmp_path / "work")]) == 0
    assert "no answer was read, so nothing is stored" in capsys.readouterr().out
    assert round_of(run).answers() is None


def test_the_printed_training_command_accepts_no_partial_round(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    record = json.loads((run / "arguments.json").read_text())
    record["starts"][0]["command_line"] = f"{COMMAND} --accept-partial"
    (run / "arguments.json").write_text(json.dumps(record))
    assert export(run, tmp_path / "work") == 0
    answer(tmp_path / "work", truth_of(queries))
    assert main(["import", str(run), str(tmp_path / "work")]) == 0
    assert f"  python {COMMAND}\n" in capsys.readouterr().out


def test_two_imports_at_once_lose_no_answer(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--annotators", "ann,bob") == 0
    answer(out, truth_of(queries))
    others = []

    def while_another_imports(*args: Any, **options: Any) -> ImportReport:
        if not others:
            others.append(None)
            words = [sys.executable, "annotate.py", "import", str(run), str(out / "bob")]
            others[0] = subprocess.run(words, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        return read_packages(*args, **options)

    monkeypatch.setattr(annotate, "read_packages", while_another_imports)
    assert main(["import", str(run), str(out / "ann")]) == 0
    assert others[0].returncode == 2
    assert "is in use by process" in others[0].stderr
    assert main(["import", str(run), str(out / "bob")]) == 0
    assert round_of(run).has_labels()


def test_answers_replace_stored_ones_on_request_only(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out, words = tmp_path / "work", ["import", str(run), str(tmp_path / "work")]
    assert export(run, out, "--annotators", "ann,bob") == 0
    shutil.copytree(out / "ann", tmp_path / "stale")
    answer(out, lambda name: np.full(queries[name].size, 3, np.uint8))
    assert main(["import", str(run), str(out / "ann")]) == 0
    before = round_of(run).answers()
    answer(out, lambda name: np.full(queries[name].size, 4, np.uint8))
    capsys.readouterr()
    assert main([*words[:2], str(out / "ann")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {np.count_nonzero(before == 3)} answers of ann change, so nothing is stored"
    )
    assert error.count("\n") == 1
    np.testing.assert_array_equal(round_of(run).answers(), before)
    assert main([*words[:2], str(out / "ann"), "--replace"]) == 0
    assert f"{np.count_nonzero(before == 3)} answers of ann change\n" in capsys.readouterr().out
    assert set(round_of(run).answers().tolist()) == {4, 254}
    assert main([*words[:2], str(tmp_path / "stale")]) == 0  # not finished there: the answers stay
    assert "were answered before and are not any more; their stored answers stay" in capsys.readouterr().out
    assert set(round_of(run).answers().tolist()) == {4, 254}


def test_two_copies_of_a_package_that_differ_are_a_problem(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--annotators", "ann") == 0
    for name, value in (("old", 3), ("new", 4)):
        answer(out, lambda image, value=value: np.full(queries[image].size, value, np.uint8))
        shutil.copytree(out / "ann", tmp_path / name)
    both = ["import", str(run), str(tmp_path / "new"), str(tmp_path / "old")]
    assert main([*both, "--on-conflict", "first"]) == 2
    assert "a copy of the same package, answers" in capsys.readouterr().err
    assert round_of(run).answers() is None


def test_two_people_of_one_name_are_two(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    for number in (3, 4):
        out = tmp_path / f"work{number}"
        assert export(run, out) == 0
        answer(out, lambda name, number=number: np.full(queries[name].size, number, np.uint8))
    capsys.readouterr()
    assert main(["import", str(run), str(tmp_path / "work3"), str(tmp_path / "work4")]) == 0
    text = capsys.readouterr().out
    assert "the round is not completed: annotators contradict each other" in text
    assert text.count("annotator@") >= 2
    assert main(["import", str(run), str(tmp_path / "work3"), "--on-conflict", "ignore"]) == 0
    assert set(round_of(run).labels().tolist()) == {255}


def test_how_contradictions_are_settled_is_kept(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--annotators", "ann,bob", "--duplicate-share", "1") == 0
    answer(out, lambda name: np.full(queries[name].size, 3, np.uint8))
    open_crop = min((out / "ann" / "crops").glob("*.json"))
    open_crop.write_text(json.dumps({**json.loads(open_crop.read_text()), "flags": {"done": False}}))
    assert main(["import", str(run), str(out / "ann"), "--on-conflict", "ignore"]) == 0
    answer(out, lambda name: np.full(queries[name].size, 4, np.uint8))
    assert main(["import", str(run), str(out / "bob")]) == 0
    assert set(round_of(run).labels().tolist()) == {4, 255}  # 4: the crop that Ann left open


@pytest.mark.parametrize(
    ("tool", "source", "target"), [("coco", "tasks.json", "answers.json"), ("png", "suggestions", "labels")]
)
def test_suggestions_given_back_are_no_answers(
    tool: str, source: str, target: str, run: Path, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, to=tool) == 0
    folder = out / "annotator"
    if (folder / source).is_dir():
        shutil.copytree(folder / source, folder / target, dirs_exist_ok=True)
    else:
        shutil.copy(folder / source, folder / target)
    capsys.readouterr()
    tasks = len(Package.read(folder / "package.json").tasks)
    assert main(["import", str(run), str(out)]) == 0
    assert f"{tasks} crops are not answered: they equal the suggestion" in capsys.readouterr().out
    assert round_of(run).answers() is None
    assert main(["import", str(run), str(out), "--accept-unchanged"]) == 0
    assert round_of(run).has_labels()


def test_a_folder_without_its_package_file_is_reported(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--annotators", "ann,bob,cat") == 0
    answer(out, truth_of(queries))
    (out / "bob" / "package.json").unlink()
    shutil.move(out / "cat", tmp_path / "cat")
    capsys.readouterr()
    assert main(["import", str(run), str(out)]) == 2
    assert f"{out / 'bob'} holds crops or answers but no package.json" in capsys.readouterr().err
    assert round_of(run).answers() is None
    assert main(["import", str(run), str(out), "--skip-bad-files"]) == 0
    said = capsys.readouterr().out
    assert "no folder of these annotators of the last export was found: bob, cat" in said


def test_a_deleted_file_is_no_unticked_one(run: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "work"
    assert export(run, out) == 0
    min((out / "annotator" / "crops").glob("*.json")).unlink()
    assert main(["import", str(run), str(out), "--skip-bad-files"]) == 0
    text = capsys.readouterr().out
    assert "the file of a crop is gone; bring it back" in text
    assert "22 crops are not answered: their flag 'done' is not ticked" in text


def test_the_report_file_and_the_list_of_open_work_are_complete(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said
) -> None:
    out = tmp_path / "work"
    assert export(run, out, "--max-crop", "16") == 0
    answer(out, truth_of(queries))
    spoil(out, 22)
    assert main(["import", str(run), str(out)]) == 2
    report = round_of(run).folder / "import_report.txt"
    assert f"all of them: {report}" in capsys.readouterr().err
    assert report.read_text().count("'Side Walk' is no class") == 22
    tasks = Package.read(out / "annotator" / "package.json").tasks
    assert main(["status", str(run), "--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"regions of {task.stem} are open, image {task.crop.image}" in text for task in tasks)
    assert f"image {queries.images[1].name}: 8" not in text
    assert text.count("queried pixels are open") == 2


def test_the_status_does_not_count_what_an_import_refuses(run: Path, tmp_path: Path, capsys: Said) -> None:
    out = tmp_path / "work"
    assert export(run, out) == 0
    for path in (out / "annotator" / "crops").glob("*.json"):
        content = json.loads(path.read_text())
        whole = [[0, 0], [content["imageWidth"], content["imageHeight"]]]
        kinds = {"points": whole, "shape_type": "rectangle"}
        content["shapes"] = [{"label": name, **kinds} for name in ("road", "sky")]
        path.write_text(json.dumps({**content, "flags": {"done": True}}))
    capsys.readouterr()
    assert main(["status", str(run), str(out)]) == 0
    text = capsys.readouterr().out
    assert "answered: 0 of 28 regions" in text
    assert "problem(s), which an import refuses:" in text
    assert main(["import", str(run), str(out)]) == 2


def test_an_export_that_was_killed_is_continued(
    run: Path, queries: RoundQueries, tmp_path: Path, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, share = tmp_path / "work", ["--annotators", "ann,bob"]
    written = Package.write

    def killed(package: Package, path: Path) -> None:
        if path == out / "bob" / "package.json":
            raise KeyboardInterrupt
        written(package, path)

    with monkeypatch.context() as patch:
        patch.setattr(Package, "write", killed)
        assert export(run, out, *share) == 130
    assert [path.parent.name for path in out.glob("*/package.json")] == ["ann"]
    assert [package.annotator for package in remembered(round_of(run))] == ["ann", "bob"]
    answer(out, truth_of(queries))  # Ann has begun
    anns = {path: path.read_bytes() for path in (out / "ann").rglob("*") if path.is_file()}
    assert export(run, out, *share, "--seed", "5") == 2
    assert export(run, out, *share) == 0
    assert {path: path.read_bytes() for path in anns} == anns
    packages = [Package.read(out / name / "package.json") for name in ("ann", "bob")]
    assert remembered(round_of(run)) == packages
    assert packages[0].export == packages[1].export != ""
    capsys.readouterr()
    for words in (share, ["--annotators", "ann,cat"]):
        assert export(run, out, *words) == 2
        assert "holds a package already" in capsys.readouterr().err
