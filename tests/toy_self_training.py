"""Data, an ImageNet file and words for tiny runs of `train_st.py`."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch

import prepare_data
from networks import NetworkSpec, build
from tests.official_formats import mit_imagenet_files, write_cityscapes, write_gta5

SIZE = (96, 64)  # W, H of all images
READING = shlex.split(
    "--input-size 96,64 --crop-size 64,64 --rare-class-min-pixels 100 --num-workers 0 --device cpu"
)
WORDS = [
    *READING,
    *shlex.split(
        "--backbone mit_b0 --head-channels 16 --input-size-target 96,64 --ignore-top 4 --ignore-bottom 12 "
        "--batch-size 2 --num-steps 20 --num-steps-stop 2 --warm-up 1 --log-every 1 --no-tensorboard"
    ),
]
IMAGENET = "mit_b0.pth"


def write_domains(root: Path) -> None:
    """Eight labelled source images with their statistics, four target images without labels, two to score,
    and weights for a Mix Transformer."""
    write_gta5(root, 8, SIZE)
    write_cityscapes(root, 4, SIZE, labelled=False)
    write_cityscapes(root, 2, SIZE, split="val")
    write_statistics(root)


def write_statistics(root: Path) -> None:
    """What a run reads beside the images: the source's statistics, and weights for a Mix Transformer."""
    assert prepare_data.main(["statistics", "gta5", "--data-root", str(root), "--num-workers", "0"]) == 0
    torch.save(mit_imagenet_files(mit_entries("mit_b0"))["nvlabs"], root / IMAGENET)


def mit_entries(backbone: str) -> dict[str, torch.Tensor]:
    """Random weights of a Mix Transformer by NVlabs' names."""
    torch.manual_seed(0)
    state = build(NetworkSpec("daformer", backbone, 19, "cityscapes19")).state_dict()
    return {name.removeprefix("backbone."): value for name, value in state.items() if "backbone." in name}


def command(data: Path, run: Path | str, *words: object) -> list[str]:
    """A run of two iterations that starts from the ImageNet file; later words win."""
    start = (
        []
        if "--restore-from" in words or "--backbone-weights" in words
        else ["--backbone-weights", data / IMAGENET]
    )
    return [*WORDS, "--data-root", str(data), "--snapshot-dir", str(run), *map(str, start), *map(str, words)]


def bank_command(data: Path, snapshot: Path, output: Path | str, *words: object) -> list[str]:
    """Fills a bank of 38 entries from a snapshot."""
    places = ["--data-root", data, "--restore-from", snapshot, "--output", output]
    return [*READING, *map(str, places), "--bank-size", "38", *map(str, words)]
