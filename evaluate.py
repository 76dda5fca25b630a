"""Score snapshots, run folders, published checkpoints and folders of label PNGs: one table of IoU per class.

Run folders:       python evaluate.py runs/a runs/b --target cityscapes --data-root data
An original file:  python evaluate.py GTA5_25000.pth --target cityscapes --data-root data
One column each:   python evaluate.py runs/a runs/b --protocol common --json scores.json --csv scores.csv
Sliding windows:   python evaluate.py runs/a --base-size 2048,1024 --window 1024,512 --stride 512,256
Six scales, flip:  python evaluate.py runs/a --aug-test
Label PNGs:        python evaluate.py --label-folder predictions --target cityscapes --data-root data
19 ids on 7:       python evaluate.py --label-folder predictions --label-classes cityscapes19 --classes idd7 \
                       --target idd --data-root data
Several GPUs:      torchrun --standalone --nproc-per-node 4 evaluate.py runs/a ...    (the same table)
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from data_loaders.description import DatasetDescription, load_description
from data_loaders.discovery import FileList, find_files
from trainers.evaluation import (
    Evaluation,
    evaluate,
    label_folder_inspector,
    network_inspector,
    score_label_folder,
    write_worst,
)
from trainers.inference_arguments import Snapshot, add_inference_arguments, open_snapshot, prepare_device
from utils import distributed, logs
from utils.arguments import (
    add_distributed_arguments,
    add_evaluation_arguments,
    add_reading_arguments,
    existing_folder,
    existing_path,
    make_parser,
    non_negative_int,
    parse,
)
from utils.class_spaces import ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError, alike_everywhere, entry_point
from utils.metrics import TableRow, format_table, table_records
from utils.precision import Precision


@dataclass(frozen=True, slots=True)
class Scored:
    """One column of the table and where it comes from."""

    name: str
    source: dict[str, Any]
    evaluation: Evaluation


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of this script; `inputs` holds all snapshots."""
    parser = make_parser(__doc__ or "", prog="evaluate.py")
    parser.add_argument(
        "inputs",
        nargs="*",
        type=existing_path,
        metavar="SNAPSHOT",
        help="run folder (its last) or file",
    )
    add = parser.add_argument_group("what is scored").add_argument
    add(
        "--restore-from",
        type=existing_path,
        metavar="PATH",
        help="one more snapshot, as the originals name it",
    )
    add(
        "--label-folder",
        type=existing_folder,
        action="append",
        metavar="DIR",
        help="8-bit PNGs of train ids named as the images, made by anything; may be repeated",
    )
    add(
        "--label-classes",
        metavar="NAME",
        help="classes that the ids in --label-folder stand for (default: those that are scored)",
    )
    add(
        "--invalid",
        choices=("error", "wrong"),
        default="error",
        help="ids in --label-folder that are no class, such as 255 in thresholded labels",
    )
    add("--target", default="cityscapes", metavar="NAME|TOML", help="labelled data set")
    add("--target-root", type=existing_folder, metavar="DIR", help="its folder (default: below --data-root)")
    add("--split", dest="split", metavar="NAME", help="as --evaluation-split")
    output = parser.add_argument_group("output").add_argument
    output("--json", type=Path, metavar="FILE", help="write the table, protocols and confusion matrices")
    output("--csv", type=Path, metavar="FILE", help="write the table, one line per run")
    output(
        "--pictures",
        type=non_negative_int,
        default=0,
        metavar="N",
        help="draw the N worst images of each run, with the heat maps of a network's uncertainty and score",
    )
    output("--pictures-dir", type=Path, default=Path("evaluation"), metavar="DIR", help="where --pictures go")
    add_evaluation_arguments(parser)
    add_reading_arguments(parser)
    add_inference_arguments(parser)
    add_distributed_arguments(parser)
    args = parse(parser, argv)
    args.inputs += [args.restore_from] if args.restore_from else []
    args.label_folder = args.label_folder or []
    if not args.inputs and not args.label_folder:
        raise UserError("nothing to score: give a run folder, a snapshot or --label-folder", everywhere=True)
    if args.label_classes and not args.label_folder:
        raise UserError(
            "--label-classes says what a --label-folder holds, but none is given", everywhere=True
        )
    return args


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Prints one table on rank 0 and writes what was asked for."""
    args = parse_args(argv)
    description = load_description(args.target)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        logs.configure(world.rank, None)
        cv2.setNumThreads(0)
        with alike_everywhere():
            files = _find(args, description)
            snapshots = [open_snapshot(path, args, target=description.name) for path in args.inputs]
            space = _choose_space(args, description, snapshots)
            label_space = class_space(args.label_classes or space.name)
            precision = prepare_device(args, world)
        columns = [_score(snapshot, args, files, space, world, precision) for snapshot in snapshots]
        columns += [
            _score_folder(folder, args, files, space, label_space, world) for folder in args.label_folder
        ]
        if world.is_main:
            _report(columns, args, space, files)
    return 0


def _find(args: argparse.Namespace, description: DatasetDescription) -> FileList:
    return find_files(
        description,
        split=args.split or args.evaluation_split,
        root=args.evaluation_root or args.target_root,
        data_root=args.data_root,
        labels="required",
        list_file=args.evaluation_list,
        strict=args.strict,
    )


def _choose_space(
    args: argparse.Namespace, description: DatasetDescription, snapshots: Sequence[Snapshot]
) -> ClassSpace:
    """--classes, else what all networks were trained on if the data set has such labels, else its own."""
    if args.classes is not None:
        return class_space(args.classes)
    trained = {snapshot.loaded.spec.class_space for snapshot in snapshots}
    if len(trained) == 1 and trained <= set(description.class_spaces()):
        return class_space(trained.pop())
    return class_space(description.default_class_space)


def _score(
    snapshot: Snapshot,
    args: argparse.Namespace,
    files: FileList,
    space: ClassSpace,
    world: World,
    precision: Precision,
) -> Scored:
    network = snapshot.network.to(world.device)
    result = evaluate(
        network,
        files,
        snapshot.protocol,
        space,
        world=world,
        precision=precision,
        num_workers=args.num_workers,
    )
    name = str(snapshot.given)
    if args.pictures and world.is_main:
        inspect = network_inspector(network, snapshot.protocol, space, world, precision)
        write_worst(result, files, _picture_folder(args, name), args.pictures, inspect)
    network.cpu()
    source = {
        "file": str(snapshot.file),
        "weights": args.weights,
        "iteration": snapshot.loaded.iteration,
        "protocol": snapshot.protocol.to_dict(),
    }
    return Scored(name, source, result)


def _score_folder(
    folder: Path,
    args: argparse.Namespace,
    files: FileList,
    space: ClassSpace,
    label_space: ClassSpace,
    world: World,
) -> Scored:
    result = score_label_folder(
        folder, files, space, label_space=label_space, invalid=args.invalid, num_workers=args.num_workers
    )
    if args.pictures and world.is_main:
        inspect = label_folder_inspector(folder, label_space, space)
        write_worst(result, files, _picture_folder(args, str(folder)), args.pictures, inspect)
    return Scored(str(folder), {"file": str(folder)}, result)


def _picture_folder(args: argparse.Namespace, name: str) -> Path:
    return args.pictures_dir / "_".join(part for part in Path(name).parts if part not in ("/", "..", "."))


def _report(columns: Sequence[Scored], args: argparse.Namespace, space: ClassSpace, files: FileList) -> None:
    rows = [TableRow(column.name, column.evaluation.protocol, column.evaluation.scores) for column in columns]
    print(f"{files.description.name} {files.split}: {len(files)} images, IoU in percent")
    print(format_table(rows, space))
    records = table_records(rows, space)
    if args.json is not None:
        runs = [
            {**record, **column.source, "confusion": column.evaluation.counts.tolist()}
            for record, column in zip(records, columns, strict=True)
        ]
        values = {
            "target": files.description.name,
            "split": files.split,
            "images": len(files),
            "image_list": files.fingerprint(),
            "classes": space.name,
            "command_line": args.command_line,
            "runs": runs,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(values, indent=2) + "\n")
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        with args.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)


if __name__ == "__main__":
    sys.exit(main())
