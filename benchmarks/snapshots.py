"""Snapshots at the published sizes: megabytes, seconds, share of training; and how soon a run stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Result, compare
from networks import NetworkSpec, build
from utils import snapshots

REPOSITORY = Path(__file__).resolve().parents[1]
STOPS = 5  # runs that are stopped


@dataclass(frozen=True, slots=True)
class Setting:
    """One published run.

    Attributes:
        name: of the method and network.
        spec: architecture and backbone.
        teachers: networks of the same size that are stored beside the student.
        moments: numbers an optimizer keeps per weight.
        save_every: iterations between snapshots.
    """

    name: str
    spec: tuple[str, str]
    teachers: int
    moments: int
    save_every: int

    def state(self) -> dict[str, Any]:
        """A snapshot of this size."""
        with torch.device("meta"):
            shapes = {
                name: t.shape for name, t in build(NetworkSpec(*self.spec, 19, "any")).state_dict().items()
            }
        copies = ["weights", *(f"teacher {n}" for n in range(self.teachers))]
        copies += [f"moment {n}" for n in range(self.moments)]
        filled = {copy: {name: torch.rand(shape) for name, shape in shapes.items()} for copy in copies}
        return {"format_version": snapshots.FORMAT_VERSION, "network": {}, **filled}


SETTINGS = (
    Setting("MRNet, ResNet-101, SGD", ("deeplab_two_head", "resnet101_caffe"), 0, 1, 5000),
    Setting("RIPU, DeepLab-V3+ on ResNet-101, SGD", ("deeplab_v3plus", "resnet101"), 0, 1, 2000),
    Setting("DAFormer, MiT-B5, teacher, AdamW", ("daformer", "mit_b5"), 1, 2, 1600),
)


def run() -> list[Result]:
    """A snapshot that survives a power cut, against torch.save to the final name."""
    state = SETTINGS[0].state()
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Path(folder) / "plain.pth", Path(folder) / "ours.pth"
        result = compare(
            "snapshot, MRNet on ResNet-101",
            lambda: torch.save(state, plain),
            lambda: snapshots.save(ours, state),
            repeats=2,
            note="temporary name, flushed to the disk, renamed; plain: none of that",
        )
    return [result]


def table() -> str:
    """Size, times and share of each setting, then the time from a stop signal to the exit."""
    lines = [
        "| snapshot | MiB | write s | read s | every | share at 1 s per iteration | 1 % is reached at |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for setting in SETTINGS:
        state = setting.state()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "snapshot.pth"
            write_s = min(
                _seconds(lambda path=path, state=state: snapshots.save(path, state)) for _ in range(2)
            )
            read_s = _seconds(lambda path=path: snapshots.read(path))
            size = path.stat().st_size / 2**20
        share = write_s / setting.save_every
        lines.append(
            f"| {setting.name} | {size:.0f} | {write_s:.2f} | {read_s:.2f} | {setting.save_every} "
            f"| {share:.3%} | {100 * share:.3f} s per iteration |"
        )
    times = sorted(stop_times())
    return "\n".join(lines) + (
        f"\n\nFrom SIGTERM to the exit of a small run (ResNet-18 / 4, iterations of about 0.1 s): median "
        f"{times[len(times) // 2]:.2f} s of {len(times)}, {times[0]:.2f} to {times[-1]:.2f} s."
    )


def stop_times() -> list[float]:
    """Seconds from the signal to the exit of a run on drawn images, the snapshot included."""
    from tests.official_formats import write_cityscapes, write_gta5
    from tests.reliability.tiny_runs import command

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_gta5(root, 8, (96, 64))
        write_cityscapes(root, 5, (96, 64))
        words = ["--num-steps", "100000", "--num-steps-stop", "100000", "--save-every", "100000"]
        return [
            _stopped(
                ["train_ms.py", *command("mrnet", root, root / f"run{number}", *words)], root / f"run{number}"
            )
            for number in range(STOPS)
        ]


def _stopped(program: list[str], folder: Path) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, *program], cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL
    )
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        time.sleep(0.02)
    start = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    code = process.wait()
    assert code == 0, f"the run ended with {code}"
    assert (folder / "PREEMPTED").exists(), "the run was over before the signal came"
    return time.perf_counter() - start


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
