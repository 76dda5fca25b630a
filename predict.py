"""Label any images with a snapshot: label maps, colours, overlays, or the ids a benchmark server wants.

A folder:          python predict.py photos --restore-from runs/ft --output-dir predictions
Some images:       python predict.py a.jpg b.png --restore-from runs/ft --output-dir predictions
For a server:      python predict.py data/cityscapes/leftImg8bit/test --restore-from runs/ft \\
                       --output-dir submission --write labels color --server-ids cityscapes --folder-per-kind
Several GPUs:      torchrun --standalone --nproc-per-node 4 predict.py photos ...

Outputs keep the images' relative paths: <name>.png (8-bit train ids, or the palette PNG of --server-ids),
<name>_color.png (palette PNG of train ids), <name>_overlay.png, <name>_confidence.png. With --folder-per-kind
they are labels/<name>.png, color/<name>.png and so on. Existing outputs are replaced, input images never.

Photographs of any shape keep it: unless --protocol or --base-size is given, an image is scaled to as many
pixels as the base size has, at its own proportions. With either option it is resized to exactly that size.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from data_loaders.decoding import map_label, read_image, write_label_png
from data_loaders.description import load_description
from trainers.inference import ImageProgress, Prediction, Predictor, PreparedImage, evaluation_mode, prefetch
from trainers.inference_arguments import Snapshot, add_inference_arguments, open_snapshot, prepare_device
from utils import distributed, logs
from utils.arguments import (
    add_distributed_arguments,
    existing_path,
    folder,
    make_parser,
    non_negative_int,
    parse,
    warn,
)
from utils.class_spaces import TABLE_SIZE, ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError, alike_everywhere, entry_point
from utils.pictures import colorize, overlay, write_png
from utils.precision import Precision

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
KINDS = ("labels", "color", "overlay", "confidence")


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """An input image, and the relative path, without suffix, of its outputs in a folder."""

    image: Path
    folder: Path
    name: Path
    by_kind: bool = False

    def path(self, kind: str) -> Path:
        """Where the output of this kind goes: into a folder of its own, or beside the others."""
        suffix = "" if kind == "labels" or self.by_kind else f"_{kind}"
        folder = self.folder / kind if self.by_kind else self.folder
        return folder / self.name.with_name(f"{self.name.name}{suffix}.png")


@dataclasses.dataclass(frozen=True, slots=True)
class ServerIds:
    """`table`: (256,) uint8, train id to raw id; `palette`: (256, 3) uint8 RGB, the colour of each raw id."""

    table: np.ndarray
    palette: np.ndarray


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of this script."""
    parser = make_parser(__doc__ or "", prog="predict.py")
    parser.add_argument(
        "images", nargs="+", type=existing_path, metavar="IMAGE|DIR", help="images, or folders searched below"
    )
    add = parser.add_argument_group("input and output").add_argument
    add(
        "--restore-from",
        type=existing_path,
        required=True,
        metavar="PATH",
        help="run folder (its last) or file",
    )
    add("--output-dir", type=folder, required=True, metavar="DIR", help="folder to write")
    add(
        "--write",
        nargs="+",
        choices=KINDS,
        metavar="KIND",
        help=f"{', '.join(KINDS)} (default: labels color)",
    )
    add(
        "--server-ids",
        metavar="NAME|TOML",
        help="label maps are palette PNGs of the raw ids of this data set, as its benchmark server wants, "
        "not of train ids",
    )
    add(
        "--folder-per-kind",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="each KIND has a folder in --output-dir, and all files have their images' paths and names there",
    )
    add(
        "--num-workers",
        type=non_negative_int,
        default=2,
        metavar="N",
        help="threads that read and write images",
    )
    add_inference_arguments(parser)
    add_distributed_arguments(parser)
    args = parse(parser, argv)
    args.write = args.write or ["labels", "color"]
    if args.server_ids and "labels" not in args.write:
        warn(f"--server-ids has no effect: --write {' '.join(args.write)} writes no labels")
    return args


@entry_point
def main(argv: Sequence[str] | None = None) -> int:
    """Labels this rank's part of the images."""
    args = parse_args(argv)
    with alike_everywhere():
        pictures = find_pictures(args.images, args.output_dir, by_kind=args.folder_per_kind)
        _refuse_overwriting(pictures, args.write)
    with distributed.session(args.device, timeout_s=args.timeout_seconds) as world:
        logs.configure(world.rank, None)
        cv2.setNumThreads(0)
        with alike_everywhere():
            snapshot = open_snapshot(args.restore_from, args, target=None)
            space = class_space(snapshot.loaded.spec.class_space)
            server = server_ids(args.server_ids, space) if args.server_ids else None
            precision = prepare_device(args, world)
        _predict(pictures, snapshot, args, world, precision, server)
        distributed.barrier("the last image")
        if world.is_main:
            shape = ", at each image's own proportions" if _keeps_aspect(args) else ""
            protocol = f"{snapshot.protocol.describe()}{shape}"
            print(f"{len(pictures)} images labelled into {args.output_dir}, protocol {protocol}")
    return 0


def find_pictures(inputs: Sequence[Path], output: Path, *, by_kind: bool = False) -> list[Picture]:
    """All images named or below the folders named, with outputs at the same relative paths.

    Args:
        inputs: images and folders.
        output: folder of the outputs.
        by_kind: as `Picture`.

    Raises:
        UserError: no image, or two images that would share an output.
    """
    found: dict[Path, Path] = {}
    for given in inputs:
        root = given if given.is_dir() else given.parent
        for image in _images_below(given, output) if given.is_dir() else [given]:
            name = image.relative_to(root).with_suffix("")
            if found.setdefault(name, image) != image:
                raise UserError(
                    f"{found[name]} and {image} would both become {output / name}.png; label them apart"
                )
    if not found:
        raise UserError(f"no image ({', '.join(sorted(IMAGE_SUFFIXES))}) in {', '.join(map(str, inputs))}")
    return [Picture(image, output, name, by_kind) for name, image in found.items()]


def _images_below(root: Path, output: Path) -> Iterator[Path]:
    """Image files below a folder, without those of an output folder inside it (an earlier run's)."""
    skipped = output.resolve()
    for path in sorted(root.rglob("*")):
        inside = skipped != root.resolve() and skipped in path.resolve().parents
        if path.suffix.lower() in IMAGE_SUFFIXES and not inside and path.is_file():
            yield path


def server_ids(name: str, space: ClassSpace) -> ServerIds:
    """How label maps of `space` become those of a data set; 255 becomes 0.

    Raises:
        UserError: a class has no raw id, or several.
    """
    to_train = load_description(name).label_table(space.name)
    table = np.zeros(TABLE_SIZE, np.uint8)
    palette = np.zeros((TABLE_SIZE, 3), np.uint8)
    for index, (class_name, color) in enumerate(zip(space.class_names, space.palette, strict=True)):
        raw = np.flatnonzero(to_train == index)
        if len(raw) != 1:
            raise UserError(
                f"--server-ids {name}: class {class_name} of {space.name} has {len(raw)} raw ids there; one "
                "is needed"
            )
        table[index] = raw[0]
        palette[raw[0]] = color
    return ServerIds(table, palette)


def _refuse_overwriting(pictures: Sequence[Picture], kinds: Sequence[str]) -> None:
    images = {picture.image.resolve() for picture in pictures}
    for picture in pictures:
        for kind in kinds:
            if picture.path(kind).resolve() in images:
                raise UserError(f"{picture.path(kind)} is an input image; choose another --output-dir")


def _predict(
    pictures: Sequence[Picture],
    snapshot: Snapshot,
    args: argparse.Namespace,
    world: World,
    precision: Precision,
    server: ServerIds | None,
) -> None:
    network = snapshot.network.to(world.device)
    space = class_space(network.spec.class_space)
    protocol = dataclasses.replace(snapshot.protocol, output_size=None)  # whatever size the images have
    predictor = Predictor(
        network, protocol, device=world.device, precision=precision, keep_aspect=_keeps_aspect(args)
    )
    mine = [pictures[index] for index in distributed.shard(len(pictures))]
    progress = ImageProgress("prediction", len(mine))

    def load(picture: Picture) -> tuple[Picture, np.ndarray, PreparedImage]:
        image = read_image(picture.image)
        return picture, image, predictor.prepare(image)

    with evaluation_mode(network):
        for picture, image, prepared in prefetch(load, mine, args.num_workers):
            prediction = predictor.predict(prepared)
            _write(picture, image, prediction, args.write, snapshot.protocol.passes, space, server)
            progress.advance()


def _keeps_aspect(args: argparse.Namespace) -> bool:
    """A size that was asked for is exact; a remembered one tells how many pixels the network is used to."""
    return args.protocol is None and args.base_size is None


def _write(
    picture: Picture,
    image: np.ndarray,
    prediction: Prediction,
    kinds: Sequence[str],
    passes: int,
    space: ClassSpace,
    server: ServerIds | None,
) -> None:
    label = prediction.label.cpu().numpy()
    if "labels" in kinds:
        ids, palette = (label, None) if server is None else (map_label(label, server.table), server.palette)
        write_label_png(picture.path("labels"), ids, palette)
    if "color" in kinds:
        write_label_png(picture.path("color"), label, space.palette)
    if "overlay" in kinds:
        shown = image if image.shape[:2] == label.shape else cv2.resize(image, label.shape[::-1])
        write_png(picture.path("overlay"), overlay(shown, colorize(label, space.palette)))
    if "confidence" in kinds:
        share = (prediction.confidence / passes * 255).round().clamp(0, 255).to(torch.uint8)
        write_label_png(picture.path("confidence"), share.cpu().numpy())


if __name__ == "__main__":
    sys.exit(main())
