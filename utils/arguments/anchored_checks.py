"""MADA's defaults, the steps of its stages, and combinations of its options."""

from __future__ import annotations

import argparse
from typing import Any

from utils.arguments.anchored_options import PHASES
from utils.arguments.parser import warn
from utils.errors import UserError
from utils.snapshots import has_snapshots

# In place of the defaults of the other methods of active learning: the authors' released configuration.
PUBLISHED: dict[str, Any] = {
    "network": "mada_v3plus",
    "backbone": "resnet101",
    "train_bn": True,
    "batch_norm": "sync",
    "optimizer": "sgd-plain",
    "learning_rate": 1e-4,
    "head_scale": 1.0,
    "weight_decay": 2e-4,
    "num_steps": 90_000,
    "batch_size": 4,
    "input_size": (1914, 1052),
    "input_size_target": (2048, 1024),
    "crop_size": (896, 512),
    "scale_range": (0.5, 1.5),
    "mirror": True,
    "random_mirror": True,
    "source_order": "shuffled",
    "budget": "5%",
    "protocol": "mada",
    "save_pred_every": 1000,
    "evaluate_every": 1000,
}
# What the options of the other methods come to: one query round about whole images, before the first update.
SETTLED: dict[str, Any] = {
    "setting": "image",
    "select_iterations": (0,),
    "radius": None,
    "class_weights_from": "none",
    "dropout_schedule": "always",
}
WARM_UP_FILE = "from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl"
IMAGE_LISTS = "stage1_cac_list_0.05.txt as published, or the one in selection_list/ of the run of stage 1"

_OF_OTHER_METHODS = (
    "radius", "select_iterations",
    "lambda_consistency", "consistency", "lambda_negative", "negative_threshold",
    "class_weights_from", "class_weight_images", "dropout_schedule", "dropout_period", "seconds_per_decision",
    "crop_attempts", "crop_min_classes", "autoaug", "autoaug_target",
    "warm_up", "warm_up_schedule", "warm_up_ratio",
)  # fmt: skip
# Said in vain with another method: those that name what a run starts from or does are errors, not warnings.
_STEERING = (
    "start_at", "stop_after", "source_anchors", "source_vectors", "image_list", "labelled_list",
    "target_anchors", "stage_steps",
)  # fmt: skip
_OWN = (
    "published_vectors", "num_anchors", "allow_absent_classes", "lambda_alignment", "lambda_pseudo",
    "anchor_momentum", "batch_rule", "stage_2_from", "input_size_active", "scaled_width",
)  # fmt: skip


def is_anchored(args: argparse.Namespace) -> bool:
    """Whether these are the options of a run of MADA."""
    return hasattr(args, "stage_steps") and args.method == "mada"


def settings_of_others(args: argparse.Namespace) -> frozenset[str]:
    """MADA's options where another method runs: no settings of that run, which began before they were added
    or will go on after there are more."""
    return frozenset() if is_anchored(args) else frozenset((*_STEERING, *_OWN))


def fill_in_anchored(args: argparse.Namespace) -> None:
    """Gives the options that nobody gave MADA's values, before anything is compared.

    Raises:
        UserError: nothing says which network is trained.
    """
    for name, value in PUBLISHED.items():
        if name not in args.given:
            setattr(args, name, value)
    if args.restore_from is None:
        _check_begun(args)
        args.backbone_weights = "none"  # the snapshot of the run folder fills the network


def settle_steps(args: argparse.Namespace) -> None:
    """`num_steps_stop`: the steps of the stages that will run; `stage_steps` with 0 for a stage that is done.

    Raises:
        UserError: --num-steps-stop is after both stages.
    """
    if args.start_at == "target-anchors":
        args.stage_steps = (0, args.stage_steps[1])
    first, second = args.stage_steps
    whole = first + second
    if args.num_steps_stop is not None and args.num_steps_stop > whole:
        raise UserError(
            f"--num-steps-stop {args.num_steps_stop} is after the {whole} steps of both stages; stop earlier "
            "or give longer --stage-steps",
            everywhere=True,
        )
    place = PHASES.index(args.stop_after)
    steps = 0 if place < PHASES.index("stage-1") else first if place < PHASES.index("stage-2") else whole
    args.num_steps_stop = min(steps, args.num_steps_stop or whole)
    if max(args.stage_steps) > args.num_steps:
        warn(
            f"--stage-steps {first},{second}: the learning rate is 0 from step {args.num_steps} of a stage "
            "on (--num-steps)"
        )


def check_anchored(args: argparse.Namespace) -> None:
    """Refuses what contradicts MADA, warns about what says nothing to it, and settles the rest.

    Raises:
        UserError: two options contradict each other.
    """
    _check_method(args)
    _check_training(args)
    _check_phases(args)
    _check_files(args)
    _warn_about_unused(args)
    for name, value in SETTLED.items():
        setattr(args, name, value)


def check_not_anchored(args: argparse.Namespace) -> None:
    """Refuses or warns about MADA's options where another method runs.

    Raises:
        UserError: one that would change what the run does.
    """
    for name in _STEERING:
        if name in args.given:
            raise UserError(
                f"{_said(args, name)} belongs to --method mada; leave it out, or choose that method",
                everywhere=True,
            )
    for name in _OWN:
        if name in args.given:
            warn(f"{_flag(name)} has no effect with --method {args.method}")


def _check_begun(args: argparse.Namespace) -> None:
    if has_snapshots(args.snapshot_dir):
        return
    raise UserError(
        "--method mada needs --restore-from: it starts from a warmed-up network, one that was adapted "
        f"without target labels: the published {WARM_UP_FILE}, or a run of train_ms.py (or train_source.py) "
        f"with --network {args.network}",
        everywhere=True,
    )


def _check_method(args: argparse.Namespace) -> None:
    if args.source_free:
        raise UserError(
            "--source-free: --method mada trains on source images beside the bought ones; leave it out, or "
            "use --method ripu",
            everywhere=True,
        )
    if args.annotations_from is not None:
        raise UserError(
            f"--annotations-from {args.annotations_from} is about pixels; with --method mada give "
            "--image-list or --labelled-list, the names of the images that were labelled",
            everywhere=True,
        )
    if "setting" in args.given:
        raise UserError(
            f"--setting {args.setting}: --method mada buys whole images, neither regions nor pixels; leave "
            "it out, or use --method ripu",
            everywhere=True,
        )


def _check_training(args: argparse.Namespace) -> None:
    if args.crop_size is None:
        raise UserError(
            "--crop-size none: the images of --method mada come in many sizes and are cropped to one; give a "
            "size such as 896,512",
            everywhere=True,
        )
    if args.scale_range is None:
        raise UserError(
            "--scale-range none: --method mada scales images to --scaled-width times a factor; give 1,1 for "
            "that width",
            everywhere=True,
        )


def _check_phases(args: argparse.Namespace) -> None:
    if args.start_at == "source-anchors":
        return
    if PHASES.index(args.stop_after) < PHASES.index(args.start_at):
        raise UserError(
            f"--stop-after {args.stop_after} comes before --start-at {args.start_at}; stop after "
            f"{args.start_at} or stage-2",
            everywhere=True,
        )
    if args.image_list is None and args.stop_after != "target-anchors":
        raise UserError(
            f"--start-at {args.start_at} needs --image-list: the images that stage 1 was trained on, "
            f"{IMAGE_LISTS}",
            everywhere=True,
        )


def _check_files(args: argparse.Namespace) -> None:
    if args.image_list is not None and args.labelled_list is not None:
        raise UserError(
            f"--image-list {args.image_list} contradicts --labelled-list {args.labelled_list}: the first "
            "names all images to ask about, beside those of the second --budget buys others; give one",
            everywhere=True,
        )
    if args.source_anchors is not None and args.source_vectors is not None:
        raise UserError(
            f"--source-anchors {args.source_anchors} contradicts --source-vectors {args.source_vectors}: the "
            "second would be clustered to what the first gives; keep one",
            everywhere=True,
        )


def _warn_about_unused(args: argparse.Namespace) -> None:
    for name in _OF_OTHER_METHODS:
        if name in args.given and getattr(args, name):
            warn(f"{_flag(name)} has no effect with --method mada")
    if args.image_list is not None:
        unused, why = ("budget", "score"), "--image-list says which images are asked about"
        _warn_if_given(args, unused, why)
    _warn_about_source_anchors(args)
    if args.accumulation > 1 and args.stage_steps[1] and args.lambda_alignment > 0:
        warn(
            f"--accumulation {args.accumulation}: soft alignment sees one micro-batch at a time, "
            "and an anchor moves after each"
        )
    if args.lambda_alignment == 0:
        unused = ("target_anchors", "anchor_momentum", "batch_rule")
        _warn_if_given(args, unused, "--lambda-alignment is 0, nothing is aligned")
    if args.target_anchors is not None and args.start_at == "source-anchors" and args.num_steps_stop == 0:
        warn(f"--target-anchors has no effect: the run ends with --stop-after {args.stop_after}")


def _warn_about_source_anchors(args: argparse.Namespace) -> None:
    """Where no image is selected by its distance to them, nothing is described and clustered either."""
    reason = None
    if args.start_at == "target-anchors":
        reason = "--start-at target-anchors comes after them"
    elif args.image_list is not None:
        reason = "--image-list says which images are asked about"
    elif args.score != "published":
        reason = f"--score {args.score} needs no anchors"
    if reason is not None:
        _warn_if_given(args, ("source_anchors", "source_vectors", "allow_absent_classes"), reason)
    elif args.source_anchors is not None:
        _warn_if_given(args, ("allow_absent_classes",), "--source-anchors are given, nothing is clustered")


def _warn_if_given(args: argparse.Namespace, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if name in args.given:
            warn(f"{_flag(name)} has no effect: {reason}")


def _said(args: argparse.Namespace, name: str) -> str:
    """The option as it was given."""
    value = getattr(args, name)
    return f"{_flag(name)} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
