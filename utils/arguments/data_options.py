"""Options about data: source, target, evaluation, loading, pseudo labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.arguments import values
from utils.arguments.parser import Parser
from utils.errors import UserError

_FITTED = "that images are resized to fit into, proportions kept, before cropping"


def add_source_arguments(
    parser: Parser, *, source: str = "gta5", input_size: str = "1280,720", fitted: bool = False
) -> None:
    """The labelled domain.

    Args:
        parser: gets the options.
        source: default dataset.
        input_size: default of --input-size.
        fitted: images keep their proportions within --input-size.
    """
    add = parser.add_argument_group("source domain (labelled)").add_argument
    add(
        "--source",
        default=source,
        metavar="NAME|TOML",
        help="dataset name, or a description file of your own data",
    )
    add(
        "--source-root",
        type=values.existing_folder,
        metavar="DIR",
        help="its folder (default: found below --data-root)",
    )
    add(
        "--source-list",
        type=values.existing_file,
        metavar="FILE",
        help="image names, one a line (default: all of the split)",
    )
    add("--source-split", default="train", metavar="NAME", help="split to train on")
    add_labelled_size_argument(add, input_size, fitted=fitted)
    _add_moved(parser, "--data-dir", "source_root", values.existing_folder)
    _add_moved(parser, "--data-list", "source_list", values.existing_file)


def add_source_order_arguments(parser: Parser, *, order: str = "shuffled") -> None:
    """In which order labelled images are drawn."""
    add = parser.add_argument_group("order of the source images").add_argument
    add(
        "--source-order",
        choices=("shuffled", "class-balanced"),
        default=order,
        help="class-balanced: images with rare classes are drawn more often (RIPU's list)",
    )
    add(
        "--label-info",
        type=values.existing_file,
        metavar="FILE",
        help="which classes each source image holds, for class-balanced: gtav_label_info.p, "
        "synthia_label_info.p, or what prepare_data.py statistics wrote (default: found in the source's "
        "folder, else counted at the start)",
    )


def add_labelled_size_argument(add: Callable[..., Any], input_size: str, *, fitted: bool = False) -> None:
    """The size of the images that carry labels: the source's, in stage II the target's with pseudo labels."""
    resized = _FITTED if fitted else "that labelled images are resized to, before scaling and cropping"
    add(
        "--input-size",
        type=values.size_wh,
        default=input_size,
        metavar="W,H",
        help=f"width,height in pixels {resized}",
    )


def add_target_arguments(
    parser: Parser,
    *,
    target: str = "cityscapes",
    input_size: str | None = "1024,512",
    only_domain: bool = False,
    fitted: bool = False,
) -> None:
    """The unlabelled domain and where it is evaluated.

    Args:
        parser: gets the options.
        target: default dataset.
        input_size: default of --input-size-target; None: a protocol decides, there is no such option.
        only_domain: the script reads no source, so the originals' --data-dir and --data-list mean the target.
        fitted: images keep their proportions within --input-size-target.
    """
    add = parser.add_argument_group("target domain (no labels are read)").add_argument
    add(
        "--target",
        default=target,
        metavar="NAME|TOML",
        help="dataset name, or a description file of your own data",
    )
    add(
        "--target-root",
        type=values.existing_folder,
        metavar="DIR",
        help="its folder (default: found below --data-root); needs no labels",
    )
    add(
        "--target-list",
        type=values.existing_file,
        metavar="FILE",
        help="image names, one a line (default: all of the split)",
    )
    add("--target-split", "--set", default="train", metavar="NAME", help="split to adapt to")
    if input_size is not None:
        add(
            "--input-size-target",
            type=values.size_wh,
            default=input_size,
            metavar="W,H",
            help=f"width,height in pixels {_FITTED if fitted else 'that target images are resized to'}",
        )
    suffixes = ("-target", "") if only_domain else ("-target",)
    for suffix in suffixes:
        _add_moved(parser, f"--data-dir{suffix}", "target_root", values.existing_folder)
        _add_moved(parser, f"--data-list{suffix}", "target_list", values.existing_file)


def add_evaluation_arguments(parser: Parser) -> None:
    """The labelled images of the target domain that only measure."""
    add = parser.add_argument_group("evaluation data (labels measure, they never train)").add_argument
    add("--evaluation-split", default="val", metavar="NAME", help="labelled split of the target")
    add(
        "--evaluation-root",
        type=values.existing_folder,
        metavar="DIR",
        help="folder of that split (default: as --target-root)",
    )
    add(
        "--evaluation-list",
        type=values.existing_file,
        metavar="FILE",
        help="image names, one a line (default: all of the split)",
    )


def add_data_arguments(parser: Parser, *, crop_size: str = "640,360", scaled_otherwise: str = "") -> None:
    """Loading and augmentation of both domains. `scaled_otherwise`: what else --scale-range may mean."""
    add_reading_arguments(parser)
    add_bad_image_argument(parser)
    add = parser.add_argument_group("augmentation").add_argument
    add(
        "--crop-size",
        type=values.optional_size_wh,
        default=crop_size,
        metavar="W,H",
        help="width,height in pixels of the training crops of both domains; none: whole images",
    )
    add(
        "--scale-range",
        type=values.scale_range,
        default="0.8,1.2",
        metavar="LO,HI",
        help=f"labelled images are resized to --input-size times a factor drawn from it{scaled_otherwise}; "
        "none: no scaling",
    )
    add(
        "--crop-attempts",
        type=values.positive_int,
        default=10,
        metavar="N",
        help="random crops of a labelled image to try until one shows enough classes",
    )
    add(
        "--crop-min-classes",
        type=values.non_negative_int,
        default=10,
        metavar="N",
        help="a crop with more than so many label values (255 counts) is taken at once",
    )
    add(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="mirror half of the labelled images",
    )
    add(
        "--random-mirror",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="mirror half of the target images too",
    )
    add(
        "--autoaug",
        type=values.boolean_word,
        nargs="?",
        const=True,
        default=False,
        metavar="True|False",
        help="colour augmentation of labelled images; the bare flag means True; False means off, though it "
        "meant on in the original's stage II",
    )
    add(
        "--autoaug-target",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="colour augmentation of target images",
    )
    parser.add_original(
        "--random-scale", "no effect here or in the original; see --scale-range", action="store_true"
    )


def add_reading_arguments(parser: Parser, *, classes_of: str = "the target's") -> None:
    """What every script that reads images needs; a part of `add_data_arguments`. `classes_of`: whose classes
    are taken without --classes."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data-root",
        type=values.existing_folder,
        default=os.environ.get("SEGADAPT_DATA") or None,
        metavar="DIR",
        help="folder that holds the datasets (default: environment variable SEGADAPT_DATA)",
    )
    add(
        "--classes",
        metavar="NAME",
        help=f"classes to train and score, such as cityscapes19 or idd7 (default: {classes_of})",
    )
    add(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="a pair without image or label is an error; otherwise up to 0.5 %% are skipped and listed",
    )
    add(
        "--num-workers",
        type=values.non_negative_int,
        default=2,
        metavar="N",
        help="loader processes per domain and training process; 0: the process loads its own images",
    )
    parser.add_original("--ignore-label", "no effect: 255 is always ignored", _only_255, type=values.integer)


def add_bad_image_argument(parser: Parser) -> None:
    """What training does about a file that it cannot read."""
    parser.add_argument_group("damaged files").add_argument(
        "--skip-bad-images",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="a training image or label that is missing or damaged is left out: another one is drawn in its "
        "place, each file is reported once and metrics.jsonl counts the draws; up to 1 %% of a stream's "
        "files (at least 3). Otherwise the run stops and names the file",
    )


def add_labelling_arguments(parser: Parser) -> None:
    """Options of the script that writes pseudo labels."""
    add = parser.add_argument_group("pseudo labels").add_argument
    _add_pseudo_label_folder(add, "folder to write")
    add(
        "--threshold",
        type=values.fraction,
        default=0.0,
        metavar="P",
        help="pixels whose confidence (mean over scales and flips) is below it become 255; 0: none",
    )


def add_pseudo_label_arguments(parser: Parser) -> None:
    """Options of the script that trains on pseudo labels."""
    add = parser.add_argument_group("pseudo labels").add_argument
    _add_pseudo_label_folder(add, "folder to read")
    add(
        "--pseudo-label-loss",
        choices=("rectified", "plain"),
        default="rectified",
        help="weigh each pixel by the agreement of the two heads, or train on all alike",
    )
    add(
        "--threshold",
        type=values.fraction,
        metavar="P",
        help="stop unless the labels were made with this threshold (default: any)",
    )


def add_protocol_arguments(parser: Parser, *, protocol: str = "mrnet") -> None:
    """How the snapshots of a training run are scored."""
    parser.add_argument_group("evaluation protocol").add_argument(
        "--protocol",
        default=protocol,
        metavar="NAME",
        help="how snapshots are scored, here and by evaluate.py, such as mrnet-cityscapes, ripu-cityscapes, "
        "daformer-cityscapes or mada-cityscapes; mrnet, ripu, daformer and mada take --input-size-target as "
        "their base size",
    )


def _add_pseudo_label_folder(add: Callable[..., Any], what: str) -> None:
    add(
        "--pseudo-label-dir",
        type=values.folder,
        metavar="DIR",
        help=f"{what} (default: pseudo_labels in the run folder of --restore-from)",
    )


def _add_moved(parser: Parser, option: str, destination: str, kind: Callable[[str], Path]) -> None:
    ours = "--" + destination.replace("_", "-")
    parser.add_original(option, f"read as {ours} {{value}}", lambda value: (destination, value), type=kind)


def _only_255(value: Any) -> None:
    if value != 255:
        raise UserError(
            f"--ignore-label {value}: only 255 is supported; map other ids to 255 in the description",
            everywhere=True,
        )
