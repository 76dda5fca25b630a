"""The vectors of all images of a domain on disk; see `VectorFolder`."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from selection.round_files import damaged, pack_text, read_arrays, unpack_text
from utils.errors import UserError
from utils.files import cannot_write, write_atomically

logger = logging.getLogger(__name__)

Content = Mapping[str, str | int]

_DESCRIBE_AGAIN = "its images are described again"
_CHECK_SUM = "crc32"  # of both files, one after the other
_BYTES_AT_ONCE = 2**24
_ROWS_AT_ONCE = 256  # 5 MB of published vectors


def in_rows(vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of a matrix and their rows, in order: what is mapped into memory is never read whole."""
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(vectors)))
        yield part, vectors[part]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    positions: np.ndarray  # (n,) int64
    vectors: np.ndarray  # (n, C, D) float32
    entropies: np.ndarray  # (n,) float64


class VectorFolder:
    """Vectors of the images of a domain: made in parts by any ranks, then one matrix to map into memory.

    1. `begin` (rank 0) writes description.json; `join` tells the other ranks what it says.
    2. Any rank writes finished images with `write_part`. A restarted run, with any number of processes, makes
       only what is missing.
    3. `assemble` (rank 0) makes vectors.npy and entropies.npy from the parts and removes them.

    It is a cache: what belongs to another network or image list, or is damaged, is made again with a warning.
    Files appear whole or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.description_path = self.folder / "description.json"
        self.vectors_path = self.folder / "vectors.npy"
        self.entropies_path = self.folder / "entropies.npy"
        self._parts = self.folder / "parts"
        self._content: dict[str, str | int] | None = None

    def begin(self, content: Content) -> np.ndarray:
        """Starts, or goes on with what is there of the same content; anything else is removed. Rank 0 only.

        Args:
            content: what the vectors are of: digest of the network's weights, fingerprint of the images, and
                whatever else they depend on; "count", "classes" and "channels" are their shape.

        Returns:
            (count,) bool, which images are described.

        Raises:
            UserError: the folder cannot be written.
        """
        self.join(content)
        there = self._description()
        obstacle = self._obstacle(there)
        if obstacle:
            logger.warning("the image vectors in %s are made anew: %s", self.folder, obstacle)
        if there is None or obstacle:
            self._remove_all()
            write_atomically(self.description_path, _as_json({"content": self._begun()}), durable=True)
        elif _CHECK_SUM in there:
            shutil.rmtree(self._parts, ignore_errors=True)  # that a kill has left
            return np.ones(self._shape[0], bool)
        return self.finished()

    def join(self, content: Content) -> None:
        """Takes over what rank 0 has begun; parts written from here on are of that content."""
        self._content = dict(content)

    def finished(self) -> np.ndarray:
        """(count,) bool, which images are in readable parts; damaged parts are left out with a warning."""
        found = np.zeros(self._shape[0], bool)
        for part in self._read_parts():
            found[part.positions] = True
        return found

    def write_part(self, positions: np.ndarray, vectors: np.ndarray, entropies: np.ndarray) -> None:
        """Keeps the vectors of some images; one file per call.

        Args:
            positions: (n,) of the images in their list.
            vectors: (n, C, D) float32.
            entropies: (n,) float64, mean pixel entropies in nats.
        """
        part = _Part(np.asarray(positions, np.int64), vectors, entropies)
        assert not _flaw(part, self._shape), _flaw(part, self._shape)
        # The name follows from the images, so no two ranks ever write the same file.
        path = self._parts / f"part_{hashlib.sha256(part.positions.tobytes()).hexdigest()[:32]}.npz"
        arrays = {"positions": part.positions, "vectors": vectors, "entropies": entropies}
        arrays["content"] = pack_text(_as_json(self._begun()))
        write_atomically(path, lambda file: np.savez(file, **arrays), durable=True)

    def assemble(self) -> None:
        """Makes the matrix of all images from the parts, of which none may be missing. Rank 0 only.

        Memory holds one part at a time.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        entropies = np.full(self._shape[0], np.nan)
        described = np.zeros(self._shape[0], bool)

        def write(file: BinaryIO) -> None:
            kind = np.lib.format.dtype_to_descr(np.dtype(np.float32))
            header = {"descr": kind, "fortran_order": False, "shape": self._shape}
            np.lib.format.write_array_header_1_0(file, header)
            start, row_bytes = file.tell(), 4 * self._shape[1] * self._shape[2]
            for part in self._read_parts():  # plain writes: a full disk is an error, in a memory map a crash
                for position, vector in zip(part.positions.tolist(), part.vectors, strict=True):
                    file.seek(start + position * row_bytes)
                    file.write(vector.tobytes())
                entropies[part.positions] = part.entropies
                described[part.positions] = True
            assert described.all(), f"{int((~described).sum())} images are not described yet"

        write_atomically(self.vectors_path, write, durable=True)
        write_atomically(self.entropies_path, lambda file: np.save(file, entropies), durable=True)
        complete = {"content": self._begun(), _CHECK_SUM: _check_sum(self.vectors_path, self.entropies_path)}
        write_atomically(self.description_path, _as_json(complete), durable=True)
        shutil.rmtree(self._parts, ignore_errors=True)

    def is_complete(self) -> bool:
        """Whether the matrix of all images is there."""
        there = self._description()
        return there is not None and _CHECK_SUM in there

    def vectors(self) -> np.ndarray:
        """(N, C, D) float32, read-only and mapped into memory; rows of zeros for absent classes."""
        return np.load(self.vectors_path, mmap_mode="r")

    def entropies(self) -> np.ndarray:
        """(N,) float64, the mean pixel entropy of every image in nats."""
        return np.load(self.entropies_path)

    @property
    def _shape(self) -> tuple[int, int, int]:
        content = self._begun()
        return int(content["count"]), int(content["classes"]), int(content["channels"])

    def _begun(self) -> dict[str, str | int]:
        assert self._content is not None, f"{self.folder}: begin() or join() comes first"
        return self._content

    def _description(self) -> dict[str, object] | None:
        """What description.json says, {} where it is damaged; None without one."""
        try:
            found = json.loads(self.description_path.read_bytes())
        except FileNotFoundError:
            return {} if self.vectors_path.exists() or self._parts.exists() else None
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _obstacle(self, there: dict[str, object] | None) -> str:
        """Why what is there cannot be used; "" where it can, or where nothing is there."""
        if there is None:
            return ""
        before, here = there.get("content"), self._begun()
        if not isinstance(before, dict):
            return f"{self.description_path.name} is missing or damaged"
        different = [name for name in sorted({**before, **here}) if before.get(name) != here.get(name)]
        if different:
            return f"they are of other {', '.join(different)}"
        return self._damage(there[_CHECK_SUM]) if _CHECK_SUM in there else ""

    def _damage(self, check_sum: object) -> str:
        """What is wrong with the assembled files; "" where nothing is."""
        try:
            vectors, entropies = self.vectors(), self.entropies()
        except (OSError, ValueError, EOFError) as error:
            return f"a file is missing or damaged ({error})"
        sound = vectors.dtype == np.float32 and vectors.shape == self._shape
        sound &= entropies.dtype == np.float64 and entropies.shape == self._shape[:1]
        if not sound or _check_sum(self.vectors_path, self.entropies_path) != check_sum:
            return f"{self.vectors_path.name} or {self.entropies_path.name} is damaged"
        return ""

    def _remove_all(self) -> None:
        for path in (self.description_path, self.vectors_path, self.entropies_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error
        shutil.rmtree(self._parts, ignore_errors=True)

    def _read_parts(self) -> Iterator[_Part]:
        """The parts that can be used, one at a time."""
        for path in sorted(self._parts.glob("part_*.npz")):
            try:
                part = self._read_part(path)
            except UserError as error:
                logger.warning("%s", error)
                continue
            if part is None:
                logger.warning("%s is of another network or other images; %s.", path, _DESCRIBE_AGAIN)
                continue
            yield part

    def _read_part(self, path: Path) -> _Part | None:
        """One part; None where it is of another content.

        Raises:
            UserError: it is damaged.
        """
        arrays = read_arrays(path, remedy=_DESCRIBE_AGAIN)
        try:
            content = unpack_text(arrays["content"])
            part = _Part(arrays["positions"], arrays["vectors"], arrays["entropies"])
        except KeyError as error:
            raise damaged(path, error, remedy=_DESCRIBE_AGAIN) from error
        if content != _as_json(self._begun()):
            return None
        flaw = _flaw(part, self._shape)
        if flaw:
            raise damaged(path, flaw, remedy=_DESCRIBE_AGAIN)
        return part


def _flaw(part: _Part, shape: tuple[int, int, int]) -> str:
    """How the arrays of a part do not fit together or to the (N, C, D) `shape` of all; "" where they do."""
    if (part.positions.dtype, part.vectors.dtype, part.entropies.dtype) != (np.int64, np.float32, np.float64):
        return "its arrays are of another type"
    count = len(part.positions)
    if part.vectors.shape != (count, *shape[1:]) or part.entropies.shape != (count,):
        return "its arrays have another shape"
    if part.positions.ndim != 1 or count == 0 or part.positions.min() < 0 or part.positions.max() >= shape[0]:
        return f"its positions are not those of {shape[0]} images"
    return ""


def _as_json(values: Mapping[str, object]) -> str:
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def _check_sum(*paths: Path) -> int:
    found = 0
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(_BYTES_AT_ONCE):
                found = zlib.crc32(piece, found)
    return found
