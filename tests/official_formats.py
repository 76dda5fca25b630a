"""Noisy pictures with blocks of classes, in the official file formats of the published data sets, and
checkpoints in those of the originals."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_loaders.description import load_description
from networks import NetworkSpec, build
from networks.segmentation import SegmentationNetwork
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
    network = _calm_network(architecture, num_classes)
    parts: dict[str, dict[str, Tensor]] = {"feature_extractor": {}, "classifier": {}}
    for name, value in network.state_dict().items():
        if network.is_backbone(name):
            parts["feature_extractor"][f"module.backbone.{name}"] = value
        else:
            parts["classifier"][f"module.{name.removeprefix('classifier.')}"] = value
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    return {"iteration": 39_000, **parts, "optimizer_fea": momentum, "optimizer_cls": momentum}


def mada_checkpoint(num_classes: int = 19, *, prefix: str = "") -> dict[str, Any]:
    """As MADA's training writes it; beside the network a discriminator, as in CAG_UDA's warm-up file."""
    state = _calm_network("mada_v3plus", num_classes).state_dict()
    groups = [{"lr": 9e-5, "momentum": 0.9, "weight_decay": 2e-4, "initial_lr": 1e-4, "params": [0]}]
    optimizer = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": groups}
    scheduler = {"max_iter": 90_000, "gamma": 0.9, "base_lrs": [1e-4], "last_epoch": 7, "_step_count": 8}
    further = {"optimizer_state": optimizer, "scheduler_state": scheduler}
    return {
        "DeepLab": {
            "model_state": OrderedDict((prefix + name, value) for name, value in state.items()),
            **further,
        },
        "FCDiscriminator": {"model_state": OrderedDict({"conv1.weight": torch.zeros(2, 3, 4, 4)}), **further},
        "iter": 36_000,
        "best_iou": np.float64(0.6490625),
    }


def _calm_network(architecture: str, num_classes: int) -> SegmentationNetwork:
    """On ResNet-101; as it starts, the maps of random blocks would grow beyond all bounds."""
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture, "resnet101", num_classes, "any"))
    for name, value in network.state_dict().items():
        if name.endswith("bn3.weight"):
            value.fill_(0.1)
    return network


def daformer_checkpoint(backbone: str, num_classes: int = 19, *, prefix: str = "") -> dict[str, Any]:
    """As DAFormer's and DIDA's training write it; the three networks have other weights each."""
    spec = NetworkSpec("daformer", backbone, num_classes, "any")
    entries: OrderedDict[str, Tensor] = OrderedDict()
    for seed, part in enumerate(("model", "ema_model", "imnet_model")):
        torch.manual_seed(seed)
        for name, value in build(spec).state_dict().items():
            entries[f"{prefix}{part}.{name}"] = value
    meta = {
        **{"mmseg_version": "0.16.0+abc", "mmcv_version": "1.4.0", "config": "seed = 0\n", "env_info": "sys"},
        **{"CLASSES": ("road", "sidewalk"), "PALETTE": [[128, 64, 128], [244, 35, 232]]},
        **{"seed": 0, "exp_name": "x.py", "epoch": 1, "iter": 40_000, "time": "Tue", "hook_msgs": {}},
    }
    moments = {"step": 7, "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    groups = [{"lr": 6e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": [0]}]
    return {
        "meta": meta,
        "state_dict": entries,
        "optimizer": {"state": {0: moments}, "param_groups": groups},
    }


def mit_imagenet_files(entries: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The three published layouts of one Mix Transformer's ImageNet file, each with its classifier.

    Args:
        entries: the backbone by NVlabs' names, without prefix.
    """
    head = {"weight": torch.zeros(1000, 256), "bias": torch.zeros(1000)}
    mmseg: dict[str, Tensor] = {}
    hugging_face: dict[str, Tensor] = {}
    for name, value in entries.items():
        part, stage, rest = re.fullmatch(r"(patch_embed|block|norm)(\d)\.(.+)", name).groups()
        index = int(stage) - 1
        mmseg |= _mmseg_entries(part, index, rest, value, entries)
        hugging_face |= _hugging_face_entries(part, index, rest, value)
    return {
        "nvlabs": {**entries, **{f"head.{kind}": value for kind, value in head.items()}},
        "mmsegmentation": {"state_dict": mmseg, "meta": {}},
        "hugging_face": {
            **{f"segformer.encoder.{name}": value for name, value in hugging_face.items()},
            **{f"classifier.{kind}": value for kind, value in head.items()},
        },
    }


def _mmseg_entries(
    part: str, index: int, rest: str, value: Tensor, entries: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    if part == "patch_embed":
        return {f"layers.{index}.0.{rest.replace('proj.', 'projection.')}": value}
    if part == "norm":
        return {f"layers.{index}.2.{rest}": value}
    block, module = rest.split(".", 1)
    beginning = f"layers.{index}.1.{block}."
    kind = module.rsplit(".", 1)[1]
    if module.startswith("attn.kv."):
        return {}  # stacked with the query
    if module.startswith("attn.q."):
        key_value = entries[f"block{index + 1}.{block}.attn.kv.{kind}"]
        return {f"{beginning}attn.attn.in_proj_{kind}": torch.cat([value, key_value])}
    names = {
        "attn.proj": "attn.attn.out_proj",
        "mlp.fc1": "ffn.layers.0",
        "mlp.dwconv.dwconv": "ffn.layers.1",
        "mlp.fc2": "ffn.layers.4",
    }
    path = module.rsplit(".", 1)[0]
    if path in ("mlp.fc1", "mlp.fc2") and kind == "weight":
        value = value[:, :, None, None]
    return {f"{beginning}{names.get(path, path)}.{kind}": value}


def _hugging_face_entries(part: str, index: int, rest: str, value: Tensor) -> dict[str, Tensor]:
    if part == "patch_embed":
        return {f"patch_embeddings.{index}.{rest.replace('norm.', 'layer_norm.')}": value}
    if part == "norm":
        return {f"layer_norm.{index}.{rest}": value}
    block, module = rest.split(".", 1)
    path, kind = module.rsplit(".", 1)
    beginning = f"block.{index}.{block}."
    if path == "attn.kv":
        key, content = value.chunk(2)
        self_attention = f"{beginning}attention.self"
        return {f"{self_attention}.key.{kind}": key, f"{self_attention}.value.{kind}": content}
    names = {
        "norm1": "layer_norm_1",
        "norm2": "layer_norm_2",
        "attn.q": "attention.self.query",
        "attn.sr": "attention.self.sr",
        "attn.norm": "attention.self.layer_norm",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.dense1",
        "mlp.fc2": "mlp.dense2",
    }
    return {f"{beginning}{names.get(path, path)}.{kind}": value}
