"""Options of the scripts that run a trained network, and the network they describe."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from networks.loading import LoadedNetwork, load_network
from networks.mit import MIT_VARIANTS, check_size
from networks.segmentation import SegmentationNetwork
from trainers.protocols import PROTOCOLS, Protocol, choose_protocol
from utils import snapshots
from utils.arguments import Parser, size_wh
from utils.distributed import World
from utils.precision import Precision, configure_backends, resolve_precision


def add_inference_arguments(parser: Parser) -> None:
    """Which weights of a snapshot, under which protocol, in which precision."""
    add = parser.add_argument_group("inference").add_argument
    add(
        "--protocol",
        choices=tuple(PROTOCOLS),
        metavar="NAME",
        help=f"sizes, flip and output size: {', '.join(PROTOCOLS)} "
        "(default: what the snapshot or published file asks for, else the target's, else mrnet)",
    )
    add(
        "--base-size",
        type=size_wh,
        metavar="W,H",
        help="width,height in pixels that scale 1 of the protocol stands for (default: the protocol's, else "
        "the target input size of the training run, else each image's own)",
    )
    add(
        "--aug-test",
        action="store_true",
        help="scales 0.5, 0.75, 1, 1.25, 1.5 and 1.75, each also mirrored, mean of the probabilities; "
        "takes the place of the scales and flip of any protocol",
    )
    add(
        "--window",
        type=size_wh,
        metavar="W,H",
        help="width,height in pixels of the pieces of an input that the network sees one at a time, their "
        "logits averaged where they overlap (default: the protocol's, else the whole input at once)",
    )
    add(
        "--stride",
        type=size_wh,
        metavar="W,H",
        help="pixels from one window to the next, across and down (default: two thirds of --window)",
    )
    add(
        "--weights",
        choices=("student", "teacher"),
        default="student",
        help="which network of a snapshot, or of a published checkpoint that holds both",
    )
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="autocast type")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot file, its network on the CPU, and the protocol chosen for it."""

    given: Path
    file: Path
    loaded: LoadedNetwork
    protocol: Protocol

    @property
    def network(self) -> SegmentationNetwork:
        """The network itself."""
        return self.loaded.network


def open_snapshot(
    path: Path, args: argparse.Namespace, *, target: str | None, class_space: str | None = None
) -> Snapshot:
    """Reads the network of a run folder, snapshot or published checkpoint as the options say.

    Args:
        target: name of the data set it will see.
        class_space: what its outputs must mean; None: what the file says.

    Raises:
        UserError: as `load_network`; an unknown protocol; a stride without a window or with gaps; images or
            windows that are too small for the network.
    """
    file = snapshots.resolve(path)
    loaded = load_network(file, weights=args.weights, class_space=class_space)
    protocol = choose_protocol(
        args.protocol, evaluation=loaded.evaluation, target=target, base_size=args.base_size
    )
    if args.aug_test:
        protocol = protocol.with_aug_test()
    if args.window or args.stride:
        protocol = protocol.with_window(args.window, args.stride)
    if loaded.spec.backbone in MIT_VARIANTS:
        _check_sizes(protocol, args)
    return Snapshot(path, file, loaded, protocol)


def _check_sizes(protocol: Protocol, args: argparse.Namespace) -> None:
    """What a Mix Transformer will see, as far as it is known before there is an image."""
    if protocol.window is not None:
        check_size(protocol.window, f"--window {_text(protocol.window)}", "one")
    if protocol.base_size is None:
        return
    smallest = min(protocol.input_sizes(protocol.base_size), key=min)
    base = "--base-size" if args.base_size else f"the base size of protocol {protocol.name},"
    scaled = f"{base} {_text(protocol.base_size)}"
    if smallest != protocol.base_size:
        scaled += f" at the smallest scale{' of --aug-test' if args.aug_test else ''}, {_text(smallest)},"
    check_size(smallest, scaled, "--base-size")


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]},{size[1]}"


def prepare_device(args: argparse.Namespace, world: World) -> Precision:
    """Sets torch's backends for inference at changing sizes and resolves --precision."""
    configure_backends(device=world.device, tf32=False, deterministic=False, cudnn_benchmark=False)
    return resolve_precision(args.precision, world.device)
