"""Noisy pictures with blocks of classes, in the official file formats of the published data sets, and
checkpoints in those of the originals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_loaders.description import load_description
from networks import NetworkSpec, build
from utils.class_spaces import class_space

BLOCK = 16  # pixels per side of an area of one class


def write_gta5(root: Path, count: int, size: tuple[int, int] = (1914, 1052)) -> list[str]:
    """`<root>/gta5/{images,labels}`: palette PNGs of Cityscapes label ids; returns the names."""
    palette = np.zeros((256, 3), np.uint8)
    palette[:34] = np.random.default_rng(0).integers(0, 256, (34, 3))
    names = [f"{number:05d}.png" for number in range(1, count + 1)]
    for number, name in enumerate(names):
        ids = _raw_ids("gta5", "cityscapes19", size, number)
        _write_image(root / "gta5" / "images" / name, size, number)
        label = Image.fromarray(ids)
        label.putpalette(palette.ravel().tolist())
        label.save(_folder_made(root / "gta5" / "labels" / name))
    return names


def write_cityscapes(
    root: Path,
    count: int,
    size: tuple[int, int] = (2048, 1024),
    *,
    split: str = "train",
    labelled: bool = True,
) -> list[str]:
    """`<root>/cityscapes/{leftImg8bit,gtFine}/<split>/aachen`; returns the image names with the city."""
    names = []
    for number in range(count):
        stem = f"aachen/aachen_{number:06d}_000019"
        names.append(f"{stem}_leftImg8bit.png")
        _write_image(root / "cityscapes" / "leftImg8bit" / split / names[-1], size, number)
        if labelled:
            path = root / "cityscapes" / "gtFine" / split / f"{stem}_gtFine_labelIds.png"
            _write(path, _raw_ids("cityscapes", "cityscapes19", size, number))
    return names


def write_synthia(root: Path, count: int, size: tuple[int, int] = (1280, 760)) -> None:
    """`<root>/synthia/{RGB,GT/LABELS}`: 16-bit RGB PNGs, the class in red and the instance in green."""
    for number in range(count):
        name = f"{number:07d}.png"
        _write_image(root / "synthia" / "RGB" / name, size, number)
        red = _raw_ids("synthia", "cityscapes19", size, number).astype(np.uint16)
        label = np.stack([np.zeros_like(red), red * 7, red], 2)  # OpenCV's order is B, G, R
        _write(root / "synthia" / "GT" / "LABELS" / name, label)


def write_robotcar(
    root: Path, count: int, size: tuple[int, int] = (1280, 960), *, split: str = "train"
) -> list[str]:
    """`<root>/Oxford_Robot_ICCV19/{train,val,anno}`: only val has labels, in RGBA; returns image names."""
    folder = root / "Oxford_Robot_ICCV19"
    sequence = "" if split == "val" else "2014-05-06-12-54-54/"
    names = [f"{sequence}{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        _write_image(folder / split / name, size, number)
        if split == "val":
            ids = _raw_ids("robotcar", "robotcar9", size, number)
            _write(folder / "anno" / name, np.stack([ids, ids, ids, np.full_like(ids, 255)], 2))
    return names


def _raw_ids(dataset: str, space: str, size: tuple[int, int], seed: int) -> np.ndarray:
    """(H, W) uint8 label ids: blocks of classes that have an id in the data set."""
    table = load_description(dataset).label_table(space)
    classes = range(class_space(space).num_classes)
    first = [np.flatnonzero(table == index) for index in classes]
    usable = np.array([ids[0] for ids in first if ids.size], np.uint8)
    width, height = size
    blocks = np.random.default_rng(seed).choice(usable, (-(-height // BLOCK), -(-width // BLOCK)))
    return blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]


def _write_image(path: Path, size: tuple[int, int], seed: int) -> None:
    width, height = size
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    _write(path, cv2.resize(small, size))


def _write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(_folder_made(path)), pixels)


def _folder_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def ripu_checkpoint(architecture: str, num_classes: int) -> dict[str, Any]:
    """As RIPU's and DWACA's training write it, with the `module.` that some published files have."""
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture, "resnet101", num_classes, "any"))
    for name, buffer in network.named_buffers():
        if name.endswith("bn3.weight"):
            buffer.fill_(0.1)  # else the maps of random blocks grow beyond all bounds
    parts: dict[str, dict[str, Tensor]] = {"feature_extractor": {}, "classifier": {}}
    for name, value in network.state_dict().items():
        if network.is_backbone(name):
            parts["feature_extractor"][f"module.backbone.{name}"] = value
        else:
            parts["classifier"][f"module.{name.removeprefix('classifier.')}"] = value
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    return {"iteration": 39_000, **parts, "optimizer_fea": momentum, "optimizer_cls": momentum}
