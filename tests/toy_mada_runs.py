"""Command lines of MADA on drawn pictures, and the warmed-up network that they start from."""

from __future__ import annotations

import shlex
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from data_loaders.decoding import map_label, read_image, read_raw_label
from data_loaders.description import load_description
from networks import NetworkSpec, build
from networks.segmentation import SegmentationNetwork
from tests.official_formats import write_cityscapes, write_gta5
from tests.toy_cityscapes import write_snapshot
from utils.maths import upsample

SIZE = (64, 48)  # W, H
SOURCE_IMAGES = 8
IMAGES = 5  # of the target
BOUGHT = 2  # of them, 40 % rounded down
ANCHORS = 2
CLASSES = 19
CHANNELS = 8
STEPS = (2, 2)
SETTINGS = shlex.split(
    f"--method mada --network mada_v3plus --backbone resnet18_quarter --head-channels {CHANNELS} "
    "--input-size 64,48 --input-size-active 64,48 --input-size-target 64,48 --scaled-width 64 "
    "--scale-range 0.9,1.2 --crop-size 48,32 --batch-size 2 --learning-rate 0.001 --num-steps 20 "
    f"--stage-steps {','.join(map(str, STEPS))} --num-anchors {ANCHORS} --budget 40% --num-workers 0 "
    "--log-every 1 --evaluate-every 1 --save-every 10 --query-pictures 1 --device cpu"
)
QUIET = ["--no-tensorboard", "--evaluate-every", "0", "--query-pictures", "0"]


def draw_data(root: Path, *, labelled: bool = True) -> Path:
    """Images of GTA5 in which `lively_network()` finds every class, of Cityscapes, and two to score.

    The labels of the training images of Cityscapes may be left out.
    """
    write_gta5(root, SOURCE_IMAGES, SIZE)
    _label_as_predicted(root / "gta5")
    write_cityscapes(root, IMAGES, SIZE, labelled=labelled)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


def truth_of(data: Path, name: str) -> np.ndarray:
    """(H, W) train ids of a training image of Cityscapes."""
    path = data / "cityscapes" / "gtFine" / "train" / name.replace("leftImg8bit", "gtFine_labelIds")
    return map_label(
        read_raw_label(path, "index"), load_description("cityscapes").label_table("cityscapes19")
    )


def _label_as_predicted(folder: Path) -> None:
    """Random labels agree with a prediction on too few pixels to count as a class."""
    table = load_description("gta5").label_table("cityscapes19")
    raw_ids = np.array([np.flatnonzero(table == index)[0] for index in range(CLASSES)], np.uint8)
    network = lively_network()
    for path in sorted((folder / "labels").iterdir()):
        image = torch.from_numpy(read_image(folder / "images" / path.name)).permute(2, 0, 1)
        with torch.no_grad():
            classes = network(image[None]).logits[0].argmax(0).numpy()
        label = Image.fromarray(cv2.resize(raw_ids[classes], SIZE, interpolation=cv2.INTER_NEAREST))
        with Image.open(path) as drawn:
            label.putpalette(drawn.getpalette())
        label.save(path)


def lively_network(
    num_classes: int = CLASSES, class_space: str = "cityscapes19", *, never: int | None = None
) -> SegmentationNetwork:
    """Not trained, but it predicts all classes about equally often in noise; never the one of this index."""
    torch.manual_seed(0)
    options = {"head_channels": CHANNELS}
    network = build(NetworkSpec("mada_v3plus", "resnet18_quarter", num_classes, class_space, options)).eval()
    classifier = network.decoder.last_conv[-1]
    noise = torch.randint(0, 256, (8, 3, SIZE[1] // 4, SIZE[0] // 4), dtype=torch.uint8)
    noise = upsample(noise.float(), SIZE[::-1])
    with torch.no_grad():
        deviation, mean = torch.std_mean(network(noise).logits, (0, 2, 3))
        classifier.weight.mul_(3 / deviation[:, None, None, None])
        classifier.bias.copy_(-3 * mean / deviation)
        for _ in range(20):
            predicted = network(noise).logits.argmax(1).flatten()
            share = predicted.bincount(minlength=num_classes) / len(predicted)
            classifier.bias.sub_(10 * (share - 1 / num_classes))
        if never is not None:
            classifier.bias[never] = -1000
    return network


def warmed_up(
    path: Path, num_classes: int = CLASSES, class_space: str = "cityscapes19", *, never: int | None = None
) -> Path:
    """A snapshot of `lively_network` to restore from."""
    return write_snapshot(path, lively_network(num_classes, class_space, never=never))


def command(data: Path, start: Path | None, folder: Path | str, *words: object) -> list[str]:
    """A run in `folder` that starts from the snapshot `start`; later words win."""
    restore = [] if start is None else ["--restore-from", str(start)]
    places = ["--data-root", str(data), "--snapshot-dir", str(folder)]
    return [*SETTINGS, *restore, *places, *map(str, words)]
