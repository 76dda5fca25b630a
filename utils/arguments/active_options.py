"""Options of active learning: what is bought, when, from whom, and how it trains."""

from __future__ import annotations

import argparse

from utils.arguments import values
from utils.arguments.anchored_options import add_anchored_arguments
from utils.arguments.parser import Parser


def add_active_arguments(parser: Parser) -> None:
    """What `train_al.py` has beside the options of every training."""
    _add_method_arguments(parser)
    _add_query_arguments(parser)
    _add_oracle_arguments(parser)
    _add_active_loss_arguments(parser)
    _add_class_weight_arguments(parser)
    add_anchored_arguments(parser)


def _add_method_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("active learning").add_argument
    add(
        "--method",
        choices=("ripu", "dwaca", "mada"),
        default="ripu",
        help="ripu and dwaca buy regions of every image; dwaca weighs the uncertainty of each class by how "
        "badly it is segmented, before every round; mada buys whole images once, then trains in two stages, "
        "with defaults of its own (below: whole images and anchors)",
    )
    add(
        "--setting",
        choices=("region", "pixel"),
        default="region",
        help="buy squares around the picked pixels, or single pixels spread over the image",
    )
    add(
        "--source-free",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train on the target alone, from --restore-from; no source data is read",
    )


def _add_query_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("query rounds").add_argument
    add(
        "--budget",
        default=None,
        metavar="2.2%|40px|148images",
        help="of every image over all rounds: a share of its pixels, or pixels counted at "
        "--input-size-target; with --method mada a share or number of images "
        "(default: 2.2%%, with --method dwaca and mada 5%%, with --setting pixel 40px)",
    )
    add(
        "--radius",
        type=values.non_negative_int,
        default=None,
        metavar="K",
        help="region: squares of 2K+1 pixels are bought; pixel: neighbourhood that is scored and not asked "
        "again (default: 1, with --setting pixel 32)",
    )
    add(
        "--select-iterations",
        type=values.iterations,
        default=None,
        metavar="N,N,...",
        help="iterations after which a round is held, ascending; the budget is divided by their number "
        "(default: 10000,12000,14000,16000,18000; with --source-free 0,2000,4000,6000,8000)",
    )
    add(
        "--input-size-query",
        type=values.size_wh,
        default=None,
        metavar="W,H",
        help="width,height of the images that are scored for selection (default: the base size of "
        "--protocol, else --input-size-target, as always with --method mada)",
    )
    add(
        "--score",
        choices=("published", "entropy", "random"),
        default="published",
        help="what regions or images are ranked by: the method's score, or a baseline",
    )
    add(
        "--query-pictures",
        type=values.non_negative_int,
        default=4,
        metavar="N",
        help="images drawn in every round: score map, what is asked about (regions or whole images), what "
        "was bought",
    )


def _add_oracle_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("oracle").add_argument
    add(
        "--oracle",
        choices=("truth", "people"),
        default="truth",
        help="who labels: the target's label files, or people by way of annotate.py",
    )
    add(
        "--accept-partial",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="go on with a round that people have answered in part; the rest stays unlabelled",
    )
    add(
        "--labels-from",
        type=values.folder,
        metavar="RUN",
        help="run folder of --method mada whose people have labelled images: with --oracle people their "
        "labels answer for the images that are asked about here too, and only the others are waited for",
    )
    add(
        "--annotations-from",
        type=values.folder,
        metavar="DIR",
        help="output folder of an original run (gtMask, gtIndicator): its annotations count as bought before "
        "the first round",
    )
    add(
        "--write-masks",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="after every round also write gtMask and gtIndicator as the originals do, into queries/",
    )
    add(
        "--seconds-per-decision",
        type=values.positive_float,
        default=None,
        metavar="S",
        help="how long a person takes for one region, with --method mada for one image, for the estimate of "
        "hours (default: see docs/annotation.md)",
    )


def _add_active_loss_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("losses").add_argument
    add(
        "--lambda-seg",
        type=values.non_negative_float,
        default=0.1,
        metavar="W",
        help="weight of an auxiliary head's cross entropy, in networks that have one",
    )
    add(
        "--lambda-consistency",
        type=values.non_negative_float,
        default=0.1,
        metavar="W",
        help="weight of local consistency at class boundaries of the source",
    )
    add("--consistency", choices=("l1", "kl"), default="l1", help="distance of local consistency")
    add(
        "--lambda-negative",
        type=values.non_negative_float,
        default=1.0,
        metavar="W",
        help="weight of negative learning on the target",
    )
    add(
        "--negative-threshold",
        type=values.fraction,
        default=0.05,
        metavar="P",
        help="classes below this probability are pushed down",
    )


def _add_class_weight_arguments(parser: Parser) -> None:
    add = parser.add_argument_group("class weights (dwaca)").add_argument
    add(
        "--class-weights-from",
        choices=("validation", "labelled", "source", "none"),
        default=None,
        help="where the IoU of the classes is measured: the target's validation labels (as published: those "
        "that also measure the result), what was bought so far, the source's training labels; none: no "
        "weights (default: validation with --method dwaca)",
    )
    add(
        "--class-weight-images",
        type=values.positive_int,
        default=500,
        metavar="N",
        help="images, evenly spread over the list, that labelled and source are measured on",
    )
    add(
        "--dropout-schedule",
        choices=("reference", "always"),
        default=None,
        help="reference: dropout is off from each evaluation of the original to the next round, as its "
        "authors' loop had it (default: reference with --method dwaca, else always)",
    )
    add(
        "--dropout-period",
        type=values.positive_int,
        default=2000,
        metavar="N",
        help="iterations between the original's evaluations, for --dropout-schedule reference",
    )
