"""Combinations of options: contradictions are errors, options without effect are warnings."""

from __future__ import annotations

import argparse
import hashlib
import json
from typing import Any

from utils.arguments.active_checks import check_active
from utils.arguments.anchored_checks import fill_in_anchored, is_anchored, settings_of_others, settle_steps
from utils.arguments.commands import fits_machines, torchrun_command, with_option
from utils.arguments.parser import warn
from utils.arguments.self_training_checks import check_self_training
from utils.distributed import World
from utils.errors import UserError

BOOKKEEPING = frozenset({"argv", "script", "command_line", "recipe", "given", "published_batch"})

# May differ when a run folder is continued: where data lies, how it is read, what is measured and reported.
# Lists and pseudo labels are compared by their content instead (`trainers.run_state.check_contents`).
FREE_TO_CHANGE = frozenset(
    {
        "data_root", "source_root", "target_root", "evaluation_root", "num_workers", "strict",
        "skip_bad_images",
        "source_list", "target_list", "pseudo_label_dir", "threshold",
        "evaluation_list", "evaluation_split", "protocol",
        "snapshot_dir", "resume", "save_pred_every", "keep_snapshots", "log_every", "evaluate_every",
        "pictures_every", "tensorboard", "device", "timeout_seconds",
        "label_info", "accept_partial", "labels_from", "seconds_per_decision", "query_pictures",
        "class_statistics", "stop_after", "allow_absent_classes", "published_vectors",
    }
)  # fmt: skip

# May differ too once the folder has a snapshot, which then fills the network in their place; anchors and
# lists of images are compared by content where they are still to be used.
USED_AT_START = frozenset(
    {
        "restore_from", "restore_weights", "backbone_weights", "annotations_from", "instance_bank",
        "source_anchors", "source_vectors", "image_list", "labelled_list", "target_anchors",
    }
)  # fmt: skip

# The architectures' own, so that a run folder says what it is; one without the option takes no notice.
_OUTPUT_STRIDES = {"mada_v3plus": 16}


def check_arguments(args: argparse.Namespace) -> None:
    """Checks the combinations of whatever options `args` has; `args.given` tells what the user asked for.

    Raises:
        UserError: two options contradict each other.
    """
    if is_anchored(args):
        fill_in_anchored(args)
    if hasattr(args, "output_stride") and args.output_stride is None:
        args.output_stride = _OUTPUT_STRIDES.get(args.network, 8)
    _check_steps(args)
    if hasattr(args, "pseudo_threshold"):
        check_self_training(args)
    _check_start(args)
    _check_optimizer(args)
    _check_class_balance(args)
    _check_pixels(args)
    _check_target_terms(args)
    _check_networks(args)
    _check_source_order(args)
    if hasattr(args, "select_iterations"):
        check_active(args)


def free_to_change(args: argparse.Namespace) -> frozenset[str]:
    """The options that may differ when the run folder of these arguments is continued.

    What is measured steers the training where DWACA takes its class weights from the evaluation, and where
    MADA's second stage starts from the best weights of the first.
    """
    measured = {"protocol", "evaluation_list", "evaluation_split"}
    if getattr(args, "class_weights_from", "none") == "validation":
        return FREE_TO_CHANGE - measured
    if is_anchored(args) and args.stage_2_from == "best":
        return FREE_TO_CHANGE - measured - {"evaluate_every"}
    return FREE_TO_CHANGE


def settings_digest(args: argparse.Namespace) -> str:
    """16 hexadecimal digits of all settings that may not change while a run goes on; who answers its queries
    does not count."""
    loose = free_to_change(args) | USED_AT_START | {"num_steps_stop", "oracle"}
    fixed = {name: value for name, value in as_settings(args).items() if name not in loose}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def as_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The resolved options as plain values for `arguments.json`, without the bookkeeping of `parse`."""
    left_out = BOOKKEEPING | settings_of_others(args)
    settings = {name: _plain(value) for name, value in sorted(vars(args).items()) if name not in left_out}
    return {"script": args.script.rpartition("/")[2], **settings}


def batch_line(args: argparse.Namespace, world: World) -> str:
    """How the global batch is made up, e.g. `global batch 8 = 4 processes x 2 x 1 (published: 2)`.

    The factors are processes, images per process and micro-batch, micro-batches per optimizer step.
    """
    share = args.batch_size // (world.size * args.accumulation)
    processes = "process" if world.size == 1 else "processes"
    published = "" if args.published_batch is None else f" (published: {args.published_batch})"
    factors = f"{world.size} {processes} x {share} x {args.accumulation}"
    return f"global batch {args.batch_size} = {factors}{published}"


def check_batch(args: argparse.Namespace, world_size: int) -> None:
    """Stops when --batch-size cannot be split evenly over the processes and --accumulation.

    Raises:
        UserError: with two commands to paste, the same training on fewer processes and the scaled one on all.
    """
    if args.batch_size % (world_size * args.accumulation) == 0:
        return
    raise UserError(
        f"--batch-size {args.batch_size} counts the images of all processes and does not divide by "
        f"{world_size} processes x --accumulation {args.accumulation}.\nThe same training, fewer processes:\n"
        f"  {_exact_command(args, world_size)}\n"
        f"Larger batches with the learning rate scaled alike, on all processes (not the published setting):\n"
        f"  {_scaled_command(args, world_size)}",
        everywhere=True,
    )


def check_num_classes(args: argparse.Namespace, num_classes: int) -> None:
    """Compares the original's --num-classes with the classes of the data.

    Raises:
        UserError: they differ.
    """
    if args.num_classes is not None and args.num_classes != num_classes:
        raise UserError(
            f"--num-classes {args.num_classes}, but {num_classes} classes are in use; choose them by "
            "--classes or leave --num-classes out",
            everywhere=True,
        )


def _exact_command(args: argparse.Namespace, world_size: int) -> str:
    """The command with the largest process count that divides the batch; accumulation stays if it can."""
    argv = args.argv
    accumulation = max(n for n in range(1, args.accumulation + 1) if args.batch_size % n == 0)
    if accumulation != args.accumulation:
        argv = with_option(argv, "--accumulation", accumulation)
    processes = max(
        n
        for n in range(1, world_size + 1)
        if args.batch_size % (n * accumulation) == 0 and (n == 1 or fits_machines(n))
    )
    return torchrun_command(args.script, argv, processes)


def _scaled_command(args: argparse.Namespace, world_size: int) -> str:
    """The command with the batch rounded up and the learning rates scaled with it (linear scaling rule)."""
    unit = world_size * args.accumulation
    batch_size = -(-args.batch_size // unit) * unit
    argv = with_option(args.argv, "--batch-size", batch_size)
    for option in ("--learning-rate", "--learning-rate-D"):
        rate = getattr(args, option[2:].replace("-", "_"), None)
        if rate is not None and not (option == "--learning-rate-D" and _discriminators_rest(args)):
            argv = with_option(argv, option, f"{rate * batch_size / args.batch_size:.6g}")
    return torchrun_command(args.script, argv, world_size)


def _check_start(args: argparse.Namespace) -> None:
    compared = getattr(args, "feature_distance_weight", 0) != 0  # with the backbone weights' features
    if _given(args, "restore_from") and _given(args, "backbone_weights") and not compared:
        warn("--backbone-weights has no effect: --restore-from fills the whole network")
    if hasattr(args, "backbone_weights") and args.backbone_weights is None and args.restore_from is None:
        raise UserError(
            "nothing says what the network starts from: give --backbone-weights PATH, torchvision or none "
            "(random weights), or --restore-from a snapshot",
            everywhere=True,
        )


def _check_steps(args: argparse.Namespace) -> None:
    if not hasattr(args, "num_steps_stop"):
        return
    if is_anchored(args):
        settle_steps(args)
        return
    if args.num_steps_stop is None:
        args.num_steps_stop = args.num_steps
    if args.num_steps_stop > args.num_steps:
        raise UserError(
            f"--num-steps-stop {args.num_steps_stop} is after --num-steps {args.num_steps}, where the "
            "learning rate reaches 0; raise --num-steps or stop earlier",
            everywhere=True,
        )
    if args.warm_up >= args.num_steps:
        raise UserError(
            f"--warm-up {args.warm_up} does not end before --num-steps {args.num_steps}; shorten the warm-up",
            everywhere=True,
        )
    if args.warm_up >= args.num_steps_stop:
        warn(f"--warm-up {args.warm_up} does not end before --num-steps-stop {args.num_steps_stop}")


def _check_optimizer(args: argparse.Namespace) -> None:
    _check_warm_up(args)
    online = hasattr(args, "instance_bank")  # has quirks of its own
    if getattr(args, "optimizer", "sgd") == "sgd-plain" and _given(args, "quirks") and not online:
        warn("--quirks has no effect with --optimizer sgd-plain: docs/quirks.md lists MRNet's")
    if getattr(args, "optimizer", "sgd") != "adamw":
        return
    if _given(args, "momentum"):
        warn("--momentum has no effect with --optimizer adamw")
    if _given(args, "quirks") and args.quirks == "published" and not online:
        warn("--optimizer adamw steps every parameter once: the published repeated steps are sgd's")


def _check_warm_up(args: argparse.Namespace) -> None:
    if getattr(args, "warm_up_schedule", "decaying") == "decaying":
        return
    if _given(args, "warm_up_ratio"):
        warn("--warm-up-ratio has no effect with --warm-up-schedule flat")


def _check_source_order(args: argparse.Namespace) -> None:
    if _given(args, "label_info") and args.source_order == "shuffled":
        warn("--label-info has no effect without --source-order class-balanced")


def _check_class_balance(args: argparse.Namespace) -> None:
    if getattr(args, "class_balance", True):
        return
    for name in ("often_balance", "max_value"):
        if _given(args, name) and getattr(args, name):
            warn(f"--{name.replace('_', '-')} has no effect without --class-balance")


def _check_pixels(args: argparse.Namespace) -> None:
    rectified = getattr(args, "pseudo_label_loss", "plain") == "rectified"
    if rectified and _given(args, "only_hard_label") and args.only_hard_label > 0:
        warn("--only-hard-label has no effect with --pseudo-label-loss rectified, which weighs every pixel")


def _check_target_terms(args: argparse.Namespace) -> None:
    if not hasattr(args, "lambda_adv_target1"):
        return
    if (args.lambda_adv_target1 > 0) != (args.lambda_adv_target2 > 0):
        warn(
            f"--lambda-adv-target1 {args.lambda_adv_target1:g} with --lambda-adv-target2 "
            f"{args.lambda_adv_target2:g}: the discriminators of two heads are trained only when both are "
            "above 0"
        )
    elif _discriminators_rest(args) and _given(args, "learning_rate_D"):
        warn("--learning-rate-D has no effect: --lambda-adv-target1 and 2 are 0, no discriminator is trained")
    gated = args.lambda_me_target > 0 or args.lambda_kl_target > 0
    if not gated and _given(args, "target_terms_start"):
        warn("--target-terms-start has no effect: --lambda-me-target and --lambda-kl-target are 0")
    stop = getattr(args, "num_steps_stop", None)
    if gated and stop is not None and args.target_terms_start >= stop:
        warn(
            f"memory regularisation would start at iteration {args.target_terms_start} but the run stops at "
            f"{stop}; give a smaller --target-terms-start to have it"
        )


def _check_networks(args: argparse.Namespace) -> None:
    if getattr(args, "group_norm_kernel", "torch") == "apex" and getattr(args, "norm_style", "gn") != "gn":
        warn(f"--group-norm-kernel apex has no effect with --norm-style {args.norm_style or 'bn'}")
    if getattr(args, "device", "auto") == "cpu" and getattr(args, "tf32", False):
        warn("--tf32 has no effect on --device cpu")


def _discriminators_rest(args: argparse.Namespace) -> bool:
    return getattr(args, "lambda_adv_target1", 0) == 0 and getattr(args, "lambda_adv_target2", 0) == 0


def _given(args: argparse.Namespace, name: str) -> bool:
    return hasattr(args, name) and name in args.given


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(entry) for entry in value]
    return str(value)
