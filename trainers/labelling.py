"""Pseudo labels: a snapshot's label maps of unlabelled images, as files that a later run can trust."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data_loaders.dataset import pseudo_label_path
from data_loaders.decoding import read_image, read_raw_label, write_label_png
from data_loaders.discovery import FileList, Item
from networks.segmentation import SegmentationNetwork
from trainers.inference import (
    ImageProgress,
    Prediction,
    Predictor,
    PreparedImage,
    evaluation_mode,
    labelling_uncertainty,
    prefetch,
)
from trainers.label_files import label_sizes, sizes_digest
from trainers.protocols import Protocol
from utils import distributed
from utils.class_spaces import IGNORE_LABEL, ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError
from utils.files import write_atomically
from utils.folder_lock import FolderLock
from utils.pictures import heat_map, write_png
from utils.precision import Precision

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL_MANIFEST = "manifest.partial.json"
LOCK_FILE = ".lock"
FORMAT_VERSION = 1
EXTRAS = ("color", "confidence", "uncertainty")  # files beside the label map, each on request
# Where a manifest came from, not what its files are; everything else must agree to continue a folder.
DESCRIPTIVE = frozenset({"snapshot", "command_line"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """What is written for each image.

    Attributes:
        threshold: pixels whose mean probability over the passes is below it become 255; 0 labels every pixel.
        extras: some of `EXTRAS`: palette PNG, 8-bit confidence (255 = certain), map of disagreeing heads.
    """

    threshold: float = 0.0
    extras: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise UserError(
                f"--threshold {self.threshold:g} must be in [0, 1): a mean probability; 0 labels every pixel"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSource:
    """Where the labels come from: recorded in the manifest."""

    snapshot: Path
    iteration: int | None
    command_line: str = ""


def default_pseudo_label_folder(snapshot: Path, target: str, split: str, threshold: float) -> Path:
    """Where `generate_plabel.py` writes and `train_ft.py` looks: a folder per threshold, by the snapshot."""
    folder = snapshot if snapshot.is_dir() else snapshot.parent
    suffix = f"_t{float(threshold)!r}" if threshold > 0 else ""
    return folder / "pseudo_labels" / f"{target}_{split}{suffix}"


def find_pseudo_label_folder(snapshot: Path, target: str, split: str) -> Path:
    """The only folder of labels for this target and split beside the snapshot, whatever their threshold.

    Where there is none: the folder of labels without a threshold.

    Raises:
        UserError: several folders.
    """
    plain = default_pseudo_label_folder(snapshot, target, split, 0.0)
    name = re.compile(re.escape(plain.name) + r"(_t\d[\d.e-]*)?")
    found = sorted(path for path in plain.parent.glob("*") if path.is_dir() and name.fullmatch(path.name))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"{plain.parent} holds several sets of pseudo labels ({names}); choose one by --pseudo-label-dir"
        )
    return found[0] if found else plain


def output_names(name: str, extras: Iterable[str] = ()) -> dict[str, Path]:
    """Relative paths of what is written for the image `name`, by kind; "label" comes last."""
    label = pseudo_label_path(Path(), name)
    return {kind: label.with_name(f"{label.stem}_{kind}.png") for kind in sorted(extras)} | {"label": label}


def drop_below(label: Tensor, confidence: Tensor, *, threshold: float, passes: int) -> Tensor:
    """The label with 255 where the summed probability is below `passes * threshold` (strict).

    Source: the authors' released pseudo-label code (Zheng & Yang, IJCV 2021): 3.6 of 4 for SYNTHIA, else off.
    """
    return label if threshold == 0 else label.masked_fill(confidence < passes * threshold, IGNORE_LABEL)


def write_pseudo_labels(
    network: SegmentationNetwork,
    files: FileList,
    folder: Path,
    *,
    protocol: Protocol,
    options: LabelOptions,
    source: LabelSource,
    world: World,
    precision: Precision | None = None,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Labels every image of the list; every rank must call it. Killed at any time, the same call continues.

    Label maps are 8-bit PNGs of train ids at `<folder>/<image name>`; the manifest is written when all are
    there. Files are the same for any number of processes.

    Returns:
        The manifest.

    Raises:
        UserError: the folder holds labels made with other settings or files of unknown origin, or another
            process writes into it; an uncertainty map is asked of a network with one head.
    """
    if "uncertainty" in options.extras and not network.has_auxiliary_head:
        raise UserError(
            "--extras uncertainty compares two heads, but this network has one; leave it out", everywhere=True
        )
    distributed.synchronize_buffers_(network)
    settings = _settings(network, files, protocol, options, source, precision)
    lock = FolderLock(
        folder / LOCK_FILE,
        what="pseudo-label folder",
        option="--pseudo-label-dir",
        patience_s=distributed.patience_s(),
    )
    space = class_space(network.spec.class_space)
    predictor = Predictor(network, protocol, device=world.device, precision=precision)
    writer = _Writer(folder, options, space, protocol.passes)
    try:
        pending = _agree_on_pending(files, folder, settings, world, lock)
        mine = [files.items[pending[index]] for index in distributed.shard(len(pending))]
        _label(network, predictor, mine, writer, num_workers)
        distributed.barrier("the end of labelling")
        manifest = settings | _count(files, folder, space, num_workers)
        if world.is_main:
            _write_json(folder / MANIFEST, manifest)
            (folder / PARTIAL_MANIFEST).unlink(missing_ok=True)
        distributed.barrier("the manifest of the pseudo labels")
    finally:
        lock.release()
    return manifest


def _label(
    network: nn.Module, predictor: Predictor, items: Sequence[Item], writer: _Writer, num_workers: int
) -> None:
    def load(item: Item) -> tuple[Item, PreparedImage]:
        return item, predictor.prepare(read_image(item.image))

    progress = ImageProgress("pseudo labels", len(items))
    # Encoding a PNG takes about as long as a pass on a GPU: it is done by other threads, a few images behind.
    with (
        ThreadPoolExecutor(max(1, num_workers), thread_name_prefix="write") as pool,
        evaluation_mode(network),
    ):
        writing: list[Future[None]] = []
        for item, prepared in prefetch(load, items, num_workers):
            writing.append(pool.submit(writer.write, item.name, predictor.predict(prepared)))
            if len(writing) > 2 * max(1, num_workers):
                writing.pop(0).result()
            progress.advance()
        for future in writing:
            future.result()


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes the files of one image."""

    folder: Path
    options: LabelOptions
    space: ClassSpace
    passes: int

    def write(self, name: str, prediction: Prediction) -> None:
        paths = output_names(name, self.options.extras)
        label = drop_below(
            prediction.label, prediction.confidence, threshold=self.options.threshold, passes=self.passes
        )
        ids = label.cpu().numpy()
        if "color" in paths:
            write_label_png(self.folder / paths["color"], ids, self.space.palette)
        if "confidence" in paths:
            share = (prediction.confidence / self.passes * 255).round().clamp(0, 255).to(torch.uint8)
            write_label_png(self.folder / paths["confidence"], share.cpu().numpy())
        (self.folder / paths["label"]).parent.mkdir(parents=True, exist_ok=True)
        if "uncertainty" in paths:
            variance = labelling_uncertainty(prediction.passes)[0].cpu().numpy()
            write_png(self.folder / paths["uncertainty"], heat_map(variance, low=0, high=1))
        write_label_png(self.folder / paths["label"], ids)


def _settings(
    network: SegmentationNetwork,
    files: FileList,
    protocol: Protocol,
    options: LabelOptions,
    source: LabelSource,
    precision: Precision | None,
) -> dict[str, Any]:
    """What the files depend on, as plain values."""
    return {
        "format_version": FORMAT_VERSION,
        "snapshot": str(source.snapshot),
        "iteration": source.iteration,
        "weights_sha256": weights_digest(network),
        "target": files.description.name,
        "split": files.split,
        "images": len(files.items),
        "image_list": files.fingerprint(),
        "class_space": network.spec.class_space,
        "threshold": options.threshold,
        "protocol": protocol.to_dict(),
        "precision": "fp32" if precision is None else precision.name,
        "extras": sorted(options.extras),
        "command_line": source.command_line,
    }


def weights_digest(network: nn.Module) -> str:
    """SHA-256 over names and values of the state dict, whatever file or device it is in."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(raw.numpy())
    return digest.hexdigest()


def _agree_on_pending(
    files: FileList, folder: Path, settings: Mapping[str, Any], world: World, lock: FolderLock
) -> list[int]:
    """Indices of the images still to be labelled; rank 0 locks the folder, looks, and tells the others."""
    plan: tuple[list[int], str] = ([], "")
    if world.is_main:
        try:
            _check_folder(files, folder, settings)  # before a lock file is left in a folder of something else
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            plan = (_open_folder(files, folder, settings), "")
        except UserError as error:
            plan = ([], str(error))
    pending, problem = distributed.broadcast_object(plan)
    if problem:
        raise UserError(problem, everywhere=True)
    if pending and world.is_main:
        done = len(files.items) - len(pending)
        logger.info(
            "pseudo labels: %d images to label, %d already there, into %s", len(pending), done, folder
        )
    return pending


def _open_folder(files: FileList, folder: Path, settings: Mapping[str, Any]) -> list[int]:
    """Refuses a folder of other labels, leaves the partial manifest, and lists what is missing."""
    if not _check_folder(files, folder, settings):
        _write_json(folder / PARTIAL_MANIFEST, settings)
    for leftover in (*folder.rglob(".*.part"), *folder.rglob(".*.tmp")):  # of a process killed while it wrote
        leftover.unlink(missing_ok=True)
    labels = [folder / output_names(item.name)["label"] for item in files.items]
    return [index for index, path in enumerate(labels) if not path.is_file()]


def _check_folder(files: FileList, folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the folder was started with these settings; False: it holds no label yet. Changes nothing.

    Raises:
        UserError: it holds other labels, or two images would share a file.
    """
    labels = [folder / output_names(item.name)["label"] for item in files.items]
    if len(set(labels)) < len(labels):
        raise UserError(
            f"two images of split {files.split} differ only in their suffix and would share one label file"
        )
    known = _read_json(folder / MANIFEST) or _read_json(folder / PARTIAL_MANIFEST)
    if known is None:
        if any(path.exists() for path in labels):
            raise UserError(
                f"{folder} holds label files without a manifest; choose another --pseudo-label-dir"
            )
        return False
    _refuse_other_settings(folder, known, settings)
    return True


def _refuse_other_settings(folder: Path, known: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    different = [key for key in settings if key not in DESCRIPTIVE and known.get(key) != settings[key]]
    if different:
        listed = ", ".join(
            f"{key} {_brief(known.get(key))} (now {_brief(settings[key])})" for key in different
        )
        raise UserError(
            f"{folder} holds pseudo labels made with {listed}; choose another --pseudo-label-dir or delete it"
        )


def _brief(value: Any) -> str:
    text = str(value.get("name", value)) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."


def _count(files: FileList, folder: Path, space: ClassSpace, num_workers: int) -> dict[str, Any]:
    """Shares of the classes over all label files, read back: what an interrupted run wrote counts too."""
    counts = torch.zeros(IGNORE_LABEL + 1, dtype=torch.int64)
    mine = [
        folder / output_names(files.items[index].name)["label"]
        for index in distributed.shard(len(files.items))
    ]
    for histogram in prefetch(_histogram, mine, num_workers):
        counts += histogram
    total = distributed.all_reduce_sum(counts)
    pixels = max(int(total.sum()), 1)
    shares = {name: int(total[index]) / pixels for index, name in enumerate(space.class_names)}
    return {
        "pixels": int(total.sum()),
        "class_shares": shares,
        "ignored_share": int(total[IGNORE_LABEL]) / pixels,
        "label_sizes_sha256": distributed.broadcast_object(  # one machine's view of a shared disk
            sizes_digest(files, label_sizes(folder, files)) if distributed.is_main() else ""
        ),
    }


def _histogram(path: Path) -> Tensor:
    return torch.from_numpy(np.bincount(read_raw_label(path, "index").ravel(), minlength=IGNORE_LABEL + 1))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished folder; None where there is none (labels made by another program).

    Raises:
        UserError: labelling was interrupted, or the manifest is damaged or of a newer format.
    """
    if (folder / PARTIAL_MANIFEST).is_file() and not (folder / MANIFEST).is_file():
        raise UserError(
            f"pseudo labels in {folder} are not complete; run the same generate_plabel.py command again"
        )
    manifest = _read_json(folder / MANIFEST)
    if manifest is not None and manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / MANIFEST} has format version {manifest.get('format_version')}, this program reads "
            f"{FORMAT_VERSION}; run generate_plabel.py again into another folder"
        )
    return manifest


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("it holds no names and values")
        return values
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it to label the images again") from error


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(values, indent=2) + "\n")
