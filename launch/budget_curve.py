"""Draws what labels are worth: mIoU over budget, one line per method, from run folders.

    python launch/budget_curve.py runs/ripu-1 runs/ripu-5 runs/random-5 --line "source only=runs/source" \
        --line "all labels=runs/oracle" --output docs/budget_curve.svg

The budget, method and score of a run come from its arguments, its mIoU is the last one it logged. Runs that
agree in these three are averaged whatever else they differ in, their spread is a bar.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from utils.errors import UserError, entry_point
from utils.files import write_atomically
from utils.runs import DONE

WIDTH, HEIGHT = 640, 400  # of the picture
LEFT, RIGHT, TOP, BOTTOM = 56, 150, 20, 44  # margins; the right one holds the names
COLOURS = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#b8860b", "#444444")
TICKS = 5  # on the mIoU axis


@dataclass(frozen=True, slots=True)
class Run:
    """What a curve needs of one run: its name in the legend, its budget in percent, its mIoU in percent."""

    name: str
    budget: float
    miou: float


def read_miou(folder: Path) -> float:
    """The last mIoU that a finished run logged, in percent.

    Raises:
        UserError: there is none, it is no number, or the run is not done.
    """
    path = folder / "metrics.jsonl"
    if folder.is_dir() and not (folder / DONE).exists():
        raise UserError(f"{folder} has no {DONE}: the run is not finished; start its command again")
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [line["val/miou"] for line in lines if "val/miou" in line]
        miou = float(found[-1]) if found else None
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); give the folder of a run") from None
    if miou is None:
        raise UserError(f"{path} has no val/miou: the run was never evaluated; give it --evaluation-root")
    if not math.isfinite(miou):
        raise UserError(f"{path} ends with val/miou {miou}, which cannot be drawn; leave the run out")
    return miou


def read_run(folder: Path) -> Run:
    """Budget and name from a run's arguments, mIoU from its log.

    Raises:
        UserError: no run of train_al.py, or one whose budget is no percentage above 0.
    """
    path = folder / "arguments.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))["arguments"]
        budget, method, score = (str(settings[name]) for name in ("budget", "method", "score"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not of a run of train_al.py ({error!r}); give another folder") from None
    try:
        share = float(budget.removesuffix("%")) if budget.endswith("%") else math.nan
    except ValueError:
        share = math.nan
    if not 0 < share <= 100:  # false for NaN, too
        raise UserError(
            f"{folder} has the budget {budget}; curves are drawn over percentages: leave the run out"
        )
    return Run(method.upper() if score == "published" else score, share, read_miou(folder))


def draw(runs: Sequence[Run], lines: Mapping[str, float]) -> str:
    """The picture as SVG text.

    Args:
        runs: at least one.
        lines: mIoU of runs without a budget, drawn across.
    """
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        curves[run.name][run.budget].append(run.miou)
    values = [run.miou for run in runs] + list(lines.values())
    low, high = min(values) - 0.5, max(values) + 0.5
    most = max(run.budget for run in runs) * 1.05

    def x(budget: float) -> float:
        return LEFT + budget / most * (WIDTH - LEFT - RIGHT)

    def y(miou: float) -> float:
        return TOP + (high - miou) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(x, y, sorted({run.budget for run in runs}), low, high)]
    labels: list[tuple[float, str, str]] = []
    for name, miou in lines.items():
        parts.append(_line([(LEFT, y(miou)), (WIDTH - RIGHT, y(miou))], "#888888", dashed=True))
        labels.append((y(miou), f"{name} {miou:.1f}", "#666666"))
    for number, (name, points) in enumerate(sorted(curves.items())):
        colour = COLOURS[number % len(COLOURS)]
        means = [(budget, sum(found) / len(found)) for budget, found in sorted(points.items())]
        parts.append(_line([(x(budget), y(miou)) for budget, miou in means], colour))
        for budget, found in points.items():
            parts.append(_line([(x(budget), y(min(found))), (x(budget), y(max(found)))], colour))
            mean = sum(found) / len(found)
            parts.append(f'<circle cx="{x(budget):.1f}" cy="{y(mean):.1f}" r="4" fill="{colour}"/>')
        labels.append((y(means[-1][1]), f"{name} {means[-1][1]:.1f}", colour))
    parts += _names(labels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _axes(x: object, y: object, budgets: Sequence[float], low: float, high: float) -> str:
    parts = [_line([(LEFT, TOP), (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM)], "black")]
    for budget in budgets:
        parts.append(_text(x(budget), HEIGHT - BOTTOM + 18, f"{budget:g} %", anchor="middle"))
    for number in range(TICKS):
        miou = low + (high - low) * number / (TICKS - 1)
        parts.append(_text(LEFT - 6, y(miou) + 4, f"{miou:.1f}", anchor="end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "bought pixels", anchor="middle"))
    parts.append(_text(6, 14, "mIoU", anchor="start"))
    return "\n".join(parts)


def _names(labels: Sequence[tuple[float, str, str]]) -> list[str]:
    """Names at the right end of their lines, moved apart where they would overlap."""
    parts, lowest = [], float("-inf")
    for place, text, colour in sorted(labels):
        place = max(place, lowest + 15)
        lowest = place
        parts.append(_text(WIDTH - RIGHT + 8, place + 4, text, anchor="start", colour=colour))
    return parts


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dashes}/>'


def _text(x: float, y: float, text: str, *, anchor: str, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{html.escape(text)}</text>'


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the picture; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run of train_al.py")
    parser.add_argument(
        "--line", action="append", default=[], metavar="NAME=RUN", help="a run without a budget, drawn across"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="SVG file to write")
    args = parser.parse_args(argv)
    lines: dict[str, list[float]] = defaultdict(list)
    for word in args.line:
        name, equals, folder = word.partition("=")
        if not equals:
            raise UserError(f"--line {word}: give NAME=RUN")
        lines[name].append(read_miou(Path(folder)))
    means = {name: sum(found) / len(found) for name, found in lines.items()}
    write_atomically(args.output, draw([read_run(folder) for folder in args.runs], means))
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
