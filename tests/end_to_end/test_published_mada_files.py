"""Published checkpoints of MADA: evaluate.py scores them, predict.py labels images with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import predict
from tests.official_formats import mada_checkpoint, write_cityscapes

SIZE = (64, 48)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_cityscapes(root, 2, SIZE, labelled=False)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mada") / "from_gta5_to_cityscapes_on_deeplab101_best_model.pkl"
    torch.save(mada_checkpoint(), path, _use_new_zipfile_serialization=False)
    return path


def test_a_mada_checkpoint_is_scored_by_its_own_protocol(
    data: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    words = [checkpoint, "--target", "cityscapes", "--base-size", "64,32", "--data-root", data]
    assert evaluate.main([*map(str, [*words, "--device", "cpu", "--json", scores])]) == 0
    assert "mada-cityscapes (64x32)" in capsys.readouterr().out
    content = json.loads(scores.read_text())
    assert content["classes"] == "cityscapes19"
    run = content["runs"][0]
    assert run["iteration"] == 36_000
    assert (run["protocol"]["upsampled"], run["protocol"]["resampling"]) == ("logits", "pillow_bilinear")
    assert sum(map(sum, run["confusion"])) == 2 * SIZE[0] * SIZE[1]


def test_a_mada_checkpoint_labels_images(data: Path, checkpoint: Path, tmp_path: Path) -> None:
    images = data / "cityscapes" / "leftImg8bit" / "train"
    words = [images, "--restore-from", checkpoint, "--output-dir", tmp_path / "out"]
    words += ["--protocol", "mada", "--write", "labels", "--device", "cpu"]
    assert predict.main([*map(str, words)]) == 0
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert len(written) == 2
    label = np.asarray(Image.open(written[0]))
    assert label.shape == (SIZE[1], SIZE[0])
    assert label.max() < 19
