"""A file list as transformed samples: with the labels of files or of a pseudo-label folder, or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from data_loaders.decoding import map_label, read_image, read_raw_label, unknown_table, unknown_values
from data_loaders.discovery import FileList, Item
from data_loaders.samples import Sample, planar
from data_loaders.transforms import RandomSource, Transform
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

LabelReader = Callable[[Item], np.ndarray]


class TrueLabels:
    """Reads an item's own label file and maps its raw ids to train ids."""

    def __init__(self, encoding: str, table: np.ndarray) -> None:
        self.encoding = encoding
        self.table = table

    def __call__(self, item: Item) -> np.ndarray:
        """(H, W) uint8 train ids."""
        if item.label is None:
            raise UserError(
                f"{item.image} has no label file; give a labelled split, or a list without this image"
            )
        return map_label(read_raw_label(item.label, self.encoding), self.table)


class PseudoLabels:
    """Reads stored train ids from a folder that mirrors the image names."""

    def __init__(self, root: Path, num_classes: int) -> None:
        self.root = root
        self.num_classes = num_classes
        self.unknown = unknown_table([*range(num_classes), IGNORE_LABEL])

    def __call__(self, item: Item) -> np.ndarray:
        """(H, W) uint8 train ids, as stored; UserError where a value is no train id."""
        path = pseudo_label_path(self.root, item.name)
        label = read_raw_label(path, "index")
        unknown = unknown_values(label, self.unknown)
        if unknown:
            raise UserError(
                f"label values {list(unknown)} in {path} are not train ids 0..{self.num_classes - 1} "
                f"or {IGNORE_LABEL}; pseudo labels hold the network's train ids: rerun generate_plabel.py"
            )
        return label

    def check_complete(self, items: tuple[Item, ...]) -> None:
        """Raises UserError when an item has no pseudo label."""
        missing = [item.name for item in items if not pseudo_label_path(self.root, item.name).is_file()]
        if missing:
            raise UserError(
                f"pseudo-label folder {self.root} lacks {len(missing)} of {len(items)} labels, first "
                f"{missing[0]}; run generate_plabel.py for this image list, or name the folder it wrote"
            )


def pseudo_label_path(root: Path, name: str) -> Path:
    """Where the pseudo label of the image `name` lies: the same relative path, always a PNG."""
    return root / Path(name).with_suffix(".png")


class SegmentationDataset:
    """Samples of a file list. Without a source of labels it never opens a label file.

    Args:
        files: what to read.
        transform: applied to the decoded image and label.
        label_table: (256,) uint8, raw id -> train id, for the label files of `files`.
        pseudo_label_root: a folder of stored train ids to use instead; needs `num_classes`.
        num_classes: stored train ids of a pseudo label must be below it, or 255.
        label_reader: any other source of (H, W) uint8 train ids per item.

    Raises:
        UserError: the list is empty, or pseudo labels are missing.
    """

    def __init__(
        self,
        files: FileList,
        *,
        transform: Transform,
        label_table: np.ndarray | None = None,
        pseudo_label_root: Path | None = None,
        num_classes: int | None = None,
        label_reader: LabelReader | None = None,
    ) -> None:
        if not files.items:
            raise UserError(
                f"no image found for split '{files.split}' under {files.root}; check the folder and the split"
            )
        given = [source for source in (label_table, pseudo_label_root, label_reader) if source is not None]
        assert len(given) <= 1, "labels come from one place"
        self.items = files.items
        self.transform = transform
        self.read_label = label_reader
        self.own_labels = label_reader is not None
        if label_table is not None:
            self.read_label = TrueLabels(files.description.label_encoding, label_table)
        elif pseudo_label_root is not None:
            assert num_classes is not None, "pseudo labels are checked against the number of classes"
            pseudo_labels = PseudoLabels(pseudo_label_root, num_classes)
            pseudo_labels.check_complete(files.items)
            self.read_label = pseudo_labels

    def __len__(self) -> int:
        return len(self.items)

    def _check_own_labels(self, item: Item, label: np.ndarray | None, size: tuple[int, int]) -> None:
        """Labels from a reader were made for this very image; a single value stands for any size."""
        if not self.own_labels or label is None or label.size == 1 or label.shape == size:
            return
        raise UserError(
            f"{item.image} is {size[1]}x{size[0]}, but its stored labels are {label.shape[1]}x"
            f"{label.shape[0]}: the image was replaced by one of another size; put the old one back, or "
            "start a new run"
        )

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
        """Item `index`, decoded and transformed with the draws of `generator`.

        Raises:
            UserError: a file cannot be decoded or holds labels that cannot be; the message names it.
        """
        item = self.items[index]
        image = read_image(item.image)
        size = (image.shape[0], image.shape[1])
        label = None if self.read_label is None else self.read_label(item)
        self._check_own_labels(item, label, size)
        image, label = self.transform(image, label, generator)
        label_tensor = None if label is None else torch.from_numpy(np.array(label))
        return Sample(planar(image), label_tensor, item.name, size)
