"""Find and check data folders, count classes, say which weights to fetch, draw the demo city.

What lies in a folder:        python prepare_data.py find DATA
Is a copy complete and sound: python prepare_data.py check gta5 --data-root DATA --write-list good.txt
Class statistics:             python prepare_data.py statistics gta5 --data-root DATA
Weights to fetch by hand:     python prepare_data.py weights
What is in a weights file:    python prepare_data.py weights check FILE
Data to try everything on:    python prepare_data.py demo demo/data

Runs on a login node: no GPU is touched, and only `weights check` loads a network.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data_loaders.checking import check_files, format_report
from data_loaders.description import load_description, shipped_descriptions
from data_loaders.discovery import FileList, find_files
from data_loaders.parallel import ProgressLine
from data_loaders.statistics import (
    COUNTED_CLASSES,
    ImageClasses,
    count_classes,
    label_info,
    read_image_classes,
    statistics_folder,
    total_pixels,
    write_class_statistics,
    write_label_info,
)
from data_loaders.survey import format_survey, survey
from utils.class_spaces import class_space
from utils.errors import UserError, entry_point
from utils.files import check_writable, write_atomically

# Worker processes import this file again, so what needs torch (the options, networks) is imported where it is
# used.
if TYPE_CHECKING:
    from utils.arguments import Parser

MANY_CORES = 8  # more processes than this rarely read faster from one disk


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args(argv)
    return args.run(args)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Options of all subcommands; `run` is the function of the chosen one."""
    from utils.arguments import make_parser

    parser = make_parser(__doc__, prog="prepare_data.py")
    parser.usage = "%(prog)s COMMAND ..."
    commands = parser.add_subparsers(prog="prepare_data.py", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> Parser:
        made = commands.add_parser(
            name, help=text, description=text, formatter_class=parser.formatter_class, allow_abbrev=False
        )
        made.set_defaults(run=globals()[f"run_{name}"])
        return made

    _add_find(command("find", "say which data sets lie below a folder, and in which layout"))
    _add_check(command("check", "decode every image and label of a split and report what is wrong"))
    _add_statistics(command("statistics", "count pixels per class and write the files that samplers read"))
    _add_weights(command("weights", "say which weights to fetch from where, or what a weights file is"))
    _add_demo(command("demo", "draw a small city in the formats of GTA5, Cityscapes and SYNTHIA"))
    return parser.parse_args(argv)


def _add_find(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="a data root, or one data set's own folder")
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME|TOML",
        help="only these (default: all that are shipped)",
    )


def _add_check(parser: Parser) -> None:
    _add_files(parser)
    parser.add_argument(
        "--labels",
        choices=("required", "optional", "never"),
        default="required",
        help="required: an image without label is a fault; never: label files are not touched",
    )
    parser.add_argument(
        "--strict", action=argparse.BooleanOptionalAction, default=False, help="allow no bad pair"
    )
    parser.add_argument("--write-list", type=Path, metavar="FILE", help="write the names of the good images")


def _add_statistics(parser: Parser) -> None:
    from utils.arguments import existing_file

    _add_files(parser)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the JSON files and tables (default: the data set's own, in which training finds "
        "them; counts of other --classes than its own go to class_statistics_NAME in it)",
    )
    parser.add_argument(
        "--compare",
        type=existing_file,
        nargs="+",
        default=[],
        metavar="FILE",
        help="files made elsewhere, *_label_info.p or sample_class_stats_dict.json: say which images differ",
    )


def _add_files(parser: Parser) -> None:
    from utils.arguments import existing_file, existing_folder, non_negative_int

    names = ", ".join(shipped_descriptions())
    parser.add_argument("dataset", metavar="NAME|TOML", help=f"a description file, or one of {names}")
    parser.add_argument("--split", default="train", metavar="NAME", help="split to read")
    parser.add_argument(
        "--data-root",
        type=existing_folder,
        metavar="DIR",
        help="folder that holds the data sets (default: environment variable SEGADAPT_DATA)",
    )
    parser.add_argument("--root", type=existing_folder, metavar="DIR", help="the data set's own folder")
    parser.add_argument(
        "--list", type=existing_file, metavar="FILE", help="only these images, one name a line"
    )
    parser.add_argument(
        "--classes", metavar="NAME", help="class space of the counts (default: the data set's own)"
    )
    parser.add_argument(
        "--num-workers",
        type=non_negative_int,
        default=min(MANY_CORES, os.cpu_count() or 1),
        metavar="N",
        help="processes that decode; 0: this one",
    )


def _add_weights(parser: Parser) -> None:
    parser.add_argument("action", nargs="?", choices=("list", "check"), default="list", help="what to do")
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="for check: a .pth file or run folder"
    )


def _add_demo(parser: Parser) -> None:
    from utils.arguments import positive_int, size_wh

    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="data root to make: DIR/gta5, DIR/cityscapes, ..."
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed is another city")
    parser.add_argument(
        "--size", type=size_wh, default="512,256", metavar="W,H", help="size of the images in pixels"
    )
    parser.add_argument(
        "--train", type=positive_int, default=100, metavar="N", help="training images per domain"
    )
    parser.add_argument(
        "--val", type=positive_int, default=20, metavar="N", help="labelled camera images to score"
    )
    parser.add_argument(
        "--domains",
        nargs="+",
        choices=("game", "camera", "synthia"),
        default=["game", "camera", "synthia"],
        metavar="NAME",
        help="game (GTA5's format), camera (Cityscapes'), synthia (SYNTHIA's)",
    )
    parser.add_argument(
        "--num-workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="drawing processes",
    )


def run_find(args: argparse.Namespace) -> int:
    """Prints which data sets lie below a folder; 2 when there is none."""
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is no folder; give a data root or one data set's own folder.")
    matches, missing = survey(args.folder, args.dataset)
    print(format_survey(matches, missing))
    return 0 if matches else 2


def run_check(args: argparse.Namespace) -> int:
    """Decodes all pairs of a split and reports; 2 when the copy is not fit for training."""
    if args.write_list is not None:
        check_writable(args.write_list)
    files = _find(args, labels=args.labels)
    space = args.classes or files.description.default_class_space
    report = check_files(files, num_workers=args.num_workers, progress=ProgressLine(len(files), "pairs"))
    print(format_report(report, space))
    if args.write_list is not None:
        names = report.good_names()
        write_atomically(args.write_list, "".join(f"{name}\n" for name in names))
        print(f"wrote {len(names)} names to {args.write_list}")
    report.verdict(strict=args.strict)
    return 0


def run_statistics(args: argparse.Namespace) -> int:
    """Counts classes, prints the totals, compares with files made elsewhere, writes the statistics files."""
    files = _find(args, labels="required")
    others = {path: read_image_classes(path) for path in args.compare}
    space = class_space(args.classes or files.description.default_class_space)
    output = args.output or statistics_folder(files, space.name)
    table = (args.output or files.root) / files.description.label_info
    _check_output(args, (output / COUNTED_CLASSES, table))
    progress = ProgressLine(len(files), "labels")
    images = count_classes(files, space.name, num_workers=args.num_workers, progress=progress)
    print(_format_totals(images, space.class_names))
    for path, other in others.items():
        print(f"{path}: {other.compare(images)}")
    written = write_class_statistics(output, images, space)
    write_label_info(table, label_info(images, space.num_classes))
    print(f"wrote {', '.join(str(path) for path in (*written, table))}")
    return 0


def _check_output(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    try:
        for path in paths:
            check_writable(path)
    except UserError as error:
        if args.output is not None:
            raise
        raise UserError(
            f"{error} To keep the statistics elsewhere give --output DIR here and --class-statistics DIR in "
            "training."
        ) from None


def _find(args: argparse.Namespace, labels: str) -> FileList:
    return find_files(
        load_description(args.dataset),
        split=args.split,
        root=args.root,
        data_root=args.data_root,
        labels=labels,
        list_file=args.list,
        limit_skipped=args.run is not run_check,
    )


def _format_totals(images: Sequence[ImageClasses], names: Sequence[str]) -> str:
    pixels, occurrences = total_pixels(images, len(names))
    lines = [f"{'id':>3} {'class':<18} {'pixels':>15} {'share':>8} {'images':>7}"]
    for train, name in enumerate(names):
        share = pixels[train] / max(1, pixels.sum())
        lines.append(f"{train:>3} {name:<18} {pixels[train]:>15} {share:>8.3%} {occurrences[train]:>7}")
    return "\n".join(lines)


def run_weights(args: argparse.Namespace) -> int:
    """Prints where weights come from, or what one file is."""
    if args.action == "list":
        from networks.backbone_weights import TORCHVISION_WEIGHTS

        print(_WEIGHTS_TEXT)
        for backbone, weights in TORCHVISION_WEIGHTS.items():
            print(f"  {backbone:<16} {weights.url}")
        return 0
    if args.file is None:
        raise UserError("weights check needs a FILE: python prepare_data.py weights check GTA5_25000.pth")
    print(_describe_weights(args.file))
    return 0


def _describe_weights(path: Path) -> str:
    """One line about a snapshot, a published checkpoint or an ImageNet file."""
    from networks.backbone_weights import check_backbone_file
    from networks.loading import load_network
    from networks.published import layout_of, unwrapped
    from utils import snapshots

    file = snapshots.resolve(path)
    content = snapshots.read(file)
    layout = None if snapshots.is_snapshot(content) else layout_of(unwrapped(content))
    if layout is not None and layout.refusal:
        backbone = check_backbone_file(file)
        whole = "" if backbone is None else f", complete for {backbone}"
        return f"{file}: {layout.title}{whole}; {layout.refusal}"
    loaded = load_network(path)
    spec = loaded.spec
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    options = ", ".join(f"{name} {value}" for name, value in spec.options.items())
    iteration = "" if loaded.iteration is None else f", iteration {loaded.iteration}"
    return (
        f"{file}: {layout.title if layout else 'a SegAdapt snapshot'}{iteration}; {spec.architecture} on "
        f"{spec.backbone}, {spec.num_classes} classes ({spec.class_space}), {parameters / 1e6:.1f} M "
        "parameters" + (f"; {options}" if options else "")
    )


def run_demo(args: argparse.Namespace) -> int:
    """Draws the demo city and prints what `find` sees in it."""
    from data_loaders.demo_city import draw_demo_city

    draw_demo_city(
        args.folder,
        seed=args.seed,
        size=args.size,
        train=args.train,
        val=args.val,
        domains=tuple(args.domains),
        workers=args.num_workers,
    )
    print(format_survey(survey(args.folder)[0], []))
    return 0


_WEIGHTS_TEXT = """\
Nothing is fetched by these tools unless you say --backbone-weights torchvision. Download by hand what you
need, then
    python prepare_data.py weights check FILE

Networks trained by the authors, for evaluate.py, generate_plabel.py and --restore-from:
  MRNet / Rectifying (Zheng & Yang): GTA5_25000.pth with opts.yaml beside it, per setting and stage; links in
      the README of github.com/layumi/Seg_Uncertainty. Keep opts.yaml beside it: it says norm style, SE.
  RIPU: v3plus_gtav_ra_5.0_precent/model_last.pth and others; links in the README of github.com/BIT-DA/RIPU.
  DWACA: the same format; links in the README of github.com/licongguan/DWACA.
  DAFormer, DIDA: latest.pth of a run folder, e.g. from DIDA_gta2cs.zip; links in the READMEs of
      github.com/lhoyer/DAFormer and github.com/RainJamesY/DIDA. The latter also holds the instance banks.

ImageNet weights to start training from (--backbone-weights FILE):
  resnet101_caffe (MRNet's own start): DeepLab_resnet_pretrained_init-f81d91e8.pth. Its first address is gone;
      look for the file name in the READMEs of github.com/wasidennis/AdaptSegNet and of the first one above.
  resnet101 (RIPU, DWACA): torchvision's resnet101-5d3b4d8f.pth, the older of its two files.
  mit_b0 to mit_b5 (DAFormer, DIDA): mit_b5.pth and so on, linked in the README of
      github.com/NVlabs/SegFormer; the forms of mmsegmentation and Hugging Face (nvidia/mit-b5,
      pytorch_model.bin) are read too. NVIDIA's licence allows non-commercial use only.
  the other backbones: torchvision's files, below. --backbone-weights torchvision fetches the same file where
      the machine has a connection; on a cluster fetch it on the login node:"""


if __name__ == "__main__":
    sys.exit(main())
