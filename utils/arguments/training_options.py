"""Options about networks, optimizers and the losses of memory regularisation."""

from __future__ import annotations

import argparse
from typing import Any

from utils.arguments import values
from utils.arguments.common_options import (
    add_batch_norm_arguments,
    add_distributed_arguments,
    add_precision_arguments,
    add_run_arguments,
)
from utils.arguments.data_options import add_protocol_arguments
from utils.arguments.parser import Parser
from utils.errors import UserError


def add_training_arguments(parser: Parser, *, protocol: str = "mrnet") -> None:
    """What every training script has: protocol of its scores, run folder, processes, BatchNorm, precision."""
    add_protocol_arguments(parser, protocol=protocol)
    add_run_arguments(parser)
    add_distributed_arguments(parser)
    add_batch_norm_arguments(parser)
    add_precision_arguments(parser)


def add_network_arguments(parser: Parser) -> None:
    """The segmentation network and what it starts from."""
    add = parser.add_argument_group("network").add_argument
    add("--network", default="deeplab_two_head", metavar="NAME", help="architecture")
    add("--backbone", default="resnet101_caffe", metavar="NAME", help="backbone of the network")
    add(
        "--backbone-weights",
        metavar="PATH|torchvision|none",
        help="ImageNet weights of the backbone: a file, torchvision's, or none for random ones; "
        "required unless --restore-from is given",
    )
    add(
        "--restore-from",
        type=values.existing_path,
        metavar="PATH",
        help="snapshot, run folder or published checkpoint that fills the whole network; a file of ImageNet "
        "weights fills the backbone",
    )
    add(
        "--num-classes",
        type=values.positive_int,
        metavar="N",
        help="number of classes, compared with --classes; for original command lines",
    )
    add(
        "--norm-style",
        choices=("bn", "in", "gn", "frozen"),
        default=None,
        help="normalisation: batch, instance or group norm inside the heads; deeplab_v2 and deeplab_v3plus "
        "take bn, or frozen: fixed scales without epsilon everywhere (default: bn, for those two frozen)",
    )
    add(
        "--use-se",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="squeeze-and-excitation in the heads",
    )
    add(
        "--droprate",
        "--drop",
        "--drop-rate",
        type=values.fraction,
        default=0.1,
        metavar="P",
        help="channel dropout before the classifiers of both heads",
    )
    add(
        "--train-bn",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="train scale and shift of the backbone's BatchNorm",
    )
    add(
        "--head-channels",
        type=values.positive_int,
        default=None,
        metavar="N",
        help="channels of each branch of a head (default: 256, in deeplab_v3plus 512)",
    )
    add(
        "--bottleneck-channels",
        type=values.positive_int,
        default=None,
        metavar="N",
        help="channels before the classifier of a head (default: 512)",
    )
    add(
        "--output-stride",
        type=values.positive_int,
        choices=(8, 16, 32),
        default=None,
        help="image pixels per value of the backbone's last map, per axis (default: 8, in mada_v3plus 16)",
    )
    parser.add_original("--model", "no effect: see --network", _only_deeplab)


def add_optimizer_arguments(
    parser: Parser, *, needs_teacher: bool = False, all_steps: str = "--num-steps"
) -> None:
    """Batch, steps and optimizers.

    Args:
        parser: gets the options.
        needs_teacher: the script cannot do without the averaged weights.
        all_steps: how many there are without --num-steps-stop.
    """
    _add_step_arguments(parser, all_steps)
    add = parser.add_argument_group("optimizer").add_argument
    add(
        "--optimizer",
        choices=("sgd", "sgd-plain", "adamw"),
        default="sgd",
        help="of the segmentation network; sgd has Nesterov momentum and, with --quirks published, steps "
        "some parameters several times (MRNet); sgd-plain has ordinary momentum; it and adamw step each once",
    )
    add(
        "--learning-rate",
        type=values.positive_float,
        default=2.5e-4,
        metavar="LR",
        help="peak learning rate of the backbone; see --head-scale",
    )
    add(
        "--head-scale",
        type=values.positive_float,
        default=10.0,
        metavar="F",
        help="learning rate of the heads relative to the backbone's",
    )
    add(
        "--power",
        type=values.non_negative_float,
        default=0.9,
        metavar="P",
        help="exponent of the polynomial decay",
    )
    add("--momentum", type=values.fraction, default=0.9, metavar="M", help="momentum of sgd")
    add(
        "--weight-decay",
        type=values.non_negative_float,
        default=5e-4,
        metavar="WD",
        help="weight decay of everything the segmentation network trains",
    )
    add(
        "--backbone-norm-decay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="weight decay also for scale and shift of the backbone's normalisation layers",
    )
    add(
        "--max-grad-norm",
        type=values.non_negative_float,
        default=0.0,
        metavar="G",
        help="gradients of the segmentation network are scaled down to this norm; 0: never",
    )
    add(
        "--ema-decay",
        type=values.decay,
        default=0.0,
        metavar="A",
        help="share of itself that the teacher, a moving average of the weights, keeps in a step; above 0 "
        "(default: 0.999, with --method dacs 0.99)"
        if needs_teacher
        else "keep a teacher, a moving average of the weights (evaluate.py --weights teacher); 0: none",
    )
    parser.add_original(
        "--iter-size", "no effect at 1; see --accumulation", _only_one, type=values.positive_int
    )


def _add_step_arguments(parser: Parser, all_steps: str) -> None:
    add = parser.add_argument_group("batch and steps").add_argument
    add(
        "--batch-size",
        type=values.positive_int,
        default=16,
        metavar="N",
        help="images per domain and optimizer step, over all processes and --accumulation",
    )
    add(
        "--accumulation",
        type=values.positive_int,
        default=1,
        metavar="N",
        help="micro-batches per optimizer step; --batch-size is split over them",
    )
    add(
        "--num-steps",
        type=values.positive_int,
        default=100_000,
        metavar="N",
        help="optimizer steps until the learning rate reaches 0",
    )
    add(
        "--num-steps-stop",
        type=values.positive_int,
        metavar="N",
        help=f"optimizer steps to run (default: {all_steps})",
    )
    add(
        "--warm-up",
        type=values.non_negative_int,
        default=0,
        metavar="N",
        help="optimizer steps of rising learning rate; see --warm-up-schedule",
    )
    add(
        "--warm-up-schedule",
        choices=("flat", "decaying"),
        default="flat",
        help="flat: from a tenth of the learning rate to all of it, then the decay begins (MRNet); decaying: "
        "from --warm-up-ratio to all of a rate that decays all the while (DAFormer)",
    )
    add(
        "--warm-up-ratio",
        type=values.fraction,
        default=1e-6,
        metavar="P",
        help="share of the learning rate that --warm-up-schedule decaying begins with",
    )


def add_segmentation_loss_arguments(parser: Parser) -> None:
    """Loss on labelled images: both heads, class weights, choice of pixels (Zheng & Yang, IJCAI 2020)."""
    add = parser.add_argument_group("segmentation loss").add_argument
    add(
        "--lambda-seg",
        type=values.non_negative_float,
        default=0.1,
        metavar="W",
        help="weight of the auxiliary head's segmentation loss; the main head's is 1",
    )
    add(
        "--class-balance",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="weigh classes that are rare in the batch by --max-value",
    )
    add(
        "--often-balance",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="also weigh classes by how often recent batches lacked them",
    )
    add(
        "--max-value",
        type=values.non_negative_float,
        default=2.0,
        metavar="W",
        help="weight of a rare class with --class-balance",
    )
    add(
        "--only-hard-label",
        type=values.percentile,
        default=0.0,
        metavar="Q",
        help="drop pixels whose loss is below this percentile of the batch, per head; 0: keep all",
    )


def add_memory_arguments(parser: Parser) -> None:
    """Loss terms on unlabelled target images (Zheng & Yang, IJCAI 2020)."""
    add = parser.add_argument_group("target terms").add_argument
    add(
        "--lambda-adv-target1",
        type=values.non_negative_float,
        default=2e-4,
        metavar="W",
        help="weight of the adversarial loss of the auxiliary head",
    )
    add(
        "--lambda-adv-target2",
        type=values.non_negative_float,
        default=1e-3,
        metavar="W",
        help="weight of the adversarial loss of the main head",
    )
    add(
        "--lambda-me-target",
        type=values.non_negative_float,
        default=0.0,
        metavar="W",
        help="weight of the confident-entropy term on target images",
    )
    add(
        "--lambda-kl-target",
        type=values.non_negative_float,
        default=0.0,
        metavar="W",
        help="weight of memory regularisation on target images",
    )
    add(
        "--target-terms-start",
        type=values.non_negative_int,
        default=15_000,
        metavar="N",
        help="first iteration of the two terms above",
    )
    add(
        "--learning-rate-D",
        type=values.positive_float,
        default=1e-4,
        metavar="LR",
        help="learning rate of the discriminators (Adam)",
    )
    add(
        "--unweighted-terms",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compute and log the adversarial terms also at weight 0; slower",
    )


def _only_deeplab(value: Any) -> None:
    if value != "DeepLab":
        raise UserError(
            f"--model {value}: choose the architecture by --network and --backbone", everywhere=True
        )


def _only_one(value: Any) -> None:
    if value != 1:
        raise UserError(
            f"--iter-size {value}: the original repeated whole optimizer steps under one iteration number; "
            f"use --num-steps {value} times larger for that, or --accumulation {value} for one step over as "
            "many micro-batches",
            everywhere=True,
        )
