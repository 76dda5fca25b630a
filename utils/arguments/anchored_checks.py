"""The steps of MADA's stages, what its runs describe, and combinations of its options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from utils.arguments.anchored_defaults import PUBLISHED
from utils.arguments.parser import typed_options, warn
from utils.errors import UserError
from utils.phases import reaches
from utils.snapshots import has_snapshots

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
    "class_weights_from", "class_weight_images", "dropout_schedule", "dropout_period",
    "crop_attempts", "crop_min_classes", "autoaug", "autoaug_target",
    "warm_up", "warm_up_schedule", "warm_up_ratio",
)  # fmt: skip
# Said in vain with another method: those that name what a run starts from or does are errors, not warnings.
_STEERING = (
    "start_at", "stop_after", "source_anchors", "source_vectors", "image_list", "labelled_list",
    "target_anchors", "stage_steps", "labels_from",
)  # fmt: skip
_OWN = (
    "published_vectors", "num_anchors", "allow_absent_classes", "lambda_alignment", "lambda_pseudo",
    "anchor_momentum", "batch_rule", "stage_2_from", "input_size_active", "scaled_width",
)  # fmt: skip


_ANCHOR_FILES = ("source_anchors", "source_vectors", "target_anchors")
# Idle where the run ends before that stage, yet settings of the run that goes on from there.
_OF_STAGE_2 = ("lambda_alignment", "lambda_pseudo", "target_anchors", "anchor_momentum", "batch_rule")


def is_anchored(args: argparse.Namespace) -> bool:
    """Whether these are the options of a run of MADA."""
    return hasattr(args, "stage_steps") and args.method == "mada"


def settings_of_others(args: argparse.Namespace) -> frozenset[str]:
    """MADA's options where another method runs: no settings of that run, which began before they were added
    or will go on after there are more."""
    return frozenset() if is_anchored(args) else frozenset((*_STEERING, *_OWN))


def needs_source_anchors(args: argparse.Namespace) -> bool:
    """Whether images are chosen by the source's anchors, or the run is for them alone."""
    if args.start_at != "source-anchors":
        return False
    chosen_by_them = args.image_list is None and args.score == "published"
    return chosen_by_them or args.stop_after == "source-anchors"


def describes_source(args: argparse.Namespace) -> bool:
    """Whether the source's images are what its anchors are made of."""
    given = args.source_anchors is not None or args.source_vectors is not None
    return needs_source_anchors(args) and not given


def describes_target(args: argparse.Namespace) -> bool:
    """Whether the target's images are what its anchors are made of, before the run ends."""
    aligned = reaches(args.stop_after, "stage-2") and args.lambda_alignment > 0
    return args.target_anchors is None and (aligned or args.stop_after == "target-anchors")


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
    ends = {"stage-1": first, "stage-2": whole}
    steps = max((end for stage, end in ends.items() if reaches(args.stop_after, stage)), default=0)
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
    if not reaches(args.stop_after, args.start_at):
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
        reason = "--image-list says which images are asked about"
        _warn_about_idle(args, ("budget", "score"), reason, because=("image_list",))
    _warn_about_source_anchors(args)
    _warn_about_stage_2(args)
    _warn_about_clustering(args)
    if args.accumulation > 1 and args.stage_steps[1] and args.lambda_alignment > 0:
        warn(
            f"--accumulation {args.accumulation}: soft alignment sees one micro-batch at a time, "
            "and an anchor moves after each"
        )


def _warn_about_source_anchors(args: argparse.Namespace) -> None:
    """Where no image is selected by its distance to them, nothing is described and clustered either."""
    unused: tuple[str, ...] = ("source_anchors", "source_vectors", "allow_absent_classes")
    if needs_source_anchors(args):
        if args.source_anchors is None:
            return
        unused = ("allow_absent_classes",)
        because, reason = "source_anchors", "--source-anchors are given, nothing is clustered"
    elif args.start_at == "target-anchors":
        because, reason = "start_at", "--start-at target-anchors comes after them"
    elif args.image_list is not None:
        because, reason = "image_list", "--image-list says which images are asked about"
    else:
        because, reason = "score", f"--score {args.score} needs no anchors"
    _warn_about_idle(args, unused, reason, because=(because,))


def _warn_about_stage_2(args: argparse.Namespace) -> None:
    ended = f"the run ends with --stop-after {args.stop_after}; keep it for when the run goes on"
    if args.lambda_alignment == 0:
        unused = ("target_anchors", "anchor_momentum", "batch_rule")
        reason = "--lambda-alignment is 0, nothing is aligned"
        _warn_about_idle(args, unused, reason, because=("lambda_alignment",))
    elif not reaches(args.stop_after, "stage-2"):
        _warn_about_idle(args, _OF_STAGE_2, ended, because=("stop_after",))
    if args.start_at == "target-anchors":
        reason = "--start-at target-anchors begins with the weights of --restore-from"
        _warn_about_idle(args, ("stage_2_from",), reason, because=("start_at",))
    elif not reaches(args.stop_after, "stage-1"):  # where `stage1` points to is decided at the end of that
        _warn_about_idle(args, ("stage_2_from",), ended, because=("stop_after",))


def _warn_about_clustering(args: argparse.Namespace) -> None:
    aligned = args.lambda_alignment > 0 or args.stop_after == "target-anchors"
    because = ("score", "image_list", "start_at", "stop_after", "lambda_alignment", *_ANCHOR_FILES)
    if not aligned and not needs_source_anchors(args):
        _warn_about_idle(args, ("num_anchors",), "the run has no anchors", because=because)
    if not describes_source(args) and not describes_target(args):
        reason = "no images are described for anchors"
        _warn_about_idle(args, ("published_vectors",), reason, because=because)


def _warn_about_idle(
    args: argparse.Namespace, names: Sequence[str], reason: str, *, because: Sequence[str]
) -> None:
    """Warns about options without effect, but not about those of a recipe where one that was typed after it
    (of `because`) is what makes them idle."""
    typed = typed_options(args.argv)
    overruled = any(_flag(name) in typed for name in because)
    for name in names:
        is_meant = name in args.given and getattr(args, name) is not False
        if is_meant and (_flag(name) in typed or not overruled):
            warn(f"{_flag(name)} has no effect: {reason}")


def _said(args: argparse.Namespace, name: str) -> str:
    """The option as it was given."""
    value = getattr(args, name)
    return f"{_flag(name)} {','.join(map(str, value)) if isinstance(value, tuple) else value}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
