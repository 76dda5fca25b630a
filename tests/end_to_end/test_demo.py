"""The demo from nothing to its table and pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

REPOSITORY = Path(__file__).parents[2]


def run_demo(folder: Path) -> str:
    """What `launch/demo.py --quick` prints, started elsewhere than in the repository."""
    command = [sys.executable, str(REPOSITORY / "launch" / "demo.py"), "--quick", "--run-dir", "demo"]
    environment = {name: value for name, value in os.environ.items() if name != "SEGADAPT_DATA"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
def test_quick_demo_ends_with_table_scores_and_pictures_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    printed = run_demo(tmp_path)
    table = printed[printed.rindex("IoU in percent") :]
    for text in ("source_only", "mrnet", "rectified", "ripu", "road", "bicycle", "mIoU"):
        assert text in table
    assert "first picture after" in printed
    root = tmp_path / "demo"
    scores = json.loads((root / "scores.json").read_text())
    runs = ["source_only", "mrnet", "rectified", "ripu"]
    assert [Path(run["run"]).name for run in scores["runs"]] == runs
    assert (root / "ripu" / "queries" / "index.html").is_file()
    assert all(0 < run["mIoU"] < 100 for run in scores["runs"])
    assert (root / "scores.csv").is_file()
    sheet = cv2.imread(str(root / "pictures" / "comparison.png"))
    assert sheet.shape[1] > 7 * 256  # image, truth, four predictions, uncertainty
    assert sheet.std() > 10
    weights = {path: path.stat().st_mtime_ns for path in root.rglob("*.pth")}
    assert weights
    again = run_demo(tmp_path)
    assert (
        again[again.rindex("IoU in percent") : again.rindex("scores: ")] == table[: table.rindex("scores: ")]
    )
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.pth")} == weights
