"""Combinations of the options of self-training, and the defaults that depend on the method."""

from __future__ import annotations

import argparse

from utils.arguments import values
from utils.arguments.parser import warn
from utils.errors import UserError
from utils.snapshots import has_snapshots

_BANK = ("bank_size", "bank_fill_at", "bank_update_every", "bank_momentum", "bank_labels", "bank_absent")
_INSTANCE = ("instance_bank", "instance_weight", "calibrate", "smooth", *_BANK)
_BANK_FILES = (
    "a folder with f_buffer_s.npz and l_buffer_s.npz (published or made by fill_bank.py --restore-from "
    "SNAPSHOT)"
)
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
    args.bank_from = _bank_from(args)
    _check_teacher(args)
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


def _bank_from(args: argparse.Namespace) -> str | None:
    """What a run keeps of --instance-bank: whether the bank is filled may not change, where files lie may."""
    if args.method != "dida":
        return None
    return "fill" if args.instance_bank == "fill" else "files"


def _check_teacher(args: argparse.Namespace) -> None:
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
    if not args.instance_bank:
        raise UserError(
            f"--method dida needs --instance-bank: {_BANK_FILES}, or fill to make one from the student",
            everywhere=True,
        )
    if args.instance_bank == "fill":
        _check_filling(args)
        return
    _check_bank_path(args)
    for name in ("bank_size", "bank_fill_at"):
        if name in args.given:
            warn(f"{_flag(name)} has no effect: the bank is read from {args.instance_bank}")


def _check_filling(args: argparse.Namespace) -> None:
    at = f"--bank-fill-at {args.bank_fill_at}"
    if "bank_fill_at" not in args.given:
        at += " (unless given, as --warm-up)"
    if args.bank_fill_at >= args.num_steps_stop:
        raise UserError(
            f"{at} comes when the run is over (--num-steps-stop {args.num_steps_stop}), there would be no "
            "instance loss; fill the bank earlier",
            everywhere=True,
        )
    if args.bank_fill_at == 0 and args.restore_from is None and not has_snapshots(args.snapshot_dir):
        raise UserError(
            f"{at} fills the bank with features of an untrained head; give --restore-from a trained network, "
            "or fill it later, such as --bank-fill-at 1500",
            everywhere=True,
        )


def _check_bank_path(args: argparse.Namespace) -> None:
    """A run that goes on has the bank in its snapshot; the file may be gone."""
    if has_snapshots(args.snapshot_dir):
        return
    try:
        values.existing_path(args.instance_bank)
    except argparse.ArgumentTypeError as error:
        raise UserError(f"--instance-bank: {error}; give {_BANK_FILES}, or fill", everywhere=True) from None


def _warn_about_unused(args: argparse.Namespace) -> None:
    warn_about_switched_off(args)
    _warn_about_bank(args)
    if args.jitter_threshold == 1:
        if "jitter_strength" in args.given:
            warn("--jitter-strength has no effect: --jitter-threshold 1 means never")
        if args.teacher_augmentation and not args.blur:
            warn("--teacher-augmentation has no effect: --jitter-threshold 1 and --no-blur leave none")
    if "restore_weights" in args.given and args.restore_from is None:
        warn("--restore-weights has no effect without --restore-from")
    if args.quirks == "fixed" and args.optimizer != "sgd" and args.method != "dida":
        warn(
            f"--quirks fixed has no effect with --method {args.method} --optimizer {args.optimizer}: it "
            "repairs what sgd and the instance bank do"
        )


def _warn_about_bank(args: argparse.Namespace) -> None:
    if args.method != "dida":
        for name in _INSTANCE:
            if name in args.given:
                warn(f"{_flag(name)} has no effect with --method {args.method}")
        return
    if "bank_update_every" in args.given and args.bank_update_every >= args.num_steps_stop:
        warn(
            f"--bank-update-every {args.bank_update_every} has no effect after the first iteration: the run "
            f"stops at {args.num_steps_stop}"
        )
    if args.instance_weight > 0:
        return
    if "calibrate" in args.given:
        warn("--calibrate has no effect: --instance-weight is 0")
    if args.smooth == 1:
        given = "".join(f", nor has {_flag(name)}" for name in _BANK if name in args.given)
        warn(f"the instance bank has no effect{given}: --instance-weight is 0 and --smooth 1")


def warn_about_switched_off(args: argparse.Namespace) -> None:
    """Warns about options given for a part that is off; for every script that has some of these parts."""
    for switch, names in _ONLY_WITH.items():
        for name in names:
            if name in args.given and not getattr(args, switch):
                warn(f"{_flag(name)} has no effect without {_flag(switch)}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
