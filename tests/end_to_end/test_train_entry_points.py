"""The whole pipeline on drawn pictures: source only, stage I, pseudo labels, both stages II, evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

import evaluate
import generate_plabel
import train_ft
import train_ms
import train_source
from networks.loading import load_network
from tests.official_formats import write_cityscapes, write_gta5
from utils import snapshots
from utils.runs import ARGUMENTS_FILE, DONE, PREEMPTED

SIZE = (64, 48)
NETWORK = ["--backbone", "resnet18_quarter", "--head-channels", "8", "--bottleneck-channels", "8"]
COMMON = [
    *NETWORK,
    *("--input-size", "64,48", "--input-size-target", "64,48", "--crop-size", "48,32"),
    *("--batch-size", "2", "--num-steps", "20", "--num-steps-stop", "4", "--num-workers", "0"),
    *("--log-every", "1", "--save-every", "2", "--pictures-every", "4", "--device", "cpu"),
]
RANDOM = ["--backbone-weights", "none"]
SEGMENTATION = {"loss/seg_main", "loss/seg_aux"}
ADVERSARIAL = {"loss/adv_main", "loss/adv_aux", "loss/D_main", "loss/D_aux", "loss/D_penalty"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled source, target training images without a label folder, two labelled target images to score."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 12, SIZE)
    write_cityscapes(root, 8, SIZE, labelled=False)
    write_cityscapes(root, 2, SIZE, split="val")
    assert not (root / "cityscapes" / "gtFine" / "train").exists()
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `source`, `ms`, `rectified` and `plain`, made one after the other."""
    root = tmp_path_factory.mktemp("runs")
    train(train_source, data, root / "source", *RANDOM, "--evaluate-every", "2")
    memory = ["--lambda-kl-target", "0.1", "--target-terms-start", "2"]
    train(train_ms, data, root / "ms", *RANDOM, *memory)
    restored = ["--restore-from", str(root / "ms")]
    labels = [*restored, "--data-root", str(data), "--device", "cpu"]
    assert generate_plabel.main(labels) == 0
    rest = ["--lambda-adv-target1", "0", "--lambda-adv-target2", "0"]
    for kind in ("rectified", "plain"):
        train(train_ft, data, root / kind, *restored, *rest, "--pseudo-label-loss", kind)
    return root


def train(script: ModuleType, data: Path, folder: Path, *words: str) -> None:
    assert script.main(command(data, folder, *words)) == 0


def command(data: Path, folder: Path, *words: str) -> list[str]:
    return [*COMMON, "--data-root", str(data), "--snapshot-dir", str(folder), *words]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def terms(lines: Sequence[dict[str, float]], iteration: int) -> set[str]:
    return {
        name for line in lines if line["iteration"] == iteration for name in line if name.startswith("loss/")
    }


@pytest.mark.parametrize("name", ["source", "ms", "rectified", "plain"])
class TestRunFolder:
    def test_holds_arguments_logs_snapshots_and_the_mark(self, runs: Path, name: str) -> None:
        folder = runs / name
        record = json.loads((folder / ARGUMENTS_FILE).read_text())
        script = {"source": "train_source.py", "ms": "train_ms.py"}.get(name, "train_ft.py")
        assert record["arguments"]["script"] == script
        assert record["arguments"]["batch_size"] == 2
        assert record["starts"][0]["world_size"] == 1
        assert [line["iteration"] for line in metrics(folder) if "lr/segmentation" in line] == [1, 2, 3, 4]
        assert "iter 4/4" in (folder / "log.txt").read_text()
        assert json.loads((folder / DONE).read_text())["text"].startswith("iteration 4, target val mIoU ")
        saved = sorted(path.name for path in folder.glob("*.pth"))
        assert saved == ["iteration_0000002.pth", "iteration_0000004.pth"]
        assert snapshots.resolve(folder).name == "iteration_0000004.pth"
        assert snapshots.resolve(folder / "best").name in saved
        assert list(folder.glob("events.out.tfevents*"))
        assert not (folder / PREEMPTED).exists()

    def test_holds_pictures_of_every_stream(self, runs: Path, name: str) -> None:
        streams = ["source"] if name == "source" else ["source", "target"]
        pictures = sorted(path.name for path in (runs / name / "pictures").iterdir())
        assert pictures == [f"iteration_0000004_train_{stream}.png" for stream in streams]

    def test_measures_the_target_at_the_end(self, runs: Path, name: str) -> None:
        scored = [line for line in metrics(runs / name) if "val/miou" in line]
        assert [line["iteration"] for line in scored] == ([2, 4] if name == "source" else [4])
        assert all(0 <= line["val/miou"] <= 100 for line in scored)

    def test_snapshot_is_a_network(self, runs: Path, name: str) -> None:
        loaded = load_network(runs / name)
        assert loaded.iteration == 4
        assert loaded.spec.backbone == "resnet18_quarter"
        assert all(torch.isfinite(value).all() for value in loaded.network.state_dict().values())


class TestStages:
    def test_terms_of_each_method_are_logged(self, runs: Path) -> None:
        assert terms(metrics(runs / "source"), 4) == SEGMENTATION
        stage_one = metrics(runs / "ms")
        assert terms(stage_one, 2) == SEGMENTATION | ADVERSARIAL
        assert terms(stage_one, 3) == SEGMENTATION | ADVERSARIAL | {"loss/kl"}
        assert terms(metrics(runs / "rectified"), 4) == SEGMENTATION
        assert terms(metrics(runs / "plain"), 4) == SEGMENTATION

    def test_stage_two_starts_from_the_weights_of_stage_one(self, runs: Path) -> None:
        weights = {
            name: snapshots.read(snapshots.resolve(runs / name))["weights"] for name in ("ms", "plain")
        }
        layer = "layer1.0.conv1.weight"
        moved = (weights["plain"][layer] - weights["ms"][layer]).norm()
        assert 0 < moved < 0.5 * weights["ms"][layer].norm()

    def test_losses_of_stage_two_differ(self, runs: Path) -> None:
        weights = [
            snapshots.read(snapshots.resolve(runs / name))["weights"]["conv1.weight"]
            for name in ("rectified", "plain")
        ]
        assert not torch.equal(*weights)

    def test_all_runs_are_scored_in_one_table(
        self, runs: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folders = [str(runs / name) for name in ("source", "ms", "rectified", "plain")]
        assert evaluate.main([*folders, "--data-root", str(data), "--device", "cpu"]) == 0
        printed = capsys.readouterr().out
        for folder in folders:
            assert folder in printed
        assert "mIoU" in printed


class TestSameFolderAgain:
    def test_same_command_on_a_finished_run_trains_nothing(
        self, runs: Path, data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = runs / "ms"
        kept = ["metrics.jsonl", "iteration_0000004.pth", "last", DONE]
        before = [(folder / name).read_bytes() for name in kept]
        with caplog.at_level("INFO"):
            train(train_ms, data, folder, *RANDOM, "--lambda-kl-target", "0.1", "--target-terms-start", "2")
        assert "already done: iteration 4, target val mIoU" in caplog.text
        assert [(folder / name).read_bytes() for name in kept] == before

    @pytest.mark.parametrize(
        ("words", "named"),
        [
            (["--lambda-seg", "0.7"], "--lambda-seg 0.1 -> 0.7"),
            (["--num-steps-stop", "3"], "--num-steps-stop 4 -> 3"),
            (["--seed", "1"], "--seed 0 -> 1"),
        ],
    )
    def test_other_arguments_are_refused(
        self, runs: Path, data: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str
    ) -> None:
        folder = runs / "source"
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        arguments = command(data, folder, *RANDOM, "--evaluate-every", "2", *words)
        assert train_source.main(arguments) == 2
        assert named in capsys.readouterr().err
        assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before

    def test_later_stop_continues_as_if_it_had_been_asked_for_at_once(
        self, data: Path, tmp_path: Path
    ) -> None:
        parts, whole = tmp_path / "parts", tmp_path / "whole"
        train(train_source, data, parts, *RANDOM, "--num-steps-stop", "2", "--droprate", "0.5")
        train(train_source, data, parts, *RANDOM, "--num-steps-stop", "5", "--droprate", "0.5")
        train(train_source, data, whole, *RANDOM, "--num-steps-stop", "5", "--droprate", "0.5")
        ours, theirs = (snapshots.read(snapshots.resolve(folder)) for folder in (parts, whole))
        assert ours["iteration"] == theirs["iteration"] == 5
        assert all(torch.equal(ours["weights"][name], value) for name, value in theirs["weights"].items())
        assert [line["iteration"] for line in metrics(parts) if "lr/segmentation" in line] == [1, 2, 3, 4, 5]
        starts = json.loads((parts / ARGUMENTS_FILE).read_text())["starts"]
        assert starts[1]["changed"] == {"num_steps_stop": [2, 5]}

    def test_harmless_arguments_may_change(self, runs: Path, data: Path) -> None:
        words = [*RANDOM, "--evaluate-every", "3", "--log-every", "2", "--keep-snapshots", "3"]
        train(train_source, data, runs / "source", *words)
