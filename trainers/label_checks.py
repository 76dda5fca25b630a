"""What a training run demands of pseudo labels before it trusts them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_loaders.discovery import FileList
from trainers.label_files import label_sizes, sizes_digest
from trainers.labelling import MANIFEST, output_names, read_manifest
from utils.errors import UserError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """A checked folder of label maps.

    Attributes:
        folder: holds them by image name.
        manifest: what made them; None for labels of another program.
        fingerprint: changes with their origin and with names and sizes of the files.
    """

    folder: Path
    manifest: Mapping[str, Any] | None
    fingerprint: str

    def facts(self) -> dict[str, Any]:
        """What a run records about them."""
        known = self.manifest or {}
        origin = {name: known.get(name) for name in ("threshold", "snapshot", "weights_sha256")}
        return {"folder": str(self.folder), **origin, "fingerprint": self.fingerprint}

    def describe(self) -> str:
        """Folder, threshold and snapshot in one phrase."""
        if self.manifest is None:
            return f"{self.folder} (of unknown origin)"
        return (
            f"{self.folder} (threshold {self.manifest['threshold']:g}, snapshot {self.manifest['snapshot']})"
        )


def check_pseudo_labels(folder: Path, files: FileList, space: str) -> PseudoLabels:
    """The folder that holds the labels of `files`, checked; warns where nothing tells their origin.

    Folders of the original code have no manifest and may hold the split below them (`pseudo_FULL/train`).

    Raises:
        UserError: no such folder, another image list or other classes, a label file is missing, or the files
            are not those that the manifest was written for.
    """
    if not folder.is_dir():
        raise UserError(
            f"pseudo-label folder {folder} does not exist; run generate_plabel.py, or give --pseudo-label-dir"
        )
    manifest = read_manifest(folder)
    if manifest is not None:
        check_manifest(manifest, files, space)
    elif files.items and not (folder / output_names(files.items[0].name)["label"]).is_file():
        folder = folder / files.split if (folder / files.split).is_dir() else folder
    sizes = label_sizes(folder, files)
    missing = [item.name for item, size in zip(files.items, sizes, strict=True) if size is None]
    if missing:
        raise UserError(
            f"pseudo-label folder {folder} lacks {len(missing)} of {len(files.items)} labels, first "
            f"{missing[0]}; run generate_plabel.py for this image list"
        )
    digest = sizes_digest(files, sizes)
    if manifest is None:
        logger.warning(
            "%s has no %s: nothing tells which snapshot and threshold these labels are from", folder, MANIFEST
        )
        return PseudoLabels(folder, None, digest[:16])
    if manifest.get("label_sizes_sha256", digest) != digest:
        raise UserError(
            f"label files in {folder} were changed after {MANIFEST} was written; run generate_plabel.py into "
            f"another folder, or delete {MANIFEST} to use them as labels of unknown origin"
        )
    origin = f"{manifest['weights_sha256']} {manifest['threshold']} {digest}"
    return PseudoLabels(folder, manifest, hashlib.sha256(origin.encode()).hexdigest()[:16])


def check_manifest(manifest: Mapping[str, Any], files: FileList, space: str) -> None:
    """Refuses labels of another image list or of other classes.

    Raises:
        UserError: names what differs.
    """
    if manifest["class_space"] != space:
        raise UserError(
            f"pseudo labels are train ids of {manifest['class_space']} but the network has the classes of "
            f"{space}; label with a snapshot of the same classes"
        )
    if manifest["image_list"] != files.fingerprint():
        raise UserError(
            f"pseudo labels were made for another image list ({manifest['images']} images of "
            f"{manifest['target']} {manifest['split']}; now {len(files.items)} of {files.description.name} "
            f"{files.split}); run generate_plabel.py for this list, or train on the list it was given"
        )


def check_threshold(labels: PseudoLabels, threshold: float | None) -> None:
    """Compares --threshold with that of the labels; None was not given. Warns where the labels tell none.

    Raises:
        UserError: they differ.
    """
    if threshold is None:
        return
    if labels.manifest is None:
        logger.warning("--threshold %g cannot be compared: %s has no %s", threshold, labels.folder, MANIFEST)
    elif labels.manifest["threshold"] != threshold:
        raise UserError(
            f"--threshold {threshold:g}, but the labels in {labels.folder} were made with "
            f"{labels.manifest['threshold']:g}; run generate_plabel.py --threshold {threshold:g}, or leave "
            "--threshold out"
        )


def check_origin(labels: PseudoLabels, weights_sha256: str, start: Path, *, named: bool) -> None:
    """Compares the network that made the labels with the one that training starts from.

    Args:
        weights_sha256: `labelling.weights_digest` of the network that --restore-from filled.
        start: the value of --restore-from.
        named: the labels were chosen by --pseudo-label-dir, so that a difference is only a warning.

    Raises:
        UserError: another network made them, and they were found by themselves.
    """
    if labels.manifest is None or labels.manifest["weights_sha256"] == weights_sha256:
        return
    what = (
        f"the labels in {labels.folder} were not made by the weights of --restore-from {start} but by "
        f"{labels.manifest['snapshot']} (iteration {labels.manifest['iteration']})"
    )
    if not named:
        raise UserError(
            f"{what}; run generate_plabel.py --restore-from {start} with another --pseudo-label-dir, or name "
            f"the labels by --pseudo-label-dir {labels.folder}"
        )
    logger.warning("%s", what)
