"""Tiny trainings on the demo city as batch jobs start them, and what their folders hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils import snapshots

ITERATIONS = 8
_DATA = "--source gta5 --target cityscapes"
_SMALL = (
    "--backbone resnet18_quarter --backbone-weights none --head-channels 8 --bottleneck-channels 8 "
    "--droprate 0.5 --batch-norm sync --train-bn --input-size 128,64 --input-size-target 128,64 "
    "--crop-size 64,48 --batch-size 4 --num-workers 1 --learning-rate 0.001 --warm-up 4 "
    f"--num-steps {ITERATIONS} --log-every 1 --save-every 100 --device cpu --no-tensorboard"
)  # dropout and a loader process, so that there is a state to continue with
_TARGET_TERMS = (
    "--lambda-kl-target 0.1 --target-terms-start 3 "
    "--lambda-adv-target1 0 --lambda-adv-target2 0"  # discriminators take most of the time
)
_DEMO = "--size 128,64 --train 6 --val 4"
_PEOPLE = (
    "--method ripu --oracle people --setting pixel --budget 4px --select-iterations 1,2 --crop-size none "
    "--source-order shuffled"  # six images do not have every class
)
SMALL = _SMALL.split()
STAGE_ONE = [*SMALL, *_DATA.split(), *_TARGET_TERMS.split()]
SOURCE_ONLY = [*SMALL, *_DATA.split()]
WITH_PEOPLE = [*SMALL, *_DATA.split(), *_PEOPLE.split()]
DEMO = _DEMO.split()


def logged(folder: Path) -> list[int]:
    """Iterations in metrics.jsonl that have a loss."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    records = [json.loads(line) for line in lines]
    return [record["iteration"] for record in records if any(name.startswith("loss/") for name in record)]


def starts(folder: Path) -> list[dict[str, Any]]:
    """The starts of a run as arguments.json records them."""
    return json.loads((folder / "arguments.json").read_text())["starts"]


def last_state(folder: Path) -> dict[str, Any]:
    """The newest snapshot without what may differ between equal runs."""
    state = snapshots.read(snapshots.resolve(folder))
    return {name: value for name, value in state.items() if name != "arguments"}
