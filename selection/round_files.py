"""Compressed arrays on disk: written whole or not at all, every damage found when read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from selection.queries import ImageQuery, joined, offsets_of
from utils.errors import UserError, reason
from utils.files import write_atomically


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz durably.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomically(path, lambda file: np.savez_compressed(file, **arrays), durable=True)


def read_arrays(path: Path, *, remedy: str) -> dict[str, np.ndarray]:
    """All arrays of a .npz; nothing in it is executed.

    Raises:
        UserError: the file is damaged (the text ends with the remedy) or cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; {remedy}.") from error
    except Exception as error:  # damage can surface as any error of the zip reader or of numpy's
        raise damaged(path, error, remedy=remedy) from error
    strangers = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strangers:
        raise damaged(path, f"{strangers[0]} is no array", remedy=remedy)
    return arrays


def damaged(path: Path, error: object, *, remedy: str) -> UserError:
    """The error for a file whose content is not what was written."""
    return UserError(f"{path} is damaged ({reason(error)}); {remedy}.")


def pack_queries(queries: Sequence[ImageQuery]) -> dict[str, np.ndarray]:
    """The queries as flat arrays.

    Deflate alone brings picks and predictions of 1026 3x3 squares to 6 KB: see benchmarks/bought_labels.py.
    """
    return {
        "names": pack_text("\0".join(query.name for query in queries)),
        "sizes": np.array([query.size for query in queries], np.int32).reshape(-1, 2),
        "pick_counts": np.array([len(query.picks) for query in queries], np.int32),
        "pixel_counts": np.array([len(query.predicted) for query in queries], np.int32),
        "picks": joined([query.picks for query in queries], np.uint16).reshape(-1, 2),
        "predicted": joined([query.predicted for query in queries], np.uint8),
    }


def unpack_queries(arrays: Mapping[str, np.ndarray]) -> list[ImageQuery]:
    """What `pack_queries` packed; the queries are views into the flat arrays.

    Raises:
        KeyError, ValueError: the arrays do not fit together.
    """
    sizes = arrays["sizes"].tolist()
    names = unpack_text(arrays["names"]).split("\0") if sizes else []
    picks, predicted = arrays["picks"], arrays["predicted"]
    pick_offsets, pixel_offsets = offsets_of(arrays["pick_counts"]), offsets_of(arrays["pixel_counts"])
    lengths = {len(names), len(sizes), len(pick_offsets) - 1, len(pixel_offsets) - 1}
    if len(lengths) != 1 or pick_offsets[-1] != len(picks) or pixel_offsets[-1] != len(predicted):
        raise ValueError("its arrays differ in length")
    if picks.dtype != np.uint16 or predicted.dtype != np.uint8 or picks.shape[1:] != (2,):
        raise ValueError("its arrays are of another type")
    return [
        ImageQuery(
            name,
            (height, width),
            picks[pick_offsets[i] : pick_offsets[i + 1]],
            predicted[pixel_offsets[i] : pixel_offsets[i + 1]],
        )
        for i, (name, (height, width)) in enumerate(zip(names, sizes, strict=True))
    ]


def pack_text(text: str) -> np.ndarray:
    """(n,) uint8 UTF-8; arrays of numpy strings would take four bytes per character of the longest."""
    return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)


def unpack_text(array: np.ndarray) -> str:
    """What `pack_text` packed."""
    return array.tobytes().decode("utf-8", "surrogateescape")
