"""The main job from nothing: demo city, source-only baseline, MRNet stage I, pseudo labels, rectified stage
II, table, pictures.

    make demo            about 10 minutes on two cores
    make demo-quick      the same path in about 2 minutes
    python launch/demo.py --seed 1 --run-dir demo/seed1

Every training is two gloo processes under torchrun, or one process on a GPU if there is a usable one.
Started again, it goes on
where it was.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch

from launch.demo_pictures import write_comparison

RECIPES = REPOSITORY / "launch" / "recipes"


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the demo is: images drawn, and recipes."""

    size: tuple[int, int]
    train: int
    val: int
    overrides: tuple[str, ...]


FULL = Plan((256, 128), 300, 60, ())
QUICK = Plan((256, 128), 60, 20, (f"@{RECIPES / 'demo_quick.args'}",))


def main() -> int:
    """Runs the whole demo; the first command that fails ends it with its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few images and iterations: about 2 minutes")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the trainings; the city is always the same"
    )
    parser.add_argument(
        "--run-dir", type=Path, default=Path("demo/full"), help="where data, runs and results go"
    )
    args = parser.parse_args()
    plan = QUICK if args.quick else FULL
    started = time.perf_counter()
    root = args.run_dir.resolve()
    data = root / "data"
    width, height = plan.size
    run(
        "prepare_data.py",
        "demo",
        data,
        "--size",
        f"{width},{height}",
        "--train",
        plan.train,
        "--val",
        plan.val,
    )

    source, stage_one, stage_two = (root / name for name in ("source_only", "mrnet", "rectified"))
    common = ("--data-root", data, "--seed", args.seed, "--log-every", 10)
    train("train_source.py", "demo_source_only", plan, *common, "--snapshot-dir", source)
    train("train_ms.py", "demo_mrnet", plan, *common, "--snapshot-dir", stage_one)
    label = ("--restore-from", stage_one, "--target", "cityscapes", "--data-root", data)
    train("generate_plabel.py", None, plan, *label, "--extras", "color", "uncertainty")
    train(
        "train_ft.py",
        "demo_rectified",
        plan,
        *common,
        "--restore-from",
        stage_one,
        "--snapshot-dir",
        stage_two,
    )
    results = ("--json", root / "scores.json", "--csv", root / "scores.csv")
    run("evaluate.py", source, stage_one, stage_two, "--target", "cityscapes", "--data-root", data, *results)
    pictures = write_comparison(
        root / "pictures",
        data,
        {"source only": source, "MRNet stage I": stage_one, "rectified stage II": stage_two},
    )
    minutes = (time.perf_counter() - started) / 60
    print(
        f"\nscores: {root / 'scores.json'} and scores.csv; pictures: {pictures[0].parent}; {minutes:.1f} "
        "minutes in all"
    )
    return 0


def train(script: str, recipe: str | None, plan: Plan, *arguments: object) -> None:
    """Runs a script as two processes, or as one on a usable GPU."""
    recipes = [f"@{RECIPES / recipe}.args", *plan.overrides] if recipe else []
    launcher = (
        []
        if torch.cuda.is_available()
        else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    )
    run(script, *recipes, *arguments, launcher=launcher)


def run(script: str, *arguments: object, launcher: list[str] | None = None) -> None:
    """Runs one command of the README, shown as it is; stops the demo if it fails."""
    command = [sys.executable, *(launcher or []), str(REPOSITORY / script), *map(str, arguments)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    code = subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    sys.exit(main())
