"""Options of every run: run folder, processes, precision."""

from __future__ import annotations

import argparse

from utils.arguments import values
from utils.arguments.parser import Parser


def add_run_arguments(parser: Parser) -> None:
    """Where the run writes, how often, and how it starts."""
    add = parser.add_argument_group("run").add_argument
    add(
        "--snapshot-dir",
        type=values.folder,
        metavar="DIR",
        help="run folder: snapshots, logs, pictures (default: runs/<recipe or script>-seed<N>)",
    )
    add(
        "--resume",
        choices=("auto", "never"),
        default="auto",
        help="auto: continue from the last snapshot in the run folder; never: refuse a used folder",
    )
    add(
        "--seed",
        type=values.non_negative_int,
        default=0,
        metavar="N",
        help="seed of weights, sample order and augmentation, the same on every process",
    )
    add(
        "--quirks",
        choices=("published", "fixed"),
        default="published",
        help="keep or repair the originals' accidental behaviours listed in docs/quirks.md",
    )
    add(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="deterministic kernels only; slower on a GPU",
    )
    add(
        "--save-pred-every",
        "--save-every",
        type=values.positive_int,
        default=5000,
        metavar="N",
        help="iterations between snapshots",
    )
    add(
        "--keep-snapshots",
        type=values.positive_int,
        default=5,
        metavar="N",
        help="snapshots kept besides `best`; older ones are deleted",
    )
    add("--log-every", type=values.positive_int, default=50, metavar="N", help="iterations between log lines")
    add(
        "--evaluate-every",
        type=values.non_negative_int,
        default=0,
        metavar="N",
        help="iterations between evaluations on labelled target images; 0: only at the end",
    )
    add(
        "--pictures-every",
        type=values.non_negative_int,
        default=0,
        metavar="N",
        help="iterations between pictures of predictions; 0: none",
    )
    add(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write tensorboard event files beside metrics.jsonl",
    )
    parser.add_original(
        "--random-seed",
        "read as --seed {value} (the original ignored it)",
        lambda value: ("seed", value),
        type=values.non_negative_int,
    )
    parser.add_original("--log-dir", "no effect: logs are in the run folder, --snapshot-dir")
    parser.add_original("--save-num-images", "no effect here or in the original; see --pictures-every")
    parser.add_original("--is-training", "no effect here or in the original", action="store_true")
    parser.add_original("--not-restore-last", "no effect here or in the original", action="store_true")


def add_distributed_arguments(parser: Parser) -> None:
    """Devices and processes; the number of processes is torchrun's."""
    add = parser.add_argument_group("devices and processes").add_argument
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: one GPU per process if there is one; an unusable GPU is an error",
    )
    add(
        "--timeout-seconds",
        type=values.positive_float,
        default=1800.0,
        metavar="S",
        help="how long a process waits for the others before the run stops, naming the late one",
    )
    parser.add_original("--gpu-ids", "no effect: one process uses one GPU, the first visible one")
    parser.add_original("--cpu", "read as --device cpu", lambda value: ("device", "cpu"), action="store_true")


def add_batch_norm_arguments(parser: Parser) -> None:
    """How BatchNorm layers of the backbone normalise while training."""
    add = parser.add_argument_group("batch normalisation").add_argument
    add(
        "--batch-norm",
        choices=("local", "sync", "frozen"),
        default="local",
        help="statistics of each process's batch, of all processes together, or the stored ones",
    )
    parser.add_original(
        "--sync-bn", "read as --batch-norm sync", lambda value: ("batch_norm", "sync"), action="store_true"
    )


def add_precision_arguments(parser: Parser) -> None:
    """Number formats and optional speed; all off where they would change published numbers."""
    add = parser.add_argument_group("precision and speed").add_argument
    add(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="fp32",
        help="autocast type of the networks; weights, losses and statistics stay fp32; "
        "auto: bf16 on a GPU that has it",
    )
    add(
        "--tf32",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="TensorFloat-32 products in fp32 layers on a GPU; never in selection scores",
    )
    add("--channels-last", action=argparse.BooleanOptionalAction, default=False, help="NHWC memory layout")
    add(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="torch.compile the segmentation network",
    )
    add(
        "--activation-checkpointing",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="recompute the backbone's activations in the backward pass: less memory, slower",
    )
    add(
        "--fused-optimizer",
        choices=("torch", "apex", "off"),
        default="torch",
        help="optimizer kernels; off: the plain loop over tensors",
    )
    add(
        "--group-norm-kernel",
        choices=("torch", "apex"),
        default="torch",
        help="GroupNorm of the heads; apex: NVIDIA apex's NHWC kernel on a GPU",
    )
    parser.add_original(
        "--fp16", "read as --precision fp16", lambda value: ("precision", "fp16"), action="store_true"
    )
