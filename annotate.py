"""People as the oracle: queries out to an annotation tool, answers back in (docs/annotation.md).

Write the work out:  python annotate.py export RUN --to labelme --out DIR --annotators ann,bob
How far they are:    python annotate.py status RUN DIR
Read answers back:   python annotate.py import RUN DIR

RUN is the folder of a run that waits for labels: its people are the oracle of train_al.py. When all regions
are answered, the training command continues it.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_loaders.decoding import read_image
from data_loaders.description import load_description
from data_loaders.discovery import find_files
from selection.budget import SECONDS_PER_DECISION
from selection.exchange.answers import RoundAnswers
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import CropSettings
from selection.exchange.export import check_new, plan, remember, remembered, write_packages
from selection.exchange.importing import ImportReport, read_packages, shown_list
from selection.exchange.packages import Package, Sharing
from selection.exchange.status import format_status, round_status
from selection.exchange.tools import TOOLS
from selection.rounds import UNANSWERED, RoundFolder, RoundQueries
from selection.store import AnnotationStore
from trainers.inference import prefetch
from utils.arguments import (
    existing_folder,
    folder,
    fraction,
    make_parser,
    non_negative_int,
    positive_float,
    positive_int,
)
from utils.arguments.commands import torchrun_command
from utils.class_spaces import CLASS_SPACES, class_space
from utils.errors import UserError, entry_point
from utils.runs import ARGUMENTS_FILE

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
        help="also write every crop with its regions outlined",
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
    _add_price(parser)


def _add_import(parser: Parser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=existing_folder, metavar="DIR", help="exported folders with answers"
    )
    parser.add_argument(
        "--on-conflict",
        choices=("error", "first", "ignore"),
        default="error",
        help="pixels labelled as two classes: refuse the crop, take the first shape, or ignore the pixels; "
        "where two annotators differ the first by name counts, with ignore neither",
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


def _add_price(parser: Parser) -> None:
    parser.add_argument(
        "--seconds-per-decision",
        type=positive_float,
        default=SECONDS_PER_DECISION,
        metavar="S",
        help="how long a person takes for one region, for the estimate of hours",
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
    chosen = _choose_round(args, must_wait=True)
    queries, names = _queries(chosen), _class_names(args.run, chosen)
    answered = RoundAnswers.load(chosen, queries).combined() if args.unanswered else None
    packages = plan(queries, args.to, run=str(args.run), crops=crops, sharing=sharing, answers=answered)
    check_new(packages, args.out)
    write_packages(
        packages,
        queries,
        args.out,
        names,
        read_image=_image_reader(args, queries),
        previews=args.previews,
        mapper=lambda function, items: prefetch(function, list(items), args.num_workers),
    )
    remember(chosen, packages)
    _say_exported(args, packages)
    return 0


def _say_exported(args: argparse.Namespace, packages: Sequence[Package]) -> None:
    for package in packages:
        asked = f"{package.decisions} regions in {len(package.tasks)} crops"
        print(f"{args.out / package.annotator}: {asked}; see README.txt there")
    decisions = sum(package.decisions for package in packages)
    hours = decisions * args.seconds_per_decision / 3600
    print(
        f"{decisions} decisions, about {hours:.1f} h at an assumed {args.seconds_per_decision:g} s per "
        f"decision. Then: python annotate.py import {shlex.join([str(args.run), str(args.out)])}"
    )


def run_status(args: argparse.Namespace) -> int:
    """Prints the progress of a round."""
    chosen = _choose_round(args)
    queries, names = _queries(chosen), _class_names(args.run, chosen)
    answers = RoundAnswers.load(chosen, queries)
    state = "complete" if chosen.has_labels() else "waits for labels"
    print(f"round {queries.info.number + 1} of {queries.info.rounds} of {args.run}: {state}")
    if args.folders:
        report = read_packages(args.folders, answers, names, on_conflict="first")
        _say_read(report)
        if report.problems:
            print(f"{len(report.problems)} problem(s):\n{shown_list(report.problems)}")
    packages = remembered(chosen)
    print(format_status(round_status(answers, packages, seconds_per_decision=args.seconds_per_decision)))
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Checks answers, stores them, and completes the round when none is missing."""
    chosen = _choose_round(args)
    queries, names = _queries(chosen), _class_names(args.run, chosen)
    answers = RoundAnswers.load(chosen, queries)
    report = read_packages(args.folders, answers, names, on_conflict=args.on_conflict)
    _say_read(report)
    if not args.skip_bad_files:
        report.refuse_problems()
    elif report.problems:
        print(f"skipped {len(report.problems)}:\n{shown_list(report.problems)}")
    classes = answers.combined("ignore" if args.on_conflict == "ignore" else "first")
    left = int(np.count_nonzero(classes == UNANSWERED))
    if args.dry_run:
        print(f"nothing is stored (--dry-run); {left} of {len(classes)} queried pixels would be left")
        return 0
    was_complete = chosen.has_labels()
    answers.store(chosen, args.on_conflict)
    if was_complete:
        print("the round was complete before: its labels stay as they are, the answers count for the status")
    elif left:
        print(f"stored; {left} of {len(classes)} queried pixels are left to answer")
    else:
        chosen.write_labels(classes, queries=queries)
        print(f"stored; the round is complete. Go on training:\n  {_training_command(args.run)}")
    return 0


def _say_read(report: ImportReport) -> None:
    print(
        f"{report.crops} crops answered: {report.pixels} queried pixels, {report.cannot_tell} of them cannot "
        f"be told; {report.outside} labelled pixels lie outside of the regions and count for nothing"
    )
    for reason, count in report.waiting.items():
        print(f"{count} crops are not answered: {reason}")
    if report.conflicts:
        print(f"settled contradictions in {len(report.conflicts)} crops:\n{shown_list(report.conflicts)}")
    if report.gaps:
        print(f"gaps in {len(report.gaps)} crops, which stay open:\n{shown_list(report.gaps)}")


def _choose_round(args: argparse.Namespace, *, must_wait: bool = False) -> RoundFolder:
    """The round of --round, or the newest that waits, or where none has to the newest that was asked.

    Raises:
        UserError: there is no such round.
    """
    store = AnnotationStore(args.run / "queries")
    numbers = sorted(int(path.name[6:]) for path in store.folder.glob("round_*") if path.name[6:].isdigit())
    asked = [number for number in numbers if store.round(number).queries() is not None]
    waiting = [number for number in asked if not store.round(number).has_labels()]
    if args.round is not None:
        if args.round - 1 not in (waiting if must_wait else asked):
            state = "does not wait for labels" if args.round - 1 in asked else "has no queries"
            listed = ", ".join(str(number + 1) for number in (waiting if must_wait else asked)) or "none"
            raise UserError(f"--round {args.round} of {args.run} {state}; possible: {listed}")
        return store.round(args.round - 1)
    if not waiting and (must_wait or not asked):
        raise UserError(
            f"no round of {args.run} waits for labels; start the training (train_al.py --oracle people), "
            "which selects regions and then waits"
        )
    return store.round((waiting or asked)[-1])


def _queries(chosen: RoundFolder) -> RoundQueries:
    queries = chosen.queries()
    assert queries is not None, "a round without queries was chosen"
    return queries


def _class_names(run: Path, chosen: RoundFolder) -> ClassNames:
    """The classes of a round; those of a description of the user's own are known once that is read."""
    info = chosen.info()
    assert info is not None, "a round without settings was chosen"
    if info.class_space not in CLASS_SPACES:
        load_description(_record(run)["arguments"]["target"])
    return ClassNames(class_space(info.class_space))


def _image_reader(args: argparse.Namespace, queries: RoundQueries) -> Callable[[str], np.ndarray]:
    """Reads target images by name.

    Raises:
        UserError: they are not found where the run found them, or are not those of the round.
    """
    settings = _record(args.run)["arguments"]
    files = find_files(
        load_description(settings["target"]),
        split=settings["target_split"],
        root=args.target_root or _path(settings.get("target_root")),
        data_root=args.data_root or _path(settings.get("data_root")),
        labels="never",
        list_file=_path(settings.get("target_list")),
    )
    paths = {item.name: item.image for item in files.items}
    missing = [query.name for query in queries.images if query.name not in paths]
    if missing:
        raise UserError(
            f"{len(missing)} images of the round are not in {files.root}, the first {missing[0]}; name their "
            "folder by --target-root"
        )
    return lambda name: read_image(paths[name])


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _record(run: Path) -> dict[str, Any]:
    """What the run wrote about its start.

    Raises:
        UserError: the folder is none of a run.
    """
    file = run / ARGUMENTS_FILE
    try:
        record = json.loads(file.read_bytes())
        if isinstance(record["arguments"], dict) and {"target", "target_split"} <= set(record["arguments"]):
            return record
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; name the folder of a run") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{file} is no record of a run; name the folder of a run of train_al.py")


def _training_command(run: Path) -> str:
    """The command that started the run last, on as many processes."""
    record = _record(run)
    last = record["starts"][-1] if record.get("starts") else record
    words = shlex.split(last.get("command_line") or record.get("command_line") or "train_al.py")
    return torchrun_command(words[0], words[1:], int(last.get("world_size") or 1))


if __name__ == "__main__":
    sys.exit(main())
