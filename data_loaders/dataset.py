"""A file list as transformed samples: with the labels of files or of a pseudo-label folder, or without."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from data_loaders.aspect_crops import AspectCropTransform
from data_loaders.decoding import map_label, read_image, read_raw_label, unknown_table, unknown_values
from data_loaders.discovery import FileList, Item
from data_loaders.samples import Sample, planar
from data_loaders.transforms import RandomSource, Transform
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

logger = logging.getLogger(__name__)

LabelReader = Callable[[Item], np.ndarray]
_OTHER_SHAPE = 1.05  # a label whose proportions differ more than this belongs to another picture


@dataclass(frozen=True, slots=True)
class LoadedItem:
    """A decoded item: (H, W, 3) uint8 RGB, (h, w) uint8 train ids or None, (height, width) of the image."""

    item: Item
    image: np.ndarray
    label: np.ndarray | None
    size: tuple[int, int]


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
        pad_to: (H, W); what the transform leaves smaller is padded at the bottom and at the right, images
            with 0 and labels with 255, and `Sample.content` says how much of it is image.

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
        pad_to: tuple[int, int] | None = None,
    ) -> None:
        if not files.items:
            raise UserError(
                f"no image found for split '{files.split}' under {files.root}; check the folder and the split"
            )
        given = [source for source in (label_table, pseudo_label_root, label_reader) if source is not None]
        assert len(given) <= 1, "labels come from one place"
        self.items = files.items
        self.transform = transform
        self.pad_to = pad_to
        self._reported: set[str] = set()  # pairs of different size
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

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
        """Item `index`, decoded and transformed with the draws of `generator`.

        Raises:
            UserError: a file cannot be decoded or holds labels that cannot be; the message names it.
        """
        loaded = self.load(index)
        return self.finish(loaded, *self.transform(loaded.image, loaded.label, generator))

    def load(self, index: int) -> LoadedItem:
        """Item `index`, decoded; UserError as `sample`."""
        item = self.items[index]
        image = read_image(item.image)
        size = (image.shape[0], image.shape[1])
        label = None if self.read_label is None else self.read_label(item)
        self._check_own_labels(item, label, size)
        self._check_shape(item, label, size)
        return LoadedItem(item, image, label, size)

    def finish(self, loaded: LoadedItem, image: np.ndarray, label: np.ndarray | None) -> Sample:
        """The sample of a loaded item, from what a transform made of it."""
        content = (image.shape[0], image.shape[1])
        image = _padded(image, self.pad_to, 0)
        label = None if label is None else _padded(label, self.pad_to, IGNORE_LABEL)
        return Sample(
            planar(image),
            None if label is None else torch.from_numpy(np.array(label)),
            loaded.item.name,
            loaded.size,
            None if content == image.shape[:2] else content,
        )

    def _check_own_labels(self, item: Item, label: np.ndarray | None, size: tuple[int, int]) -> None:
        """Labels from a reader were made for this very image; a single value stands for any size."""
        if not self.own_labels or label is None or label.size == 1 or label.shape == size:
            return
        raise UserError(
            f"{item.image} is {size[1]}x{size[0]}, but its stored labels are {label.shape[1]}x"
            f"{label.shape[0]}: the image was replaced by one of another size; put the old one back, or "
            "start a new run"
        )

    def _check_shape(self, item: Item, label: np.ndarray | None, size: tuple[int, int]) -> None:
        """Crops with kept proportions need labels of the image's proportions; a few of GTA5 differ a little.

        Raises:
            UserError: they differ by more than 5 %; less is a warning, as the label is resized to the image.
        """
        if not isinstance(self.transform, AspectCropTransform) or label is None or label.size == 1:
            return
        if label.shape == size:
            return
        what = (
            f"{item.image} is {size[1]}x{size[0]}, but its label {item.label} is {label.shape[1]}x"
            f"{label.shape[0]}"
        )
        stretch = (label.shape[1] * size[0]) / (label.shape[0] * size[1])
        if max(stretch, 1 / stretch) > _OTHER_SHAPE:
            raise UserError(
                f"{what}: it belongs to another picture; copy both again, or leave the image out with a list "
                "of the others (prepare_data.py check lists all pairs of different size)"
            )
        if item.name not in self._reported:
            self._reported.add(item.name)
            logger.warning("%s; it is resized to the image", what)


def _padded(array: np.ndarray, size: tuple[int, int] | None, value: int) -> np.ndarray:
    """The array with `value` below and at its right up to `size` (H, W); as it is where it is that large."""
    if size is None:
        return array
    bottom, right = max(0, size[0] - array.shape[0]), max(0, size[1] - array.shape[1])
    if not bottom and not right:
        return array
    return cv2.copyMakeBorder(array, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(value,) * 3)
