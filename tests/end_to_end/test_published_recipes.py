"""Every published recipe for two iterations: true formats and image sizes, published depth, small crops.

`pytest -s` shows seconds per iteration and peak memory, as noted in the recipes' comments.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

import prepare_data
from data_loaders.decoding import write_label_png
from networks import NetworkSpec, build
from tests.distributed.launching import run_processes
from tests.official_formats import (
    mada_checkpoint,
    mit_imagenet_files,
    ripu_checkpoint,
    write_cityscapes,
    write_gta5,
    write_robotcar,
    write_synthia,
)
from trainers.bank_files import write_bank

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
PUBLISHED = sorted(
    path.stem for path in RECIPES.glob("*_to_*.args") if path.stem.split("_")[2] in ("cityscapes", "robotcar")
)
IMAGES = 3
SMALL = ["--crop-size", "128,64", "--batch-size", "2", "--num-steps-stop", "2", "--backbone-weights", "none"]
# Two of three images; two stages of one step; few pixels of random weights agree with a label.
MADA = ["--budget", "2images", "--num-anchors", "2", "--stage-steps", "1,1", "--allow-absent-classes"]
NO_ROWS_IGNORED = ["--ignore-top", "0", "--ignore-bottom", "0"]  # of crops smaller than the published rows
HERE = ["--num-workers", "0", "--log-every", "1", "--device", "cpu", "--no-tensorboard"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_trains_on_true_formats_and_sizes(name: str, tmp_path: Path) -> None:
    script = script_of(name)
    data, run = tmp_path / "data", tmp_path / "run"
    names = draw(name, data)
    words = [
        f"@launch/recipes/{name}.args",
        *SMALL,
        *HERE,
        "--data-root",
        str(data),
        "--snapshot-dir",
        str(run),
    ]
    if script == "train_ft.py":
        words += ["--pseudo-label-dir", str(label(names, data / "pseudo_labels", name))]
    if "--lambda-kl-target 0.1" in expanded(name):
        words += ["--target-terms-start", "1"]
    if script == "train_al.py":
        words += MADA if name.endswith("_mada") else ["--select-iterations", "1"]
    if script == "train_st.py":
        words += [*NO_ROWS_IGNORED, *self_training_files(name, data, tmp_path)]
    if "frozen" in expanded(name) or name.endswith(
        "_mada"
    ):  # random weights without normalisation would grow beyond all bounds
        place = words.index("--backbone-weights")
        words[place : place + 2] = ["--restore-from", str(start_of(name, tmp_path / "start.pth"))]
    try:
        run_processes(
            1, [script, *words], env={"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}, timeout=900
        )
        logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    finally:
        shutil.rmtree(run, ignore_errors=True)  # snapshots of 0.7 GB
    lines = [line for line in logged if "time/seconds" in line]  # others are scores and query rounds
    assert [line["iteration"] for line in lines] == [1, 2]
    assert any("queries/pixels" in line for line in logged) == (script == "train_al.py")
    losses = {key: value for line in lines for key, value in line.items() if key.startswith("loss/")}
    assert losses
    assert all(value is not None and math.isfinite(value) for value in losses.values())
    assert ("loss/kl" in losses) == ("--target-terms-start" in words)
    assert ("loss/D_main" in losses) == (script == "train_ms.py")
    assert ("loss/alignment" in losses) == name.endswith("_mada")
    assert ("loss/instance" in losses) == name.endswith("_dida")
    assert ("loss/masked" in losses) == name.endswith("_mic")
    print(f"{name}: {lines[1]['time/seconds']:.1f} s/iteration, peak {lines[1]['memory/peak_gib']:.1f} GiB")


def script_of(name: str) -> str:
    """The entry point that a recipe is for, by the end of its name."""
    endings = {"source_only": "train_source.py", "mrnet": "train_ms.py"}
    endings |= {"_mada": "train_al.py", "_warmup_source": "train_source.py", "_warmup": "train_ms.py"}
    endings |= dict.fromkeys(("_daformer", "_deeplab", "_dida", "_dacs", "_mic"), "train_st.py")
    active = "train_al.py" if "_ripu_" in name or "_dwaca_" in name else "train_ft.py"
    return next((script for ending, script in endings.items() if name.endswith(ending)), active)


def expanded(name: str) -> str:
    """The recipe's text with that of the ones it includes."""
    text = (RECIPES / f"{name}.args").read_text()
    included = [line[1:-5] for line in text.splitlines() if line.startswith("@")]
    return "".join(map(expanded, included)) + text


def draw(name: str, root: Path) -> Sequence[str]:
    """Training images of the recipe's two domains; the names of the target's."""
    source, target = name.split("_to_")
    if source == "gta5":
        write_gta5(root, IMAGES)
    elif source == "synthia":
        write_synthia(root, IMAGES)
    else:
        write_cityscapes(root, IMAGES)
    if target.startswith("robotcar"):
        return write_robotcar(root, IMAGES)
    if script_of(name) == "train_al.py":  # its oracle reads labels, and DWACA scores on others
        write_cityscapes(root, IMAGES, split="val")
        return write_cityscapes(root, IMAGES)
    if "--evaluate-every" in expanded(name):
        write_cityscapes(root, 1, split="val")
    return write_cityscapes(root, IMAGES, labelled=False)


def self_training_files(name: str, data: Path, folder: Path) -> list[str]:
    """The options that name an ImageNet file and a bank, both random, where the recipe needs them; writes
    those and the statistics of the source."""
    count = ["statistics", name.split("_to_")[0], "--data-root", str(data), "--num-workers", "0"]
    assert prepare_data.main(count) == 0
    torch.manual_seed(0)
    weights, bank = folder / "imagenet.pth", folder / "bank"
    if name.endswith("_deeplab"):
        torch.save(models.resnet101().state_dict(), weights)
    else:
        state = build(NetworkSpec("daformer", "mit_b5", 19, "cityscapes19")).state_dict()
        entries = {key[9:]: value for key, value in state.items() if key.startswith("backbone.")}
        torch.save(mit_imagenet_files(entries)["nvlabs"], weights)
    words = ["--backbone-weights", str(weights)]
    if name.endswith("_dida"):
        write_bank(bank, torch.rand(300, 256), torch.arange(300) % 19)
        words += ["--instance-bank", str(bank)]
    return words


def start_of(name: str, path: Path) -> Path:
    """A checkpoint in the originals' format that fits the recipe."""
    num_classes = 16 if name.startswith("synthia") else 19
    if name.endswith("_mada"):
        torch.save(mada_checkpoint(num_classes), path)
        return path
    architecture = "deeplab_v3plus" if "--network deeplab_v3plus" in expanded(name) else "deeplab_v2"
    torch.save(ripu_checkpoint(architecture, num_classes), path)
    return path


def label(names: Sequence[str], folder: Path, recipe: str) -> Path:
    """Pseudo labels of the target images, as large as the published ones, a tenth of the pixels ignored."""
    (width, height), classes = ((1280, 960), 9) if "robotcar" in recipe else ((2048, 1024), 19)
    for number, name in enumerate(names):
        blocks = np.random.default_rng(number).integers(0, classes, (height // 16, width // 16), np.uint8)
        blocks[:, ::10] = 255
        write_label_png(folder / name, blocks.repeat(16, 0).repeat(16, 1))
    return folder
