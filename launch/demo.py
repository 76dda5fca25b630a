"""The main job from nothing: demo city, source-only baseline, MRNet stage I, pseudo labels, rectified stage
II, RIPU with 5 % of the target's pixels, table, pictures.

    make demo            about 10 minutes on two cores
    make demo-quick      the same path in about 3 minutes
    python launch/demo.py --seed 1 --run-dir demo/seed1

Every training is two gloo processes under torchrun, or one process on a GPU if there is a usable one.
Started again with the same options, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from launch.demo_pictures import write_comparison
from utils.devices import gpu_is_usable

RECIPES = REPOSITORY / "launch" / "recipes"
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the demo is: images drawn, and recipes that come after those of the trainings."""

    size: tuple[int, int]  # W, H in pixels
    train: int
    val: int
    overrides: tuple[str, ...]


FULL = Scale((256, 128), 300, 60, ())
QUICK = Scale((256, 128), 60, 20, (f"@{RECIPES / 'demo_quick.args'}",))


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the README.

    Attributes:
        launcher: words between the interpreter and the script.
        pictures: folder whose first picture is announced while the command runs; None: nothing is.
    """

    script: str
    arguments: tuple[str, ...]
    launcher: tuple[str, ...] = ()
    pictures: Path | None = None

    def words(self) -> list[str]:
        """The command as a process is started with it."""
        return [sys.executable, *self.launcher, str(REPOSITORY / self.script), *self.arguments]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the demo writes."""

    root: Path

    @property
    def data(self) -> Path:
        """The demo city."""
        return self.root / "data"

    @property
    def runs(self) -> dict[str, Path]:
        """Run folders by title, in the order of the columns."""
        names = {
            "source only": "source_only",
            "MRNet stage I": "mrnet",
            "rectified stage II": "rectified",
            "RIPU, 5 %": "ripu",
        }
        return {title: self.root / name for title, name in names.items()}


def main(argv: Sequence[str] | None = None) -> int:
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
    args = parser.parse_args(argv)
    started = time.perf_counter()
    folders = Folders(args.run_dir.resolve())
    for command in plan(QUICK if args.quick else FULL, folders, seed=args.seed, gpu=gpu_is_usable()):
        with first_picture_announced(command.pictures, started):
            code = run(command)
        if code:
            return code
    pictures = write_comparison(folders.root / "pictures", folders.data, folders.runs)
    minutes = (time.perf_counter() - started) / 60
    bought = folders.runs["RIPU, 5 %"] / "queries" / "index.html"
    print(
        f"\nscores: {folders.root / 'scores.json'} and scores.csv; pictures: {pictures[0].parent}; what RIPU "
        f"bought: {bought}; {minutes:.1f} minutes in all"
    )
    return 0


def plan(scale: Scale, folders: Folders, *, seed: int, gpu: bool) -> list[Command]:
    """All commands in order.

    Args:
        scale: images and recipes.
        folders: where they write.
        seed: of the trainings.
        gpu: whether a GPU can be used; if not, every command is told so, as some machines only seem to have
            one.
    """
    device = () if gpu else ("--device", "cpu")
    launcher = () if gpu else TWO_PROCESSES
    data = ("--data-root", folders.data)
    source, stage_one, stage_two, ripu = folders.runs.values()

    def train(script: str, recipe: str, run_folder: Path, *start: object) -> Command:
        recipes = (f"@{RECIPES / recipe}.args", *scale.overrides)
        common = (*data, *device, "--seed", seed, "--log-every", 10, "--snapshot-dir", run_folder)
        pictures = None if start else run_folder / "pictures"  # the first run shows the first picture
        return Command(script, _texts(*recipes, *common, *start), launcher, pictures)

    drawn = ("--size", ",".join(map(str, scale.size)), "--train", scale.train, "--val", scale.val)
    label = ("--restore-from", stage_one, "--target", "cityscapes", *data, *device)
    results = ("--json", folders.root / "scores.json", "--csv", folders.root / "scores.csv")
    return [
        Command("prepare_data.py", _texts("demo", folders.data, *drawn)),
        train("train_source.py", "demo_source_only", source),
        train("train_ms.py", "demo_mrnet", stage_one, "--restore-from", source),
        Command("generate_plabel.py", _texts(*label, "--extras", "color", "uncertainty"), launcher),
        train("train_ft.py", "demo_rectified", stage_two, "--restore-from", stage_one),
        train("train_al.py", "demo_ripu", ripu, "--restore-from", source),
        Command(
            "evaluate.py",
            _texts(*folders.runs.values(), "--target", "cityscapes", *data, *device, *results),
        ),
    ]


def _texts(*words: object) -> tuple[str, ...]:
    return tuple(map(str, words))


def run(command: Command) -> int:
    """Runs one command, shown as it is; returns its exit code."""
    words = command.words()
    print(f"\n$ {shlex.join(words)}", flush=True)
    return subprocess.run(words, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode


@contextmanager
def first_picture_announced(folder: Path | None, started: float) -> Iterator[None]:
    """Inside, says once that there is a picture below `folder`, and how long after `started` it came.

    Args:
        folder: None, or one with pictures of an earlier start: nothing is said.
        started: `time.perf_counter()` of the start.
    """
    if folder is None or any(folder.rglob("*.png")):
        yield
        return
    ended = threading.Event()

    def look() -> None:
        picture = None
        while picture is None:
            last = ended.wait(0.5)
            picture = next(folder.rglob("*.png"), None)
            if last:
                break
        if picture is not None:
            seconds = time.perf_counter() - started
            print(f"first picture after {seconds:.0f} s: {picture}", flush=True)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


if __name__ == "__main__":
    sys.exit(main())
