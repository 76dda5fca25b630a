"""Every file that the program reads beside images of a data set: one good file each, and its loader."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data_loaders.decoding import read_image, read_raw_label, write_label_png
from data_loaders.description_file import read_description_file
from data_loaders.list_files import read_list as read_list_file
from data_loaders.statistics import LabelInfo, read_class_statistics, read_label_info, write_label_info
from networks.loading import load_network, load_weights
from networks.published import identify
from selection import anchor_files, published_masks
from selection.rounds import RoundFolder
from selection.store import AnnotationStore
from tests.official_formats import daformer_checkpoint, mada_checkpoint, ripu_checkpoint
from tests.toy_annotation import asked, random_picks
from tests.toy_training import WORLD, drawn_streams, make_trainer, run_in, small_network
from trainers.bank_files import FEATURES_FILE, LABELS_FILE, read_bank, write_bank
from trainers.base import Trainer
from trainers.labelling import MANIFEST, read_manifest
from utils import folder_lock, snapshots
from utils.pictures import write_png
from utils.runs import open_run

CHANNELS = 16


@dataclass(frozen=True, slots=True)
class Loader:
    """A kind of file.

    Attributes:
        make: writes what is read into a folder; returns the file that is to be damaged.
        read: reads that file.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], object]


def small(content: Any) -> Any:
    """The same names and shapes, of one stored number per tensor."""
    if isinstance(content, Tensor):
        return torch.ones((), dtype=content.dtype).expand(content.shape)
    if isinstance(content, Mapping):
        return {name: small(value) for name, value in content.items()}
    return content


def published(content: Callable[[], Mapping[str, Any]], *, zipped: bool = True) -> Loader:
    """A checkpoint of another project."""

    def make(folder: Path) -> Path:
        file = folder / "GTA5_25000.pth"
        torch.save(small(content()), file, _use_new_zipfile_serialization=zipped)
        return file

    return Loader(make, lambda path: identify(snapshots.read(path), path))


def _mrnet() -> Mapping[str, Any]:
    from networks import NetworkSpec, build

    with torch.device("meta"):
        return build(NetworkSpec("deeplab_two_head", "resnet101_caffe", 19, "cityscapes19")).state_dict()


def _snapshot(folder: Path) -> Path:
    trainer = make_trainer("source", streams=drawn_streams(["source"]), loop={"num_steps_stop": 1})
    with run_in(folder / "run", stop=1) as trainer.run:
        trainer.fit()
    return folder / "run" / "iteration_0000001.pth"


@functools.cache
def _trainer() -> Trainer:
    """Continues from whatever it finds, so one will do for all."""
    return make_trainer("source", streams=drawn_streams(["source"]), loop={"num_steps_stop": 2})


def _resume(path: Path) -> object:
    trainer = _trainer()
    with run_in(path.parent, stop=2) as trainer.run:
        return trainer.resume()


def _open_run(path: Path) -> object:
    with open_run(
        path.parent, {"seed": 0, "num_steps_stop": 9}, world=WORLD, keep=1, free_to_change=frozenset(),
        tensorboard=False,
    ) as run:  # fmt: skip
        return run.is_done()


def _run(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        _snapshot(folder)
        return folder / "run" / name

    return make


def _bank(name: str) -> Loader:
    def make(folder: Path) -> Path:
        write_bank(folder, torch.rand(38, CHANNELS), torch.arange(38) % 19)
        return folder / name

    names = [str(number) for number in range(19)]
    return Loader(make, lambda path: read_bank(path, num_classes=19, channels=CHANNELS, class_names=names))


def _written(name: str, write: Callable[[Path], object], read: Callable[[Path], object]) -> Loader:
    def make(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return Loader(make, read)


def _centroids(path: Path) -> object:
    return anchor_files.read_centroids(path, num_anchors=3, num_classes=5, channels=CHANNELS)


def _round(name: str, read: Callable[[RoundFolder], object]) -> Loader:
    def make(folder: Path) -> Path:
        queries = asked([random_picks(5, seed=1), random_picks(3, seed=2)], 1)
        made = AnnotationStore(folder / "queries").round(0)
        made.begin(queries.info)
        made.write_queries(queries)
        made.write_labels(np.zeros(sum(len(query.predicted) for query in queries.images), np.uint8))
        return made.folder / name

    return Loader(make, lambda path: read(RoundFolder(path.parent)))


def _annotation(folder: Path, *, mask: bool) -> Path:
    label, chosen = np.full((8, 9), 255, np.uint8), np.zeros((8, 9), bool)
    label[2:4], chosen[2:4] = 1, True
    published_masks.write(folder, "a/b_leftImg8bit.png", label, chosen, chosen)
    place = published_masks.mask_path if mask else published_masks.indicator_path
    return place(folder, "a/b_leftImg8bit.png")


def _read_annotation(path: Path) -> object:
    root = next(parent for parent in path.parents if (parent / "root").exists())
    return published_masks.read(root, "a/b_leftImg8bit.png", 19)


def _annotated(*, mask: bool) -> Loader:
    def make(folder: Path) -> Path:
        (folder / "root").touch()
        return _annotation(folder, mask=mask)

    return Loader(make, _read_annotation)


def _label(path: Path) -> object:
    return write_label_png(path, np.arange(64, dtype=np.uint8).reshape(8, 8) % 19, [[1, 2, 3]] * 19)


def _deep_label(path: Path) -> object:
    return cv2.imwrite(str(path), np.full((8, 8, 3), 7, np.uint16))


TOML = Path(__file__).resolve().parents[2] / "data_loaders" / "descriptions" / "cityscapes.toml"
INFO = LabelInfo([["a.png", "b.png"], ["a.png"]], {"a.png": [0, 1], "b.png": [0]})

LOADERS: Mapping[str, Loader] = {
    "snapshot": Loader(_snapshot, load_network),
    "snapshot to start from": Loader(_snapshot, lambda path: load_weights(small_network(), path)),
    "snapshot to continue": Loader(_snapshot, _resume),
    "last": Loader(_run("last"), lambda path: snapshots.SnapshotFolder(path.parent, 1).latest()),
    "arguments.json": Loader(_run("arguments.json"), _open_run),
    "DONE": Loader(_run("DONE"), _open_run),
    ".lock": _written(".lock", lambda path: path.write_text('{"host": "x", "pid": 1}'), folder_lock.holder),
    "metrics.jsonl": Loader(_run("metrics.jsonl"), _resume),
    "mrnet checkpoint": published(_mrnet),
    "mrnet checkpoint, old format": published(_mrnet, zipped=False),
    "ripu checkpoint": published(lambda: ripu_checkpoint("deeplab_v3plus", 19)),
    "mada checkpoint": published(mada_checkpoint, zipped=False),
    "daformer checkpoint": published(lambda: daformer_checkpoint("mit_b0")),
    "bank features": _bank(FEATURES_FILE),
    "bank labels": _bank(LABELS_FILE),
    "anchors": _written(
        "a.pkl", lambda path: anchor_files.write_centroids(path, np.ones((3, 5, CHANNELS))), _centroids
    ),
    "clusters": _written(
        "c.pkl",
        lambda path: anchor_files.write_clusters(path, np.arange(3)),
        lambda path: anchor_files.read_clusters(path, num_anchors=3),
    ),
    "chosen images": _written(
        "l.txt",
        lambda path: path.write_text("a.png\nb.png\n"),
        lambda path: anchor_files.read_list(path, ["a.png", "b.png", "c.png"]),
    ),
    "positions": _written(
        "p.txt", lambda path: path.write_text("0\n2\n"), lambda path: anchor_files.read_positions(path, 3)
    ),
    "queries": _round("queries.npz", lambda folder: folder.queries()),
    "bought labels": _round("labels.npz", lambda folder: folder.labels()),
    "store": _round("labels.npz", lambda folder: AnnotationStore(folder.folder.parent).load(1)),
    "published mask": _annotated(mask=True),
    "published indicator": _annotated(mask=False),
    "label_info": _written("x_label_info.p", lambda path: write_label_info(path, INFO), read_label_info),
    "class statistics": _written(
        "sample_class_stats_dict.json",
        lambda path: path.write_text(json.dumps({"a.png": {"0": 12, "7": 3}})),
        read_class_statistics,
    ),
    "pseudo-label manifest": _written(
        MANIFEST,
        lambda path: path.write_text('{"format_version": 1, "images": {}}'),
        lambda path: read_manifest(path.parent),
    ),
    "list file": _written("list.txt", lambda path: path.write_text("a.png\nb.png b_l.png\n"), read_list_file),
    "description": _written(
        "d.toml", lambda path: path.write_bytes(TOML.read_bytes()), read_description_file
    ),
    "image": _written("i.png", lambda path: write_png(path, np.full((8, 8, 3), 7, np.uint8)), read_image),
    "label": _written("m.png", _label, lambda path: read_raw_label(path, "palette")),
    "16-bit label": _written("m.png", _deep_label, lambda path: read_raw_label(path, "rgb16_first_channel")),
}
