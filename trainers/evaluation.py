"""Scores of a network, or of a folder of label PNGs, on labelled images: one matrix over all processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data_loaders.decoding import map_label, read_image, read_raw_label
from data_loaders.discovery import FileList, Item
from networks.segmentation import SegmentationNetwork
from trainers.inference import (
    ImageProgress,
    Prediction,
    Predictor,
    PreparedImage,
    evaluation_mode,
    evaluation_uncertainty,
    prefetch,
    score_map,
)
from trainers.protocols import Protocol, Size
from utils import distributed
from utils.class_spaces import IGNORE_LABEL, ClassSpace, merge_table
from utils.distributed import World
from utils.errors import UserError
from utils.maths import upsample
from utils.metrics import ConfusionMatrix, Scores, scores
from utils.pictures import colorize, contact_sheet, error_map, heat_map, write_png
from utils.precision import Precision
from utils.stopping import never

logger = logging.getLogger(__name__)

LABEL_PNGS = "label PNGs"  # what stands in a table in the place of a protocol


@dataclass(frozen=True, slots=True)
class Inspection:
    """What pictures show of one prediction.

    Attributes:
        label: (H, W) uint8 train ids of the evaluation's class space.
        maps: (H, W) values in [0, 1] by title, where a network tells more than its label.
    """

    label: np.ndarray
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)


Inspector = Callable[[Item, Size], Inspection]  # the Size, (W, H), is that of the truth


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Result of scoring one network or folder on one list of images; the same on every rank.

    Attributes:
        counts: (C, C) int64 on the CPU, rows are true classes; a further column, where there is one, holds
            predictions that are no class of `space`.
        protocol: how the label maps were made, in words.
        image_miou: mean IoU of each image by name, in percent; NaN for an image without labelled pixels.
    """

    counts: Tensor
    scores: Scores
    space: ClassSpace
    protocol: str
    image_miou: Mapping[str, float]

    @property
    def images(self) -> int:
        """Number of scored images."""
        return len(self.image_miou)

    def scalars(self) -> dict[str, float]:
        """What a training run logs, in percent: "val/miou", means over class subsets, "val/iou/<class>"."""
        classes = zip(self.space.class_names, self.scores.iou.tolist(), strict=True)
        subsets = {f"val/miou_{name.replace(' ', '_')}": value for name, value in self.scores.subsets.items()}
        return {"val/miou": self.scores.miou} | subsets | {f"val/iou/{name}": iou for name, iou in classes}

    def worst(self, count: int) -> list[str]:
        """Names of the images with the lowest mean IoU, worst first."""
        scored = [(value, name) for name, value in self.image_miou.items() if not np.isnan(value)]
        return [name for _, name in sorted(scored)[:count]]


def evaluate(
    network: SegmentationNetwork,
    files: FileList,
    protocol: Protocol,
    space: ClassSpace,
    *,
    world: World,
    precision: Precision | None = None,
    num_workers: int = 2,
    read_truth: Callable[[Item], np.ndarray] | None = None,
    stop: Callable[[], bool] = never,
) -> Evaluation | None:
    """Scores a network on labelled images under a protocol. Every rank must call it; all get the same result.

    The images are split over the ranks without padding, buffers are rank 0's; label maps and the matrix stay
    on the device. Where the network's classes are not those of `space`, its predictions are merged into them.

    Args:
        read_truth: (H, W) uint8 train ids of an item, in place of its label file.
        stop: asked before every image; when it is true on any rank the result is None on all.

    Raises:
        UserError: an image without a label, a label of another size than the protocol's output, no merge.
    """
    merge = _merge(network.spec.class_space, space)
    distributed.synchronize_buffers_(network)
    predictor = Predictor(network, protocol, device=world.device, precision=precision)
    read_truth = read_truth or truth_reader(files, space)

    def load(item: Item) -> tuple[Item, PreparedImage, np.ndarray]:
        return item, predictor.prepare(read_image(item.image)), read_truth(item)

    matrix = _matrix(space, world.device, merge)
    tally = _Tally(matrix, len(files.items))
    stopped = False
    with evaluation_mode(network):
        for item, prepared, truth in prefetch(load, _own_part(files), num_workers):
            if stopped := stop():
                break
            prediction = predictor.predict(prepared, _size_of(truth))
            _check_size(item, prediction.label.shape, truth, protocol)
            tally.add(item, prediction.label, torch.from_numpy(truth).to(world.device))
    if distributed.any_rank(stopped, what="the end of an evaluation"):
        return None
    return tally.result(space, protocol.describe(), protocol.absent)


def score_label_folder(
    folder: Path,
    files: FileList,
    space: ClassSpace,
    *,
    label_space: ClassSpace | None = None,
    invalid: Literal["error", "wrong"] = "error",
    num_workers: int = 2,
) -> Evaluation:
    """Scores label PNGs made by anything: 8-bit train ids, found by image name. Every rank must call it.

    Args:
        folder: searched as `find_label_png` says.
        label_space: classes of the PNGs where they are not those of `space`; merged as a network's would be.
        invalid: what an id that is no class of the PNGs (255 in thresholded pseudo labels) means on a
            labelled pixel.

    Raises:
        UserError: a PNG is missing, ambiguous or of another size than the truth; ids that are no class.
    """
    names = label_png_index(folder)
    read_truth = truth_reader(files, space)
    label_space = label_space or space
    merge = _merge(label_space.name, space)

    def load(item: Item) -> tuple[Item, np.ndarray, np.ndarray]:
        path = find_label_png(folder, item.name, names)
        label, truth = read_raw_label(path, "index"), read_truth(item)
        if label.shape != truth.shape:
            raise UserError(
                f"label {path} is {_text(label)} but the truth {item.label} is {_text(truth)}; "
                "score label maps at the size of the truth"
            )
        if merge is not None and invalid == "error":
            _refuse_unknown_ids(path, label[truth != IGNORE_LABEL], label_space)
        return item, label, truth

    matrix = _matrix(space, torch.device("cpu"), merge, invalid=None if merge is not None else invalid)
    tally = _Tally(matrix, len(files.items))
    for item, label, truth in prefetch(load, _own_part(files), num_workers):
        tally.add(item, torch.tensor(label), torch.from_numpy(truth))
    return tally.result(space, LABEL_PNGS, "nan")


def truth_reader(files: FileList, space: ClassSpace) -> Callable[[Item], np.ndarray]:
    """Reads an item's label file as (H, W) uint8 train ids of `space`, at its full size."""
    table = files.description.label_table(space.name)
    encoding = files.description.label_encoding

    def read(item: Item) -> np.ndarray:
        if item.label is None:
            raise UserError(f"{item.image} has no label file and cannot be scored; choose a labelled --split")
        return map_label(read_raw_label(item.label, encoding), table)

    return read


def label_png_index(folder: Path) -> dict[str, list[Path]]:
    """All PNGs below `folder` by file name.

    Raises:
        UserError: there is none.
    """
    index: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        index.setdefault(path.name, []).append(path)
    if not index:
        raise UserError(f"--label-folder {folder} holds no PNG; give the folder of the label maps")
    return index


def find_label_png(folder: Path, name: str, index: Mapping[str, list[Path]]) -> Path:
    """The label PNG of the image `name`: same relative path, else same file name anywhere below `folder`.

    Raises:
        UserError: none, or several that the file name alone does not tell apart.
    """
    exact = folder / Path(name).with_suffix(".png")
    if exact.is_file():
        return exact
    found = index.get(exact.name, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"--label-folder {folder} has {len(found)} files {exact.name}; keep the images' sub-folders"
        )
    raise UserError(
        f"--label-folder {folder} has no {exact.name} for image {name}; name label maps as their images"
    )


def write_worst(
    evaluation: Evaluation, files: FileList, folder: Path, count: int, inspect: Inspector
) -> None:
    """Writes the worst images as `<place>_<name>.png`: image, truth, prediction, error map and further maps.

    Args:
        inspect: `network_inspector` or `label_folder_inspector` of what was scored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    palette = evaluation.space.palette
    read_truth = truth_reader(files, evaluation.space)
    items = {item.name: item for item in files.items}
    for number, name in enumerate(evaluation.worst(count), start=1):
        truth = read_truth(items[name])
        found = inspect(items[name], _size_of(truth))
        row = [
            read_image(items[name].image),
            colorize(truth, palette),
            colorize(found.label, palette),
            error_map(found.label, truth),
            *(heat_map(values, low=0, high=1) for values in found.maps.values()),
        ]
        first = f"{name} ({evaluation.image_miou[name]:.1f} %)"
        titles = [first, "truth", "prediction", "errors", *found.maps]
        write_png(folder / f"{number:02d}_{Path(name).stem}.png", contact_sheet([row], titles))


def network_inspector(
    network: SegmentationNetwork,
    protocol: Protocol,
    space: ClassSpace,
    world: World,
    precision: Precision | None,
) -> Inspector:
    """A function that labels single images with `network`, in the classes of `space`, and maps its doubts."""
    predictor = Predictor(network, protocol, device=world.device, precision=precision)
    merge = _merge(network.spec.class_space, space)

    def inspect(item: Item, size: Size) -> Inspection:
        with evaluation_mode(network):
            prediction = predictor.predict(read_image(item.image), size)
            label, maps = prediction.label.cpu().numpy(), doubt_maps(prediction)
        return Inspection(label if merge is None else map_label(label, merge), maps)

    return inspect


def label_folder_inspector(folder: Path, label_space: ClassSpace, space: ClassSpace) -> Inspector:
    """A function that reads the label PNGs of single images, in the classes of `space`."""
    names = label_png_index(folder)
    merge = _merge(label_space.name, space)

    def inspect(item: Item, size: Size) -> Inspection:
        label = read_raw_label(find_label_png(folder, item.name, names), "index")
        return Inspection(label if merge is None else map_label(label, merge))

    return inspect


def doubt_maps(prediction: Prediction) -> dict[str, np.ndarray]:
    """Maps in [0, 1] at the size of the label, each relative to its maximum over the image.

    "uncertainty" is the disagreement of the two heads, where there are two; "score map" is 0 at the surest
    pixel.

    Source: the authors' released evaluation code (Zheng & Yang, IJCV 2021).
    """
    maps = {"score map": score_map(prediction.confidence)}
    if prediction.passes[0].auxiliary is not None:
        low = evaluation_uncertainty(prediction.passes)[None]  # (1, 1, h, w)
        maps = {"uncertainty": upsample(low, prediction.label.shape)[0, 0]} | maps
    return {title: values.cpu().numpy() for title, values in maps.items()}


def _refuse_unknown_ids(path: Path, ids: np.ndarray, space: ClassSpace) -> None:
    unknown = np.unique(ids[ids >= space.num_classes])
    if unknown.size:
        raise UserError(
            f"label {path} has the ids {', '.join(map(str, unknown[:8]))} on labelled pixels, which are no "
            f"classes of {space.name}; check --label-classes, or count such pixels as wrong"
        )


def _merge(source: str, space: ClassSpace) -> np.ndarray | None:
    return None if source == space.name else merge_table(source, space.name)


def _matrix(
    space: ClassSpace,
    device: torch.device,
    merge: np.ndarray | None,
    invalid: Literal["error", "wrong"] | None = None,
) -> ConfusionMatrix:
    """Merged classes that `space` does not know are right nowhere."""
    if invalid is None:
        invalid = "error" if merge is None else "wrong"
    return ConfusionMatrix(space.num_classes, device, invalid=invalid, prediction_table=merge)


def _own_part(files: FileList) -> list[Item]:
    if not files.items:
        raise UserError(
            f"no labelled image of split {files.split} under {files.root}; there is nothing to score"
        )
    return [files.items[index] for index in distributed.shard(len(files.items))]


def _size_of(label: np.ndarray) -> Size:
    return label.shape[1], label.shape[0]


def _text(label: np.ndarray) -> str:
    return "x".join(map(str, _size_of(label)))


def check_first_label(files: FileList, protocol: Protocol) -> None:
    """Refuses, before a long run starts, labels of another size than the protocol predicts.

    Raises:
        UserError: names the label, both sizes and the remedy.
    """
    item = next((item for item in files.items if item.label is not None), None)
    if item is not None and protocol.output_size is not None:
        truth = read_raw_label(item.label, files.description.label_encoding)
        _check_size(item, torch.Size(protocol.output_size[::-1]), truth, protocol)


def _check_size(item: Item, shape: torch.Size, truth: np.ndarray, protocol: Protocol) -> None:
    if tuple(shape) != truth.shape:
        raise UserError(
            f"label {item.label} is {_text(truth)} but protocol {protocol.name} predicts "
            f"{shape[1]}x{shape[0]}; use --protocol mrnet, which predicts at the size of the label"
        )


class _Tally:
    """The running matrix of this rank, and what each image added to it; nothing leaves the device early."""

    def __init__(self, matrix: ConfusionMatrix, images: int) -> None:
        self.matrix = matrix
        self.names: list[str] = []
        self.added: list[Tensor] = []
        self.progress = ImageProgress("evaluation", len(distributed.shard(images)))

    def add(self, item: Item, prediction: Tensor, truth: Tensor) -> None:
        """Counts one image."""
        before = self.matrix.counts
        try:
            self.matrix.update(prediction, truth)
        except UserError as error:
            raise UserError(f"{item.name}: {error}") from error
        self.names.append(item.name)
        self.added.append(self.matrix.counts - before)
        self.progress.advance()

    def result(self, space: ClassSpace, protocol: str, absent: Literal["nan", "zero"]) -> Evaluation:
        """The sum over all ranks."""
        own = {
            name: scores(counts).miou
            for name, counts in zip(
                self.names, torch.stack(self.added).cpu() if self.added else (), strict=True
            )
        }
        image_miou = {
            name: value for part in distributed.all_gather_objects(own) for name, value in part.items()
        }
        counts = self.matrix.all_reduce_().counts.cpu()
        return Evaluation(counts, scores(counts, space, absent=absent), space, protocol, image_miou)
