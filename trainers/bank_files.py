"""Instance banks on disk: the published pair of files, and single archives.

A bank is a folder with `f_buffer_s.npz` (features) and `l_buffer_s.npz` (labels), each with one array
`arr_0`, as DIDA's authors publish theirs. That is what `write_bank` writes, so the original code reads our
banks too. `read_bank` also takes one `.npz` with arrays `features` and `labels`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_loaders.file_list import join_names
from utils import maths
from utils.errors import UserError, alike_everywhere, reason
from utils.files import write_atomically

logger = logging.getLogger(__name__)

FEATURES_FILE = "f_buffer_s.npz"
LABELS_FILE = "l_buffer_s.npz"
_ONLY_ARRAY = "arr_0"
_FILL = "fill a bank from a snapshot of this network with fill_bank.py"
_DAMAGED = "copy it again from where it was published, or " + _FILL


@alike_everywhere()
def read_bank(
    path: Path, *, num_classes: int, channels: int, class_names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Features (K, D), at least float32, and labels (K,) int64 of the bank at `path`, on the CPU.

    Classes without an entry are logged and accepted: the published SYNTHIA bank has none of three.

    Args:
        path: a folder with the published pair, one file of the pair, or an .npz with both arrays.
        num_classes: C of the network.
        channels: D, width of the network's features.
        class_names: of the C classes.

    Raises:
        UserError: a file is missing or damaged; shapes, types or values are no bank's; or the bank is of a
            network with other features or classes.
    """
    features, labels = _read_arrays(path)
    _check_form(path, features, labels)
    _check_fit(path, features, labels, num_classes, channels)
    _check_values(path, features)
    bank = maths.at_least_float32(torch.from_numpy(features)), torch.from_numpy(labels.astype(np.int64))
    for line in report_bank(str(path), *bank, class_names):
        logger.info("%s", line)
    return bank


def write_bank(folder: Path, features: Tensor, labels: Tensor) -> None:
    """Writes the published pair of files: features (K, D) as float32, labels (K,) as int64.

    Raises:
        UserError: the folder cannot be written.
    """
    assert len(features) == len(labels), (features.shape, labels.shape)
    arrays = {
        FEATURES_FILE: features.detach().cpu().numpy().astype(np.float32),
        LABELS_FILE: labels.cpu().numpy().astype(np.int64),
    }
    for name, array in arrays.items():
        write_atomically(folder / name, lambda file, array=array: np.savez(file, array))


def report_bank(origin: str, features: Tensor, labels: Tensor, class_names: Sequence[str]) -> list[str]:
    """Lines about a full bank: `describe_bank`, the entries of each class, and the norms of the features.

    Args:
        origin: where it is from: a path, or "from 40 samples".
        features: (K, D).
        labels: (K,).
        class_names: of the C classes.
    """
    counts = np.bincount(labels.numpy(), minlength=len(class_names)).tolist()
    entries = ", ".join(f"{name} {count}" for name, count in zip(class_names, counts, strict=True))
    norms = features.norm(dim=1)
    return [
        f"instance bank {origin}: {describe_bank(labels, class_names)}",
        f"entries of the bank: {entries}",
        f"norms of its features: {norms.min():.4g} to {norms.max():.4g}, mean {norms.mean():.4g}",
    ]


def describe_bank(labels: np.ndarray | Tensor, class_names: Sequence[str]) -> str:
    """For example "300 entries, 9 to 21 a class; none of terrain, truck, train"."""
    counts = np.bincount(np.asarray(labels), minlength=len(class_names))
    kept = counts[counts > 0]
    missing = [name for name, count in zip(class_names, counts, strict=True) if count == 0]
    text = f"{len(labels)} entries, {kept.min()} to {kept.max()} a class"
    return f"{text}; none of {', '.join(missing)}" if missing else text


def _read_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if path.name in (FEATURES_FILE, LABELS_FILE):
        path = path.parent
    if path.is_dir():
        return tuple(_read_array(path / name, _ONLY_ARRAY) for name in (FEATURES_FILE, LABELS_FILE))
    return _read_array(path, "features"), _read_array(path, "labels")


def _read_array(file: Path, name: str) -> np.ndarray:
    if not file.is_file():
        raise UserError(
            f"{file} does not exist; an instance bank is a folder with {FEATURES_FILE} and {LABELS_FILE}, or "
            f"an .npz with arrays features and labels: {_FILL}."
        )
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"{file} is one array and no .npz archive; name the folder of an instance bank.")
        with archive:
            if name not in archive.files:
                raise _no_bank(file, name, archive.files)
            array = archive[name]
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} is no array")
            return array
    except UserError:
        raise
    except Exception as error:  # damage can surface as any error of the zip reader or of numpy's
        raise UserError(f"{file} cannot be read as .npz ({reason(error)}); {_DAMAGED}.") from None


def _no_bank(file: Path, name: str, members: Sequence[str]) -> UserError:
    """What an archive without the array `name` is instead."""
    if any(member.endswith("data.pkl") for member in members):  # as torch.save writes it
        return UserError(
            f"{file} is a checkpoint of a network and no instance bank; make one from it: python "
            f"fill_bank.py --restore-from {file} --output FOLDER"
        )
    found = join_names(members, 5) or "nothing"
    return UserError(f"{file} has no array {name}, only {found}; name an instance bank's file.")


def _check_form(path: Path, features: np.ndarray, labels: np.ndarray) -> None:
    """Two arrays of the right kinds that belong together."""
    if features.ndim != 2 or labels.ndim != 1:
        raise UserError(
            f"{path}: features of shape {features.shape} and labels of shape {labels.shape} are no instance "
            f"bank, which has (K, D) and (K,); {_FILL}."
        )
    if features.dtype.kind != "f" or labels.dtype.kind not in "iu":
        raise UserError(
            f"{path}: features are {features.dtype} and labels {labels.dtype}; an instance bank has floating "
            f"point features and integer labels: {_FILL}."
        )
    if len(features) != len(labels):
        raise UserError(
            f"{path}: {len(features)} features but {len(labels)} labels; the two are of different banks: "
            f"copy both again, or {_FILL}."
        )


def _check_fit(path: Path, features: np.ndarray, labels: np.ndarray, num_classes: int, channels: int) -> None:
    """Features and classes of this network."""
    size, width = features.shape
    if width != channels:
        raise UserError(
            f"{path}: its features have {width} channels, the network's have {channels}; {_FILL}."
        )
    if size < num_classes:
        raise UserError(
            f"{path}: {size} entries cannot stand for {num_classes} classes; use a larger bank, or {_FILL}."
        )
    wrong = np.unique(labels[(labels < 0) | (labels >= num_classes)])
    if len(wrong):
        shown = ", ".join(str(value) for value in wrong[:5].tolist())
        raise UserError(
            f"{path}: labels {shown} are not train ids 0..{num_classes - 1}; the bank is of other classes: "
            f"{_FILL}."
        )


def _check_values(path: Path, features: np.ndarray) -> None:
    """Features that similarities can be computed with."""
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise UserError(
            f"{path}: {int((~finite).sum())} of {len(features)} features are not finite, the first is entry "
            f"{int(finite.argmin())}; {_DAMAGED}."
        )
    negative = (features < 0).any(axis=1)
    if negative.any():
        raise UserError(
            f"{path}: {int(negative.sum())} of {len(features)} features have values below 0, the first is "
            f"entry {int(negative.argmax())}; what follows a ReLU has none: {_DAMAGED}."
        )
    if not features.any():
        raise UserError(f"{path}: all features are 0; {_DAMAGED}.")
