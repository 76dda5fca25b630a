"""MADA's selection of images: everything after the forward of the network, against the forward.

"Plain" is the forward and "ours" what follows it, both for one image: its vector and entropy, its share of
writing parts, of joining them to one matrix, of scoring all images and of choosing the best.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Result
from networks import build
from networks.spec import NetworkSpec
from selection.image_distance import image_scores, select_images
from selection.vector_folder import VectorFolder
from trainers.description import PART_IMAGES, described

IMAGES, CHOSEN = 2975, 148  # Cityscapes at 5 %
CLASSES, CHANNELS, ANCHORS = 19, 256, 10
SIZE, GRID = (1024, 2048), (256, 512)
SMALLER = 4  # the forward is measured on an image with so many times fewer pixels, on the CPU
BLOCK = 8  # side of the squares that predictions consist of


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one; aim: a ratio above 100."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [_compare_on(torch.device(device)) for device in devices]


def _compare_on(device: torch.device) -> Result:
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        forward = _forward_s(device)
        image = _describing_s(device)
        rest, words = _rest_s(Path(folder))
    after = image + rest / IMAGES
    measured = (
        f"measured at 1/{SMALLER} of the pixels, FLOPs x {SMALLER}"
        if device.type == "cpu"
        else "measured whole"
    )
    note = (
        f"per image of {SIZE[1]}x{SIZE[0]}: forward of mada_v3plus ({measured}) against all that follows, "
        f"{100 * after / forward:.2f} %; aim under 1 %; vector and entropy {1000 * image:.1f} ms; {words}"
    )
    return Result(f"image selection, {device.type}", forward, after, note)


def _forward_s(device: torch.device) -> float:
    """Seconds of one forward of a whole image; a convolutional network's operations go with the pixels."""
    network = build(NetworkSpec("mada_v3plus", "resnet101", CLASSES, "cityscapes19", {})).eval().to(device)
    smaller = SMALLER if device.type == "cpu" else 1
    side = round(smaller**0.5)
    image = torch.zeros(1, 3, SIZE[0] // side, SIZE[1] // side, dtype=torch.uint8, device=device)
    return smaller * _best_s(lambda: network(image).logits, device, repeats=2)


def _describing_s(device: torch.device) -> float:
    """Seconds for the vector and the entropy of one image."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, CHANNELS, *GRID, generator=generator).relu().to(device)
    blocks = torch.randn(1, CLASSES, *(side // BLOCK for side in GRID), generator=generator)
    logits = blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3).to(device)
    return _best_s(lambda: described(features, logits, None)[0], device, repeats=5)


def _rest_s(folder: Path) -> tuple[float, str]:
    """Seconds for all images of what the host does once they are described, and its parts in words."""
    random = np.random.default_rng(0)
    vectors = random.random((PART_IMAGES, CLASSES, CHANNELS), np.float32)
    anchors = torch.rand(ANCHORS, CLASSES, CHANNELS, generator=torch.Generator().manual_seed(0))
    cache = VectorFolder(folder / "vectors")
    cache.begin({"count": IMAGES, "classes": CLASSES, "channels": CHANNELS})
    times = [time.perf_counter()]
    for start in range(0, IMAGES, PART_IMAGES):
        positions = np.arange(start, min(start + PART_IMAGES, IMAGES))
        entropies = random.random(len(positions))
        cache.write_part(positions, vectors[: len(positions)], entropies)
    times.append(time.perf_counter())
    cache.assemble()
    times.append(time.perf_counter())
    select_images(image_scores(cache.vectors(), anchors).values, CHOSEN)
    times.append(time.perf_counter())
    parts, joining, choosing = np.diff(times)
    words = f"parts {parts:.2f} s, joining {joining:.2f} s, choosing {choosing:.2f} s for {IMAGES} images"
    return times[-1] - times[0], words


def _best_s(call: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """Best time of some calls after a first one, to the end of what they start on a device."""

    def seconds() -> float:
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds()
    return min(seconds() for _ in range(repeats))
