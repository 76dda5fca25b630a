"""Combinations of the options of self-training, and the defaults that depend on the method."""

from __future__ import annotations

import argparse

from utils.arguments.parser import warn
from utils.errors import UserError

_INSTANCE = (
    "instance_bank", "bank_size", "bank_fill_at", "instance_weight", "calibrate", "smooth",
    "bank_update_every", "bank_momentum", "bank_labels", "bank_absent",
)  # fmt: skip
_ONLY_WITH = {
    "rare_class_sampling": (
        "rare_class_temperature", "rare_class_min_pixels", "rare_class_min_crop_share", "class_statistics",
    ),
    "feature_distance_weight": ("feature_distance_classes", "feature_distance_min_share"),
    "masked_consistency": ("mask_block", "mask_ratio"),
    "crop_largest_share": ("crop_attempts",),
}  # fmt: skip


def check_self_training(args: argparse.Namespace) -> None:
    """Fills in what depends on the method, then refuses what contradicts itself.

    Raises:
        UserError: two options contradict each other, or a bank is missing.
    """
    _fill_in(args)
    _check_reference(args)
    _check_rows(args)
    _check_bank(args)
    _warn_about_unused(args)


def _fill_in(args: argparse.Namespace) -> None:
    dacs, fixed = args.method == "dacs", args.quirks == "fixed"
    defaults = {
        "ema_decay": 0.99 if dacs else 0.999,
        "ignore_top": 0 if dacs else 15,
        "ignore_bottom": 0 if dacs else 120,
        "feature_distance_weight": 0.0 if dacs else 0.005,
        "rare_class_sampling": not dacs,
        "bank_fill_at": args.warm_up,
        "bank_labels": "own" if fixed else "batch",
        "bank_absent": "keep" if fixed else "decay",
    }
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    # Kept with the run: whether the bank is filled may not change, where files lie may.
    args.bank_from = "fill" if args.instance_bank == "fill" else "files" if args.instance_bank else None
    if args.ema_decay == 0:
        raise UserError(
            "--ema-decay 0 means no teacher, but self-training takes its labels from one; give a decay above "
            "0, such as 0.999",
            everywhere=True,
        )


def _check_reference(args: argparse.Namespace) -> None:
    if args.feature_distance_weight == 0:
        return
    remedy = "give ImageNet weights (--backbone-weights PATH|torchvision) or --feature-distance-weight 0"
    if args.backbone_weights == "none":
        raise UserError(
            "the feature distance compares with the ImageNet backbone, --backbone-weights none has none; "
            + remedy,
            everywhere=True,
        )


def _check_rows(args: argparse.Namespace) -> None:
    height = args.crop_size[1]
    if args.ignore_top + args.ignore_bottom >= height:
        raise UserError(
            f"--ignore-top {args.ignore_top} and --ignore-bottom {args.ignore_bottom} leave none of the "
            f"{height} rows of a target crop (--crop-size {args.crop_size[0]},{height}): no pseudo label "
            "would count; ignore fewer rows",
            everywhere=True,
        )


def _check_bank(args: argparse.Namespace) -> None:
    if args.method != "dida":
        return
    if args.instance_bank is None:
        raise UserError(
            "--method dida needs --instance-bank: a folder with f_buffer_s.npz and l_buffer_s.npz (published "
            "or made by fill_bank.py --restore-from SNAPSHOT), or fill to make one from the student",
            everywhere=True,
        )
    if args.instance_bank == "fill" and args.bank_fill_at >= args.num_steps_stop:
        raise UserError(
            f"--bank-fill-at {args.bank_fill_at} comes when the run is over (--num-steps-stop "
            f"{args.num_steps_stop}), there would be no instance loss; fill the bank earlier",
            everywhere=True,
        )
    if args.instance_bank != "fill":
        for name in ("bank_size", "bank_fill_at"):
            if name in args.given:
                warn(f"{_flag(name)} has no effect: the bank is read from {args.instance_bank}")


def _warn_about_unused(args: argparse.Namespace) -> None:
    warn_about_switched_off(args)
    if args.method != "dida":
        for name in _INSTANCE:
            if name in args.given:
                warn(f"{_flag(name)} has no effect with --method {args.method}")
    elif args.instance_weight == 0:
        if "calibrate" in args.given:
            warn("--calibrate has no effect: --instance-weight is 0")
        if args.smooth == 1:
            warn("the instance bank has no effect: --instance-weight is 0 and --smooth 1")
    if args.jitter_threshold == 1 and "jitter_strength" in args.given:
        warn("--jitter-strength has no effect: --jitter-threshold 1 means never")
    if "restore_weights" in args.given and args.restore_from is None:
        warn("--restore-weights has no effect without --restore-from")


def warn_about_switched_off(args: argparse.Namespace) -> None:
    """Warns about options given for a part that is off; for every script that has some of these parts."""
    for switch, names in _ONLY_WITH.items():
        for name in names:
            if name in args.given and not getattr(args, switch):
                warn(f"{_flag(name)} has no effect without {_flag(switch)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
