"""Runs of a second or two of every kind of training, for tests that break them."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import generate_plabel
import train_ms
from tests import toy_self_training
from tests.official_formats import write_cityscapes, write_gta5
from trainers.bank_files import write_bank
from utils import snapshots
from utils.runs import DONE, PREEMPTED

ITERATIONS = 6
SIZE = (96, 64)  # W, H of all images
TARGETS = 5  # training images of the target
_LOOP = (
    f"--num-steps 20 --num-steps-stop {ITERATIONS} --batch-size 2 --learning-rate 0.001 --log-every 1 "
    "--save-every 2 --keep-snapshots 20 --device cpu --no-tensorboard --num-workers 0 --droprate 0.5 "
    "--backbone resnet18_quarter --head-channels 8"
)
_MRNET = (
    f"{_LOOP} --bottleneck-channels 8 --input-size 64,48 --input-size-target 64,48 --crop-size 48,32 "
    "--warm-up 2 --ema-decay 0.9"
)
_ACTIVE = (
    f"{_LOOP} --network deeplab_v3plus --backbone-weights none --input-size 64,48 --input-size-target 64,48 "
    "--select-iterations 2,4 --budget 10% --query-pictures 1 --output-stride 16 --source-order shuffled"
)
_MADA_NETWORK = (
    f"{_LOOP} --network mada_v3plus --input-size 64,48 --input-size-target 64,48 --crop-size 48,32"
)
_MADA = (
    f"{_MADA_NETWORK} --method mada --input-size-active 64,48 --scaled-width 64 --scale-range 0.9,1.2 "
    "--stage-steps 3,3 --num-anchors 2 --budget 40% --query-pictures 1 --allow-absent-classes"
)
_RANDOM = "--backbone-weights none"
_STAGE_TWO = "--lambda-adv-target1 0 --lambda-adv-target2 0"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to train: its script and what makes it this one."""

    script: str
    words: str
    start: str = ""  # file of the data root that it starts from, as "--option=name"


KINDS: Mapping[str, Kind] = {
    "source": Kind("train_source", f"{_MRNET} {_RANDOM}"),
    "mrnet": Kind(
        "train_ms",
        f"{_MRNET} {_RANDOM} --class-balance --often-balance --only-hard-label 50 --lambda-kl-target 0.1 "
        "--target-terms-start 2",
    ),
    "rectified": Kind("train_ft", f"{_MRNET} {_STAGE_TWO}", "--restore-from=stage_one"),
    "ripu": Kind("train_al", f"--method ripu {_ACTIVE}"),
    "dwaca": Kind("train_al", f"--method dwaca --dropout-period 3 {_ACTIVE}"),
    "mada": Kind("train_al", _MADA, "--restore-from=warm_up"),
    "warm_up": Kind("train_source", f"{_MADA_NETWORK} {_RANDOM} --batch-norm sync"),
    "daformer": Kind("train_st", "--method daformer"),
    "dida": Kind(
        "train_st", "--method dida --bank-update-every 2 --bank-momentum 0.9", "--instance-bank=bank"
    ),
}


def write_data(root: Path) -> Path:
    """All that the runs read: both domains, statistics, ImageNet weights, a bank, stage I and its labels,
    a warm-up."""
    write_gta5(root, 8, SIZE)
    write_cityscapes(root, TARGETS, SIZE)
    write_cityscapes(root, 2, SIZE, split="val")
    toy_self_training.write_statistics(root)
    torch.manual_seed(0)
    write_bank(root / "bank", torch.rand(38, 16), torch.arange(38) % 19)
    words = command("mrnet", root, root / "stage_one", "--num-steps-stop", "2")
    assert train_ms.main(words) == 0
    assert run("warm_up", root, root / "warm_up", "--num-steps-stop", "2") == 0
    device = ["--data-root", str(root), "--device", "cpu"]
    assert generate_plabel.main(["--restore-from", str(root / "stage_one"), *device]) == 0
    return root


def command(kind: str, data: Path, folder: Path, *words: object) -> list[str]:
    """The words of a run of this kind into a folder; later words win."""
    chosen = KINDS[kind]
    own = chosen.words.split()
    if chosen.start:
        option, name = chosen.start.split("=")
        own += [option, str(data / name)]
    if chosen.script == "train_st":
        loop = f"--num-steps-stop {ITERATIONS} --save-every 2 --keep-snapshots 20 --droprate 0.5".split()
        return toy_self_training.command(data, folder, *loop, *own, *words)
    return [*own, "--data-root", str(data), "--snapshot-dir", str(folder), *map(str, words)]


def run(kind: str, data: Path, folder: Path, *words: object) -> int:
    """Trains in this process; the exit code."""
    return importlib.import_module(KINDS[kind].script).main(command(kind, data, folder, *words))


def finished_state(folder: Path) -> dict[str, Any]:
    """The last snapshot of a run that is done, without what names files and folders."""
    assert (folder / DONE).exists()
    assert not (folder / PREEMPTED).exists()
    state = snapshots.read(snapshots.resolve(folder))
    assert state["iteration"] == ITERATIONS
    return {name: value for name, value in state.items() if name != "arguments"}


def copied(source: Path, folder: Path) -> Path:
    """A copy of a folder; `cp -r`."""
    shutil.copytree(source, folder)
    return folder
