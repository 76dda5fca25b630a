"""The files of the original MADA release, read and written: anchors, clusters, image vectors, chosen images.

Anchors, clusters and vectors are `torch.save` of numpy arrays or lists, by this or an older numpy. They are
read without running code: arrays of numbers are all that is allowed. Lists are text with a name or a number
per line.
"""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from utils.errors import UserError
from utils.files import write_atomically

Domain = Literal["source", "target"]

_REBUILD = np.zeros(0).__reduce__()[0]
# What a pickled array consists of, with the names that numpy 1 and 2 give it.
_ARRAY = [
    (_REBUILD, "numpy.core.multiarray._reconstruct"),
    (_REBUILD, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    codecs.encode,
]


def centroids_name(domain: Domain, num_anchors: int) -> str:
    """The published name of the anchors' file, such as cluster_centroids_full_target_10.pkl."""
    return f"cluster_centroids_full_{'target_' if domain == 'target' else ''}{num_anchors}.pkl"


def clusters_name(domain: Domain, num_anchors: int) -> str:
    """The published name of the file with the anchor of each image."""
    return centroids_name(domain, num_anchors).replace("centroids", "index")


def vectors_name(domain: Domain) -> str:
    """The published name of the file with the vectors of all images."""
    return f"{'target_' if domain == 'target' else ''}full_dataset_objective_vectors.pkl"


def list_name(extent: str) -> str:
    """The published name of the list of chosen images, such as stage1_cac_list_0.05.txt for 5%."""
    return f"stage1_cac_list_{extent}.txt"


def positions_name(extent: str) -> str:
    """The published name of the file with the positions of the chosen images."""
    return list_name(extent).replace("list", "index")


def find_centroids(path: Path, domain: Domain, num_anchors: int) -> Path:
    """The file of anchors that is meant: `path` itself, or one of the published name in a folder or run."""
    name = centroids_name(domain, num_anchors)
    return _find(path, (name, f"anchors/{name}"))


def find_vectors(path: Path) -> Path:
    """The file of source vectors that is meant: `path` itself, or one in a folder, its anchors/ or a run."""
    names = ("source_vectors/vectors.npy", vectors_name("source"))
    return _find(path, ("vectors.npy", *names, *(f"anchors/{name}" for name in names)))


def find_list(path: Path) -> Path:
    """The list of images that is meant: `path` itself, or the only one in a folder or run."""
    name = list_name("*")
    return _find(path, (name, f"selection_list/{name}"))


def _find(path: Path, patterns: Sequence[str]) -> Path:
    """`path`, or where it is a folder the only file in it of the first pattern that fits any.

    Raises:
        UserError: no file in the folder, or several.
    """
    if not path.is_dir():
        return path
    for pattern in patterns:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(path)) for file in found)
            raise UserError(f"folder {path} holds several such files ({names}); name one of them.")
        if found:
            return found[0]
    raise UserError(f"folder {path} holds none of {', '.join(patterns)}; name the file itself.")


def read_centroids(path: Path, *, num_anchors: int, num_classes: int, channels: int) -> np.ndarray:
    """Anchors (V, C, D) float32.

    Args:
        path: flat, as published, or in their shape.
        num_anchors: V.
        num_classes: C of the network.
        channels: D of the network.

    Raises:
        UserError: the file is missing, damaged or holds more than numbers; it has other anchors, classes or
            channels; or a value is not finite.
    """
    anchors = _checked(_read(path, "anchors"), path, "anchors")
    shape = (num_anchors, num_classes, channels)
    if anchors.size != np.prod(shape) or anchors.shape not in ((anchors.size,), shape):
        raise UserError(
            f"anchors {path} have shape {anchors.shape}, not {shape} or flat as many: {num_anchors} anchors "
            f"of {num_classes} classes with {channels} channels; give anchors of this network and number."
        )
    return anchors.reshape(shape).astype(np.float32)


def write_centroids(path: Path, centroids: np.ndarray) -> None:
    """Writes (V, C, D) anchors as published: flat, float32."""
    _write(path, np.ascontiguousarray(centroids, np.float32).reshape(-1))


def read_clusters(path: Path, *, num_anchors: int) -> np.ndarray:
    """Anchor of each image, (N,) int64.

    Raises:
        UserError: the file is missing, damaged, or no list of numbers in [0, V).
    """
    found = _read(path, "clusters")
    if not isinstance(found, list) or not found or any(type(label) is not int for label in found):
        raise UserError(f"clusters {path} are not a list of whole numbers; give a cluster_index_*.pkl.")
    if min(found) < 0 or max(found) >= num_anchors:
        raise UserError(
            f"clusters {path} name anchors {min(found)} to {max(found)}, there are 0 to {num_anchors - 1}; "
            "give the file that belongs to the anchors."
        )
    return np.array(found, np.int64)


def write_clusters(path: Path, labels: np.ndarray) -> None:
    """Writes the anchor of each image, (N,), as published: a list of int."""
    _write(path, np.asarray(labels).tolist())


def read_vectors(path: Path, *, num_classes: int, channels: int) -> np.ndarray:
    """Image vectors (N, C, D) float32; a class that is absent is a row of zeros.

    The published file has them as float64, which are float32 values: nothing is lost. All of it is read at
    once; a .npy, as `VectorFolder` makes it, is mapped into memory.

    Raises:
        UserError: the file is missing, damaged or holds more than numbers; it has other classes or
            channels; or a value is not finite.
    """
    vectors = _checked(_map(path) if path.suffix == ".npy" else _read(path, "vectors"), path, "vectors")
    if vectors.ndim != 3 or vectors.shape[1:] != (num_classes, channels):
        raise UserError(
            f"vectors {path} have shape {vectors.shape}, not (images, {num_classes}, {channels}); describe "
            "the images with this network."
        )
    return vectors.astype(np.float32, copy=False)


def write_vectors(path: Path, vectors: np.ndarray) -> None:
    """Writes (N, C, D) image vectors as published: float64. It needs several times the room of the array."""
    assert vectors.ndim == 3, vectors.shape
    _write(path, np.ascontiguousarray(vectors, np.float64))


def read_list(path: Path, names: Sequence[str]) -> np.ndarray:
    """Positions in `names` of the images that a list names, ascending, int64.

    Args:
        path: one name per line, such as aachen/aachen_000109_000019_leftImg8bit.png, in any order.
        names: of all images of the training list.

    Raises:
        UserError: the file is missing, no text or empty, or a line is blank, unknown or there twice.
    """
    position = {name: index for index, name in enumerate(names)}
    lines = _read_lines(path)
    for number, name in enumerate(lines, 1):
        if name not in position:
            raise UserError(
                f"list {path}, line {number}: {name!r} is none of the {len(names)} images (the first is "
                f"{names[0] if names else 'missing'}); give the list of this data set."
            )
    return np.sort(np.array([position[name] for name in lines], np.int64))


def write_list(path: Path, names: Sequence[str]) -> None:
    """Writes the names of the chosen images, in the order given."""
    assert len(set(names)) == len(names), "an image is there twice"
    write_atomically(path, _text(names))


def read_positions(path: Path, count: int) -> np.ndarray:
    """Positions that an index file names, ascending, int64.

    Args:
        path: one number per line, from 0, in the sorted list of all training images.
        count: of all images.

    Raises:
        UserError: the file is missing, no text or empty, or a line is blank, no position or there twice.
    """
    lines = _read_lines(path)
    for number, line in enumerate(lines, 1):
        if re.fullmatch(r"0|[1-9][0-9]{0,17}", line) is None or int(line) >= count:
            raise UserError(
                f"index {path}, line {number}: {line!r} is no position 0 to {count - 1} in the list of "
                f"{count} images; give the index of this data set."
            )
    return np.sort(np.array([int(line) for line in lines], np.int64))


def write_positions(path: Path, positions: np.ndarray) -> None:
    """Writes the positions of the chosen images, in the order given."""
    assert len(set(positions.tolist())) == len(positions), "an image is there twice"
    write_atomically(path, _text([str(position) for position in positions.tolist()]))


def remaining_positions(count: int, chosen: np.ndarray) -> np.ndarray:
    """Positions of the images that are not chosen yet, ascending: what another selection scores and ranks.

    The released code scores the chosen images then and takes their indices for those of the rest.
    """
    return np.setdiff1d(np.arange(count), chosen)


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _read_lines(path: Path) -> list[str]:
    """The lines of a list, all different and none blank."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"list {path} is not text; give a file with one line per image.") from None
    except OSError as error:
        raise UserError(f"list {path} cannot be read: {error.strerror}; select the images first.") from error
    if not any(lines):
        raise UserError(f"list {path} is empty; select the images again with a budget of one image or more.")
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(f"list {path}, line {number} is blank; remove it.")
        if first.setdefault(line, number) != number:
            raise UserError(
                f"list {path} has {line!r} twice, in lines {first[line]} and {number}; remove one."
            )
    return lines


def _checked(found: object, path: Path, what: str) -> np.ndarray:
    """What was found, as it is an array of finite numbers.

    Raises:
        UserError: it is not.
    """
    plain = isinstance(found, np.ndarray) and found.dtype.str in ("<f4", "<f8")
    if not plain or found.dtype.hasobject or found.dtype.subdtype is not None:  # of a crafted file
        kind = f"array of {found.dtype}" if isinstance(found, np.ndarray) else type(found).__name__
        raise UserError(f"{what} {path} are no float array, but a {kind}; give a file of the right kind.")
    if not np.isfinite(found).all():
        raise UserError(f"{what} {path} hold values that are not finite; make the file again.")
    return found


def _map(path: Path) -> object:
    """What a .npy holds, mapped into memory; nothing in it is executed."""
    _check_readable(path, "vectors")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise UserError(
            f"vectors {path} are damaged, or no array of numpy; copy or make the file again."
        ) from error


def _read(path: Path, what: str) -> object:
    """What a file of torch.save holds, as far as it is numbers."""
    _check_readable(path, what)
    try:
        with torch.serialization.safe_globals(_ARRAY):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage can surface as any error of the unpickler or the zip reader
        raise _refusal(path, what, error) from error


def _check_readable(path: Path, what: str) -> None:
    """So that whatever is raised later is about the content.

    Raises:
        UserError: the file is missing, a folder, or not ours to read.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(
            f"{what} {path} cannot be read: {error.strerror or error}; make the file first, or name another."
        ) from error


def _refusal(path: Path, what: str, error: Exception) -> UserError:
    """Tells a file that wants to run code from one whose bytes are broken."""
    asked = re.search(r"(?:GLOBAL\s+|(?:class|function)\s+'?(?=\w+\.))([\w.]*\w)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked is not None:
        return UserError(
            f"{what} {path} are refused: the file asks for {asked.group(1)}, and more than float numbers "
            "could run any code; give a file of the original release or of this program."
        )
    return UserError(f"{what} {path} are damaged, or no file of torch.save; copy or make the file again.")


def _write(path: Path, content: object) -> None:
    write_atomically(path, lambda file: torch.save(content, file))
