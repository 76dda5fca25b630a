"""Annotations of an earlier run of the originals, as one more file of the store.

Their folders know which pixels are labelled, asked about and blocked, but not the picks of each round. So
they become no rounds: `imported.npz` keeps the maps themselves, and they count as bought before round 0.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from selection.queries import check_size, joined, offsets_of
from selection.round_files import damaged, pack_text, read_arrays, unpack_text, write_arrays
from utils.class_spaces import IGNORE_LABEL

Size = tuple[int, int]

_REMEDY = "restore it from a copy, or delete it and import the folder again"


@dataclass(frozen=True, slots=True, eq=False)
class PublishedAnnotation:
    """What an original run knows about one image.

    Attributes:
        name: of the image.
        mask: (H, W) uint8 train ids, 255 where nothing is labelled.
        active: (H, W) bool; True may not be picked any more.
        selected: (H, W) bool; True was asked about.
    """

    name: str
    mask: np.ndarray
    active: np.ndarray
    selected: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class ImportedLabels:
    """Maps of many images, deflated in memory too: 46 KB per 2048x1024 image at 2.2 %.

    Attributes:
        sizes: image name to (H, W), in the order of the blobs.
        blobs: uint8; image after image, its two packed maps and its classes, deflated.
        offsets: (N + 1,) int64 where each image begins in it.
    """

    sizes: Mapping[str, Size]
    blobs: np.ndarray
    offsets: np.ndarray
    numbers: Mapping[str, int]

    @classmethod
    def of(cls, annotations: Iterable[PublishedAnnotation]) -> ImportedLabels:
        """Takes the annotations one by one, so that never more than one is held at full size."""
        sizes: dict[str, Size] = {}
        blobs = []
        for annotation in annotations:
            check_size(annotation.name, annotation.mask.shape)
            assert annotation.name not in sizes, f"{annotation.name} is imported twice"
            sizes[annotation.name] = annotation.mask.shape
            blobs.append(_deflated(annotation))
        return cls._joined(sizes, joined(blobs, np.uint8), offsets_of(len(blob) for blob in blobs))

    @classmethod
    def read(cls, path: Path) -> ImportedLabels:
        """Reads what `write` wrote.

        Raises:
            UserError: the file is damaged.
        """
        arrays = read_arrays(path, remedy=_REMEDY)
        try:
            sizes = [(height, width) for height, width in arrays["sizes"].tolist()]
            names = unpack_text(arrays["names"]).split("\0") if sizes else []
            offsets = offsets_of(arrays["lengths"])
            if offsets[-1] != len(arrays["blobs"]) or len(offsets) != len(sizes) + 1:
                raise ValueError("its arrays differ in length")
            return cls._joined(dict(zip(names, sizes, strict=True)), arrays["blobs"], offsets)
        except (KeyError, ValueError) as error:
            raise damaged(path, error, remedy=_REMEDY) from error

    def write(self, path: Path) -> None:
        """Writes one file."""
        write_arrays(
            path,
            {
                "names": pack_text("\0".join(self.sizes)),
                "sizes": np.array(list(self.sizes.values()), np.int32).reshape(-1, 2),
                "lengths": np.diff(self.offsets),
                "blobs": self.blobs,
            },
        )

    def digest(self) -> str:
        """Hex SHA-256 of the maps and classes, whatever they were deflated with."""
        digest = hashlib.sha256()
        for name, size in self.sizes.items():
            digest.update(f"{name}\0{size[0]}\0{size[1]}\0".encode("utf-8", "surrogateescape"))
            digest.update(self._inflated(name))
        return digest.hexdigest()

    def label(self, name: str, mask: np.ndarray) -> None:
        """Writes the labels of an image into its (H, W) mask."""
        if name in self.numbers:
            selected, _, classes = self._maps(name)
            mask[selected] = classes

    def mark_selected(self, name: str, marked: np.ndarray) -> None:
        """Sets what was asked about in an (H, W) bool map."""
        if name in self.numbers:
            marked |= self._maps(name)[0]

    def mark_blocked(self, name: str, marked: np.ndarray) -> None:
        """Sets what may not be picked any more in an (H, W) bool map."""
        if name in self.numbers:
            marked |= self._maps(name)[1]

    @classmethod
    def _joined(cls, sizes: dict[str, Size], blobs: np.ndarray, offsets: np.ndarray) -> ImportedLabels:
        return cls(sizes, blobs, offsets, {name: number for number, name in enumerate(sizes)})

    def _inflated(self, name: str) -> bytes:
        number = self.numbers[name]
        return zlib.decompress(self.blobs[self.offsets[number] : self.offsets[number + 1]])

    def _maps(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(H, W) bool selected and blocked, and the classes of the selected pixels."""
        height, width = self.sizes[name]
        content = np.frombuffer(self._inflated(name), np.uint8)
        length = -(-height * width // 8)
        selected, blocked = (
            np.unpackbits(part, count=height * width).view(bool).reshape(height, width)
            for part in (content[:length], content[length : 2 * length])
        )
        return selected, blocked, content[2 * length :]


def _deflated(annotation: PublishedAnnotation) -> np.ndarray:
    selected = annotation.selected
    assert (annotation.mask[~selected] == IGNORE_LABEL).all(), annotation.name
    parts = [np.packbits(selected), np.packbits(annotation.active), annotation.mask[selected]]
    return np.frombuffer(zlib.compress(np.concatenate(parts).tobytes(), 6), np.uint8)
