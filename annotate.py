"""People as the oracle: queries out to an annotation tool, answers back in (docs/annotation.md).

Write the work out:  python annotate.py export RUN --to labelme --out DIR --annotators ann,bob
How far they are:    python annotate.py status RUN DIR
Read answers back:   python annotate.py import RUN DIR

RUN is the folder of a run that waits for labels: its people are the oracle of train_al.py. When all regions,
or whole images, are answered, the training command continues it.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from selection.budget import SECONDS_PER_DECISION, WHOLE_IMAGE_HOURS
from selection.exchange.answers import POLICIES, RoundAnswers, import_lock, key_of
from selection.exchange.crops import CropSettings
from selection.exchange.export import (
    check_new,
    new_export_id,
    plan,
    remember,
    remembered,
    resumed,
    write_packages,
)
from selection.exchange.import_report import ImportReport, shown_list
from selection.exchange.importing import read_packages
from selection.exchange.packages import Package, Sharing
from selection.exchange.status import (
    assumed_seconds,
    effort,
    format_status,
    open_work,
    round_status,
    with_open_work,
)
from selection.exchange.tools import TOOLS
from selection.rounds import UNANSWERED, RoundFolder, RoundInfo
from trainers.inference import prefetch
from trainers.people_runs import choose_round, class_names, image_reader, queries_of, training_command
from utils.arguments import (
    existing_folder,
    folder,
    fraction,
    make_parser,
    non_negative_int,
    positive_float,
    positive_int,
    warn,
)
from utils.errors import entry_point

if TYPE_CHECKING:
    from utils.arguments import Parser


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args(argv)
    return args.command(args)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of all subcommands; `command` is the function of the chosen one."""
    parser = make_parser(__doc__ or "", prog="annotate.py")
    parser.usage = "%(prog)s COMMAND RUN ..."
    commands = parser.add_subparsers(prog="annotate.py", metavar="COMMAND", required=True)

    def command(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> Parser:
        made = commands.add_parser(
            name, help=text, description=text, formatter_class=parser.formatter_class, allow_abbrev=False
        )
        made.set_defaults(command=run)
        made.add_argument("run", type=existing_folder, metavar="RUN", help="folder of the run")
        made.add_argument(
            "--round",
            type=positive_int,
            metavar="N",
            help="round, counted from 1 (default: the newest that waits for labels)",
        )
        return made

    _add_export(command("export", "write the queries of a round for an annotation tool", run_export))
    _add_status(command("status", "say how far the annotators are and how well they agree", run_status))
    _add_import(command("import", "check answers and store them in the run", run_import))
    return parser.parse_args(argv)


def _add_export(parser: Parser) -> None:
    add = parser.add_argument_group("what is written").add_argument
    add("--to", choices=tuple(TOOLS), required=True, help="format: LabelMe, COCO, or label pictures")
    add("--out", type=folder, required=True, metavar="DIR", help="gets a folder per annotator")
    add("--annotators", default="annotator", metavar="A,B,...", help="names; each gets a part of the crops")
    add(
        "--blind-share",
        type=fraction,
        default=0.0,
        metavar="P",
        help="share of the crops that are shown without the predicted class",
    )
    add(
        "--duplicate-share",
        type=fraction,
        default=0.0,
        metavar="P",
        help="share of the crops that a second annotator gets too (with one: a second package)",
    )
    add("--seed", type=non_negative_int, default=0, help="another seed deals the crops differently")
    add(
        "--unanswered",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="leave out regions that are answered already",
    )
    add(
        "--previews",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also write every crop with its regions outlined; whole images have none",
    )
    _add_crops(parser)
    add = parser.add_argument_group("where the images are").add_argument
    add("--target-root", type=existing_folder, metavar="DIR", help="their folder (default: the run's)")
    add("--data-root", type=existing_folder, metavar="DIR", help="folder of data sets (default: the run's)")
    add("--num-workers", type=non_negative_int, default=2, metavar="N", help="threads that cut crops")
    _add_price(parser)


def _add_crops(parser: Parser) -> None:
    default = CropSettings()
    add = parser.add_argument_group("crops, in pixels of the images").add_argument
    add(
        "--margin",
        type=non_negative_int,
        default=default.margin,
        metavar="N",
        help="context around regions; regions no further apart share a crop",
    )
    add("--min-crop", type=positive_int, default=default.smallest, metavar="N", help="shortest side")
    add("--max-crop", type=positive_int, default=default.largest, metavar="N", help="longest side")
    add(
        "--scale",
        type=positive_int,
        metavar="N",
        help="enlarge crops N times (default: until regions are readable); whole images stay as they are",
    )


def _add_status(parser: Parser) -> None:
    parser.add_argument(
        "folders",
        nargs="*",
        type=existing_folder,
        metavar="DIR",
        help="also count what lies here and is not imported yet",
    )
    parser.add_argument(
        "--list",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also list the crops or whole images that are open, by annotator, and images with open pixels",
    )
    _add_accept_unchanged(parser)
    _add_price(parser)


def _add_import(parser: Parser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=existing_folder, metavar="DIR", help="exported folders with answers"
    )
    parser.add_argument(
        "--on-conflict",
        choices=POLICIES,
        help="pixels labelled as two classes: refuse the crop, take the first shape, or ignore the pixels; "
        "where two annotators differ: leave them open, take the first by name, or ignore them (default: "
        "error, or what the last import was told)",
    )
    _add_accept_unchanged(parser)
    parser.add_argument(
        "--replace",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let answers replace other ones that were stored before",
    )
    parser.add_argument(
        "--skip-bad-files",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="store the good files although others have problems",
    )
    parser.add_argument(
        "--dry-run",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="check everything, store nothing",
    )


def _add_accept_unchanged(parser: Parser) -> None:
    parser.add_argument(
        "--accept-unchanged",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="coco, png: crops that still equal their suggestion are answers: people have looked at them",
    )


def _add_price(parser: Parser) -> None:
    parser.add_argument(
        "--seconds-per-decision",
        type=positive_float,
        metavar="S",
        help="how long a person takes for one region or whole image, for the estimate of hours (default: "
        f"{SECONDS_PER_DECISION:g}, of whole images {3600 * WHOLE_IMAGE_HOURS:g})",
    )


def run_export(args: argparse.Namespace) -> int:
    """Writes the packages of a round and says what they ask."""
    crops = CropSettings(args.margin, args.min_crop, args.max_crop, args.scale)
    sharing = Sharing(
        tuple(name.strip() for name in args.annotators.split(",")),
        args.blind_share,
        args.duplicate_share,
        args.seed,
    )
    chosen = choose_round(args.run, args.round, must_wait=True)
    queries, names = queries_of(chosen), class_names(args.run, chosen)
    if queries.info.whole_images:
        _warn_about_crops(crops)
    answered = RoundAnswers.load(chosen, queries).combined("first") if args.unanswered else None
    packages = plan(
        queries,
        args.to,
        run=str(args.run),
        crops=crops,
        sharing=sharing,
        answers=answered,
        export=new_export_id(),
    )
    packages = resumed(packages, args.out)
    check_new(packages, args.out)
    image_of = image_reader(args.run, queries, args.target_root, args.data_root)
    remember(chosen, packages)  # before people can have it: an export that was killed is repeated
    write_packages(
        packages,
        queries,
        args.out,
        names,
        read_image=image_of,
        previews=args.previews,
        mapper=lambda function, items: prefetch(function, list(items), args.num_workers),
    )
    _say_exported(args, packages, queries.info)
    return 0


def _warn_about_crops(crops: CropSettings) -> None:
    """Whole images are neither cut nor scaled."""
    flags = {"margin": "--margin", "smallest": "--min-crop", "largest": "--max-crop", "scale": "--scale"}
    for name, flag in flags.items():
        if getattr(crops, name) != getattr(CropSettings(), name):
            warn(f"{flag} has no effect on whole images, which are exported at their own size")


def _say_exported(args: argparse.Namespace, packages: Sequence[Package], info: RoundInfo) -> None:
    for package in packages:
        print(f"{args.out / package.annotator}: {package.asked}; see README.txt there")
    decisions = sum(package.decisions for package in packages)
    seconds = args.seconds_per_decision or assumed_seconds(info)
    print(
        f"{effort(decisions, seconds, whole_images=info.whole_images)}. "
        f"Then: python annotate.py import {shlex.join([str(args.run), str(args.out)])}"
    )


def run_status(args: argparse.Namespace) -> int:
    """Prints the progress of a round."""
    chosen = choose_round(args.run, args.round)
    queries, names = queries_of(chosen), class_names(args.run, chosen)
    answers = RoundAnswers.load(chosen, queries)
    state = "complete" if chosen.has_labels() else "waits for labels"
    print(f"round {queries.info.number + 1} of {queries.info.rounds} of {args.run}: {state}")
    if args.folders:
        options = {"on_conflict": answers.on_conflict, "accept_unchanged": args.accept_unchanged}
        report = read_packages(args.folders, answers, names, **options)
        print(report.text())
        if report.problems:
            print(
                f"{len(report.problems)} problem(s), which an import refuses:\n{shown_list(report.problems)}"
            )
        if report.changed:
            print(f"{report.changes_text()}: an import asks for --replace")
    packages = remembered(chosen)
    seconds = args.seconds_per_decision or assumed_seconds(queries.info)
    print(format_status(round_status(answers, packages, seconds_per_decision=seconds)))
    if args.list:
        print("\n".join(open_work(answers, packages)))
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Checks answers, stores them, and completes the round when none is missing."""
    chosen = choose_round(args.run, args.round)
    with import_lock(chosen):
        return _import(args, chosen)


def _import(args: argparse.Namespace, chosen: RoundFolder) -> int:
    queries, names = queries_of(chosen), class_names(args.run, chosen)
    answers = RoundAnswers.load(chosen, queries)
    answers.on_conflict = args.on_conflict or answers.on_conflict
    report = read_packages(
        args.folders,
        answers,
        names,
        on_conflict=answers.on_conflict,
        accept_unchanged=args.accept_unchanged,
    )
    _say_read(args, report, report.write(chosen.folder))
    _say_not_found(answers, report, remembered(chosen))
    if not args.replace:
        report.refuse_changes()
    elif report.changed:
        print(report.changes_text())
    classes = answers.combined()
    left = int(np.count_nonzero(classes == UNANSWERED))
    if args.dry_run:
        print(f"nothing is stored (--dry-run); {left} of {len(classes)} queried pixels would be left")
        return 0
    if not report.pixels and not (args.on_conflict and answers.classes):
        print(f"no answer was read, so nothing is stored; {left} of {len(classes)} queried pixels are left")
        return 0
    answers.store(chosen)
    _end(args.run, chosen, answers, classes)
    return 0


def _end(run: Path, chosen: RoundFolder, answers: RoundAnswers, classes: np.ndarray) -> None:
    """Completes the round where that is possible, and says how it stands."""
    left = int(np.count_nonzero(classes == UNANSWERED))
    disputed = answers.disputed()
    if chosen.has_labels():
        print("the round was complete before: its labels stay as they are, the answers count for the status")
    elif left:
        print(f"stored; {left} of {len(classes)} queried pixels are left to answer")
        if disputed and answers.on_conflict == "error":
            print(
                f"the round is not completed: annotators contradict each other in {disputed} of these "
                "pixels; settle them with --on-conflict first (the first annotator by name counts) or ignore"
            )
    else:
        chosen.write_labels(classes, queries=answers.queries)
        print(f"stored; the round is complete. Go on training:\n  {training_command(run)}")


def _say_read(args: argparse.Namespace, report: ImportReport, path: Path) -> None:
    """Prints what was read; stops at problems unless they are to be skipped."""
    print(report.text())
    if report.is_cut:
        print(f"all lines of these lists: {path}")
    if not args.skip_bad_files:
        report.refuse_problems(path)
    elif report.problems:
        print(f"skipped {len(report.problems)}:\n{shown_list(report.problems)}")


def _say_not_found(answers: RoundAnswers, report: ImportReport, packages: Sequence[Package]) -> None:
    """Names annotators of the last export who have work left and of whom no folder was named."""
    not_found = [package for package in packages if key_of(package) not in report.found]
    missing = with_open_work(answers, not_found)
    if missing:
        print(f"no folder of these annotators of the last export was found: {', '.join(missing)}")


if __name__ == "__main__":
    sys.exit(main())
