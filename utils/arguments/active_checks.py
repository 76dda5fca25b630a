"""Combinations of the options of active learning, and the defaults that depend on the method."""

from __future__ import annotations

import argparse

from utils.arguments.anchored_checks import check_anchored, check_not_anchored
from utils.arguments.parser import warn
from utils.errors import UserError
from utils.phases import reaches

SOURCE_FREE_ITERATIONS = (0, 2000, 4000, 6000, 8000)
ITERATIONS = (10_000, 12_000, 14_000, 16_000, 18_000)


def check_active(args: argparse.Namespace) -> None:
    """Fills in what depends on method and setting, then refuses what contradicts itself.

    Raises:
        UserError: two options contradict each other, or a round lies after the end.
    """
    if args.method == "mada":
        check_anchored(args)
    else:
        check_not_anchored(args)
        _fill_in(args)
        _check_rounds(args)
        _check_method(args)
        _check_source_free(args)
    _check_people(args)


def _fill_in(args: argparse.Namespace) -> None:
    pixel, dwaca = args.setting == "pixel", args.method == "dwaca"
    defaults = {
        "budget": "40px" if pixel else "5%" if dwaca else "2.2%",
        "radius": 32 if pixel else 1,
        "select_iterations": SOURCE_FREE_ITERATIONS if args.source_free else ITERATIONS,
        "class_weights_from": "validation" if dwaca else "none",
        "dropout_schedule": "reference" if dwaca else "always",
    }
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if dwaca and "network" not in args.given:
        args.network = "deeplab_v3plus"


def _check_rounds(args: argparse.Namespace) -> None:
    late = [number for number in args.select_iterations if number >= args.num_steps_stop]
    if late:
        raise UserError(
            f"--select-iterations {','.join(map(str, args.select_iterations))}: the round at {late[0]} comes "
            f"when the run is over (--num-steps-stop {args.num_steps_stop}) and what it buys would never "
            "train; stop later or select earlier",
            everywhere=True,
        )


def _check_method(args: argparse.Namespace) -> None:
    if args.method == "dwaca" and args.setting == "pixel":
        raise UserError(
            "--method dwaca weighs regions, there is no pixel setting of it; use --setting region, or "
            "--method ripu --setting pixel",
            everywhere=True,
        )
    if args.method == "ripu" and args.class_weights_from != "none":
        raise UserError(
            f"--class-weights-from {args.class_weights_from} belongs to --method dwaca, which is ripu with "
            "class weights",
            everywhere=True,
        )
    if args.score != "published" and args.class_weights_from != "none":
        raise UserError(
            f"--score {args.score} is not weighted by class; use --method ripu for the baselines",
            everywhere=True,
        )
    measured = args.class_weights_from in ("labelled", "source")
    if "class_weight_images" in args.given and not measured:
        warn("--class-weight-images has no effect without --class-weights-from labelled or source")
    if "dropout_period" in args.given and args.dropout_schedule == "always":
        warn("--dropout-period has no effect with --dropout-schedule always")


def _check_source_free(args: argparse.Namespace) -> None:
    if not args.source_free:
        return
    if args.restore_from is None:
        raise UserError(
            "--source-free needs --restore-from: a snapshot of train_source.py or an original checkpoint",
            everywhere=True,
        )
    if args.class_weights_from == "source":
        raise UserError(
            "--class-weights-from source reads source data, --source-free reads none", everywhere=True
        )
    without_effect = ("source_root", "source_list", "lambda_consistency", "consistency", "label_info")
    for name in (*without_effect, "autoaug"):
        if name in args.given:
            warn(f"--{name.replace('_', '-')} has no effect with --source-free")


def _check_people(args: argparse.Namespace) -> None:
    if args.labels_from is not None:
        _check_labels_from(args)
    if args.oracle == "truth":
        for name in ("accept_partial", "seconds_per_decision"):
            if name in args.given:
                warn(f"--{name.replace('_', '-')} has no effect with --oracle truth")


def _check_labels_from(args: argparse.Namespace) -> None:
    if args.oracle == "truth":
        raise UserError(
            f"--labels-from {args.labels_from}: with --oracle truth the label files answer for every image; "
            "leave it out, or give --oracle people",
            everywhere=True,
        )
    if args.stop_after == "target-anchors" and args.start_at == "target-anchors":
        warn("--labels-from has no effect: a run for target anchors alone asks about no image")
    elif not reaches(args.stop_after, "labels"):
        warn(f"--labels-from has no effect: the run ends with --stop-after {args.stop_after}")
