"""The picture of mIoU over budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from launch import budget_curve

SVG = "{http://www.w3.org/2000/svg}"


def write_run(folder: Path, miou: float, **settings: Any) -> Path:
    folder.mkdir()
    arguments = {"budget": "5%", "method": "ripu", "score": "published", **settings}
    (folder / "arguments.json").write_text(json.dumps({"arguments": arguments}))
    lines = [
        {"iteration": 1, "val/miou": 1.0},
        {"iteration": 2, "loss": 3.0},
        {"iteration": 2, "val/miou": miou},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "DONE").touch()
    return folder


def test_seeds_are_averaged_and_methods_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "a", 40.0), write_run(tmp_path / "b", 50.0)]
    runs += [write_run(tmp_path / "c", 30.0, budget="1%"), write_run(tmp_path / "d", 20.0, score="random")]
    oracle = write_run(tmp_path / "oracle", 60.0)
    picture = tmp_path / "curve.svg"
    words = [*map(str, runs), "--line", f"all <labels>={oracle}", "--output", str(picture)]
    assert budget_curve.main(words) == 0
    root = ElementTree.parse(picture).getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert {"RIPU 45.0", "random 20.0", "all <labels> 60.0", "1 %", "5 %"} <= set(texts)
    assert len(list(root.iter(f"{SVG}circle"))) == 3  # one mean for each method and budget


def test_an_unfinished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", 1.0)
    (run / "DONE").unlink()
    assert budget_curve.main([str(run), "--output", str(tmp_path / "curve.svg")]) == 2
    assert "is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "lines", "expected"),
    [
        ({"budget": "40px"}, None, "has the budget 40px; curves are drawn over percentages"),
        ({}, '{"iteration": 1}\n', "has no val/miou"),
        ({}, "{", "metrics.jsonl cannot be read"),
        ({}, "5\n", "metrics.jsonl cannot be read"),
        ({}, '{"val/miou": null}\n', "metrics.jsonl cannot be read"),
        ({}, '{"val/miou": 3.0}\n{"val/miou": NaN}\n', "ends with val/miou nan, which cannot be drawn"),
        ({}, '{"val/miou": Infinity}\n', "ends with val/miou inf"),
        ({"budget": "many%"}, None, "has the budget many%; curves are drawn over percentages"),
        ({"budget": "nan%"}, None, "has the budget nan%"),
        ({"budget": 5}, None, "has the budget 5; curves"),
    ],
)
def test_what_is_no_such_run_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    lines: str | None,
    expected: str,
) -> None:
    run = write_run(tmp_path / "run", 1.0, **settings)
    if lines is not None:
        (run / "metrics.jsonl").write_text(lines)
    assert budget_curve.main([str(run), "--output", str(tmp_path / "curve.svg")]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert not (tmp_path / "curve.svg").exists()


@pytest.mark.parametrize("content", ['{"arguments": 5}', "5", "[]", '{"arguments": {"budget": "5%"}}', "{"])
def test_arguments_of_another_program_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    run = write_run(tmp_path / "run", 1.0)
    (run / "arguments.json").write_text(content)
    assert budget_curve.main([str(run), "--output", str(tmp_path / "curve.svg")]) == 2
    error = capsys.readouterr().err
    assert "arguments.json is not of a run of train_al.py" in error
    assert error.count("\n") == 1
