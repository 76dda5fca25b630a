"""MADA's warm-up on drawn pictures: source only, adversarial training, stage II, all with MADA's network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import evaluate
import generate_plabel
import train_ft
import train_ms
import train_source
from networks.loading import load_network
from tests.official_formats import write_cityscapes, write_gta5

SIZE = (64, 48)
COMMON = [
    *("--network", "mada_v3plus", "--backbone", "resnet18_quarter", "--head-channels", "8"),
    *("--input-size", "64,48", "--input-size-target", "64,48", "--crop-size", "48,32"),
    *("--batch-size", "2", "--num-steps-stop", "2", "--num-workers", "0", "--log-every", "1"),
    *("--device", "cpu", "--protocol", "mada", "--train-bn", "--optimizer", "sgd-plain"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 4, SIZE)
    write_cityscapes(root, 4, SIZE, labelled=False)
    write_cityscapes(root, 1, SIZE, split="val")
    return root


@pytest.fixture(scope="module")
def warm_up(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train_source.py and, from its weights, one of train_ms.py."""
    root = tmp_path_factory.mktemp("runs")
    assert train_source.main(words(data, root / "source", "--backbone-weights", "none")) == 0
    assert train_ms.main(words(data, root / "ms", "--restore-from", str(root / "source"))) == 0
    return root


def words(data: Path, folder: Path, *further: str) -> list[str]:
    return [*COMMON, "--data-root", str(data), "--snapshot-dir", str(folder), *further]


def terms(folder: Path) -> set[str]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name for line in lines for name in line if name.startswith("loss/")}


def test_warm_up_trains_one_head_against_one_discriminator(warm_up: Path) -> None:
    assert terms(warm_up / "source") == {"loss/seg_main"}
    assert terms(warm_up / "ms") == {"loss/seg_main", "loss/adv_main", "loss/D_main", "loss/D_penalty"}


def test_snapshots_are_of_madas_network_and_remember_its_protocol(
    warm_up: Path, data: Path, tmp_path: Path
) -> None:
    loaded = load_network(warm_up / "ms")
    assert (loaded.spec.architecture, loaded.spec.options["output_stride"]) == ("mada_v3plus", 16)
    table = tmp_path / "scores.json"
    call = [str(warm_up / "ms"), "--data-root", str(data), "--device", "cpu", "--json", str(table)]
    assert evaluate.main(call) == 0
    assert "mada" in table.read_text()


def test_pseudo_labels_of_one_head_train_plainly_but_cannot_be_rectified(
    warm_up: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["--restore-from", str(warm_up / "ms")]
    labels = ["--pseudo-label-dir", str(tmp_path / "labels")]
    assert generate_plabel.main([*start, *labels, "--data-root", str(data), "--device", "cpu"]) == 0
    plain = words(data, tmp_path / "plain", *start, *labels, "--pseudo-label-loss", "plain")
    assert train_ft.main(plain) == 0
    capsys.readouterr()
    assert train_ft.main(words(data, tmp_path / "rectified", *start, *labels)) == 2
    assert "--pseudo-label-loss rectified weighs pixels" in capsys.readouterr().err
    assert not (tmp_path / "rectified").exists()


def test_memory_regularisation_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    further = ["--backbone-weights", "none", "--lambda-kl-target", "0.1", "--target-terms-start", "0"]
    assert train_ms.main(words(data, tmp_path / "run", *further)) == 2
    error = capsys.readouterr().err
    assert "--lambda-kl-target 0.1" in error
    assert "--network mada_v3plus has one" in error
    assert not (tmp_path / "run").exists()
