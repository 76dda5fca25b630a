"""Options of MADA: whole images, the anchors they are compared with, and the two stages."""

from __future__ import annotations

import argparse

from utils.arguments import values
from utils.arguments.anchored_defaults import published_options
from utils.arguments.parser import Parser, wrap
from utils.phases import PHASES

STARTS = ("source-anchors", "target-anchors")


def add_anchored_arguments(parser: Parser) -> None:
    """What `train_al.py --method mada` has beside the options of all active learning."""
    group = parser.add_argument_group(
        "whole images and anchors (mada)",
        "with --method mada these are the defaults, whatever else this text says of them:\n"
        + wrap(published_options(), width=100),
    )
    _add_phases(group)
    _add_files(group)
    _add_anchors(group)
    _add_stages(group)


def _add_phases(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--start-at",
        choices=STARTS,
        default="source-anchors",
        help="target-anchors: stage 1 is done, --restore-from is its network and --image-list what it was "
        "trained on",
    )
    add(
        "--stop-after",
        choices=PHASES,
        default="stage-2",
        help="the run ends after this phase; the same command without it goes on",
    )


def _add_files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--source-anchors",
        type=values.existing_path,
        metavar="PATH",
        help="anchors of the source (cluster_centroids_full_10.pkl) of an original or earlier run, in place "
        "of describing and clustering its images; or the run's folder",
    )
    add(
        "--source-vectors",
        type=values.existing_path,
        metavar="PATH",
        help="vectors of the source images (full_dataset_objective_vectors.pkl) to cluster, in place of "
        "describing the images; or source_vectors/vectors.npy of an earlier run, or the run's folder",
    )
    add(
        "--image-list",
        type=values.existing_path,
        metavar="PATH",
        help="target images to have labelled, one a line, such as the published stage1_cac_list_0.05.txt; "
        "none is selected; or the folder of a run that selected some",
    )
    add(
        "--labelled-list",
        type=values.existing_path,
        metavar="PATH",
        help="target images, one a line, that were labelled before: they train too, and --budget buys "
        "others; or the folder of a run that selected them",
    )
    add(
        "--target-anchors",
        type=values.existing_path,
        metavar="PATH",
        help="anchors of the target (cluster_centroids_full_target_10.pkl), in place of describing and "
        "clustering its images after stage 1; or the folder of a run that has them",
    )
    add(
        "--published-vectors",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also write the vectors of all images as the original does: 971 MB for GTA5",
    )


def _add_anchors(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--num-anchors",
        type=values.positive_int,
        default=10,
        metavar="V",
        help="clusters of the images of a domain",
    )
    add(
        "--allow-absent-classes",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="cluster the source also where it shows none of some class: rows of zeros in every anchor",
    )
    add(
        "--lambda-alignment",
        type=values.non_negative_float,
        default=0.7,
        metavar="W",
        help="weight of soft alignment to the target's anchors in stage 2; 0: no target anchors",
    )
    add(
        "--lambda-pseudo",
        type=values.non_negative_float,
        default=1.0,
        metavar="W",
        help="weight of the cross entropy with the network's own labels in stage 2",
    )
    add(
        "--anchor-momentum",
        type=values.decay,
        default=0.999,
        metavar="A",
        help="share of itself that the nearest anchor keeps in an iteration of stage 2",
    )
    add(
        "--batch-rule",
        choices=("last", "mean"),
        default="last",
        help="which image speaks for a class in the vector of a batch: the last that shows it, as released, "
        "or the mean of all",
    )


def _add_stages(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--stage-steps",
        type=values.stage_steps,
        default="37150,37150",
        metavar="N,N",
        help="optimizer steps of stage 1 and of stage 2, each with the learning rates of --num-steps from "
        "its beginning; 37150 are 50 passes over 2975 images in fours, where the released code ends",
    )
    add(
        "--stage-2-from",
        choices=("best", "last"),
        default="best",
        help="weights of stage 1 that stage 2 starts from: best on the target's validation labels, as "
        "published (last where there are none), or last",
    )
    add(
        "--input-size-active",
        type=values.size_wh,
        default="1914,1052",
        metavar="W,H",
        help="width,height in pixels that images which were bought are resized to in training, whatever "
        "their proportions, as --input-size does with the source",
    )
    add(
        "--scaled-width",
        type=values.positive_int,
        default=2200,
        metavar="W",
        help="width in pixels that training images have at factor 1 of --scale-range",
    )
