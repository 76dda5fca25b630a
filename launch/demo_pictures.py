"""Pictures of the demo, side by side: image, truth, every prediction, and the uncertainty of the last run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from data_loaders.decoding import map_label, read_image, read_raw_label
from data_loaders.description import load_description
from data_loaders.discovery import find_files
from networks.loading import load_network
from trainers.evaluation import doubt_maps
from trainers.inference import Prediction, Predictor, evaluation_mode
from trainers.protocols import choose_protocol
from utils.class_spaces import class_space
from utils.pictures import colorize, contact_sheet, heat_map, legend, write_png


def write_comparison(
    folder: Path, data_root: Path, runs: Mapping[str, Path], *, count: int = 4
) -> list[Path]:
    """Draws evenly spread validation images of the demo's camera domain, one row each, on one sheet.

    Args:
        folder: where `comparison.png` and `classes.png` go.
        data_root: of the demo city.
        runs: run folders by title, in the order of the columns; the uncertainty is the last one's.
        count: rows.

    Returns:
        The two files.
    """
    files = find_files(
        load_description("cityscapes"), split="val", root=None, data_root=data_root, labels="required"
    )
    space = class_space("cityscapes19")
    table = files.description.label_table(space.name)
    step = max(1, len(files.items) // count)
    chosen = files.items[::step][:count]
    images = [read_image(item.image) for item in chosen]
    predictions = {title: _predict(run, images) for title, run in runs.items()}
    rows = []
    for number, item in enumerate(chosen):
        image = images[number]
        truth = map_label(read_raw_label(item.label, files.description.label_encoding), table)
        row = [image, colorize(truth, space.palette)]
        row += [colorize(found[number].label.numpy(), space.palette) for found in predictions.values()]
        last = list(predictions.values())[-1][number]
        rows.append([*row, heat_map(doubt_maps(last)["uncertainty"], low=0, high=1)])
    folder.mkdir(parents=True, exist_ok=True)
    sheet, classes = folder / "comparison.png", folder / "classes.png"
    write_png(sheet, contact_sheet(rows, titles=["image", "truth", *runs, "uncertainty of the last"]))
    write_png(classes, legend(space.class_names, space.palette))
    return [sheet, classes]


def _predict(run: Path, images: list[np.ndarray]) -> list[Prediction]:
    loaded = load_network(run)
    protocol = choose_protocol(None, evaluation=loaded.evaluation, target=None)
    predictor = Predictor(loaded.network, protocol, device=torch.device("cpu"))
    with evaluation_mode(loaded.network):
        return [predictor.predict(image) for image in images]
