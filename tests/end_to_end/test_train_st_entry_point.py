"""Self-training on drawn pictures: what each method trains on, logs and leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import evaluate
import fill_bank
import predict
import prepare_data
import train_st
from data_loaders.decoding import map_label, read_raw_label, write_label_png
from data_loaders.description import load_description
from tests.official_formats import daformer_checkpoint
from tests.toy_self_training import IMAGENET, SIZE, bank_command, command, write_domains
from trainers.bank_files import FEATURES_FILE, LABELS_FILE
from utils import snapshots
from utils.runs import ARGUMENTS_FILE, DONE

BASE = {"loss/source", "loss/mixed"}
DAFORMER = {*BASE, "loss/feature_distance"}
DIDA = {*DAFORMER, "loss/instance"}
ALL_CLASSES = ["--feature-distance-classes", ",".join(map(str, range(19)))]
DEEPLAB = [
    *("--network", "deeplab_v3plus", "--backbone", "resnet18_quarter", "--head-channels", "8"),
    *("--backbone-weights", "none", "--feature-distance-weight", "0", "--crop-size", "56,48"),
]
TWO_HEADS = [
    *("--network", "deeplab_two_head", "--backbone", "resnet18_quarter", "--bottleneck-channels", "8"),
    *("--norm-style", "gn", "--backbone-weights", "none", "--feature-distance-weight", "0"),
]
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight source images with statistics, four target images without labels, two to score."""
    root = tmp_path_factory.mktemp("data")
    write_domains(root)
    return root


@pytest.fixture(scope="module")
def train(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains with these further words, each kind once; returns the run folder."""
    root = tmp_path_factory.mktemp("runs")
    folders: dict[tuple[str, ...], Path] = {}

    def run(*words: object, data: Path = data) -> Path:
        key = tuple(map(str, (data, *words)))
        if key not in folders:
            folders[key] = root / str(len(folders))
            assert train_st.main(command(data, folders[key], *words)) == 0
        return folders[key]

    return run


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    """DAFormer with everything that a run leaves behind."""
    return train("--evaluate-every", 1, "--pictures-every", 2)


@pytest.fixture(scope="module")
def bank(run: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two instances of each class, from that run."""
    folder = tmp_path_factory.mktemp("banks") / "bank"
    assert fill_bank.main(bank_command(data, run, folder)) == 0
    return folder


def steps(folder: Path) -> list[dict[str, float]]:
    """What was logged of every iteration."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "lr/segmentation" in line]


def losses(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in line.items() if key.startswith("loss/")} for line in steps(folder)]


def state_of(folder: Path) -> dict[str, object]:
    return snapshots.read(snapshots.resolve(folder))


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    """Names of the entries that differ."""
    return [name for name, value in after.items() if not torch.equal(value, before[name])]


def scores(path: Path, data: Path, *words: str) -> dict[str, object]:
    """What evaluate.py writes about one file."""
    table = path.parent / "scores.json"
    places = ["--data-root", str(data), "--device", "cpu", "--json", str(table)]
    assert evaluate.main([str(path), *places, *words]) == 0
    return json.loads(table.read_text())["runs"][0]


class TestDAFormer:
    def test_folder_holds_arguments_logs_snapshots_pictures_and_the_mark(self, run: Path) -> None:
        arguments = json.loads((run / ARGUMENTS_FILE).read_text())["arguments"]
        assert (arguments["script"], arguments["method"]) == ("train_st.py", "daformer")
        in_force = {"ema_decay": 0.999, "feature_distance_weight": 0.005, "rare_class_sampling": True}
        assert {name: arguments[name] for name in in_force} == in_force
        assert json.loads((run / DONE).read_text())["text"].startswith("iteration 2, target val mIoU ")
        assert {path.name for path in run.glob("*.pth")} >= {"iteration_0000002.pth"}
        drawn = {path.name for path in (run / "pictures").iterdir()}
        assert drawn == {f"iteration_0000002_train_{name}.png" for name in ("domains", "mixture")}

    def test_terms_of_the_method_are_logged(self, run: Path) -> None:
        assert [set(line) for line in losses(run)] == [DAFORMER] * 2
        for line in steps(run):
            assert line["loss/source"] > 1
            assert 0 <= line["pseudo/confident_share"] <= 1
            assert {"accuracy/source", "accuracy/mixed"} <= set(line)

    def test_student_and_teacher_part_and_both_are_scored(self, run: Path, data: Path) -> None:
        state = state_of(run)
        assert state["method"] == "daformer"
        assert state["teacher_updates"] == 2
        assert changed(state["weights"], state["teacher"])
        student, teacher = scores(run, data), scores(run, data, "--weights", "teacher")
        assert student["protocol"]["name"] == "daformer"
        assert student["protocol"]["base_size"] == list(SIZE)
        assert student["mIoU"] == pytest.approx(state["metrics"]["val/miou"], abs=1e-9)
        assert student["confusion"] != teacher["confusion"]

    def test_snapshot_keeps_a_digest_of_the_imagenet_backbone(self, run: Path) -> None:
        reference = state_of(run)["method_state"]["reference"]
        assert {name: value.shape for name, value in reference.items()} == {"digest": (32,)}

    @pytest.mark.parametrize("weights", ["student", "teacher"])
    def test_snapshot_predicts(self, run: Path, data: Path, tmp_path: Path, weights: str) -> None:
        images = data / "cityscapes" / "leftImg8bit" / "val"
        words = [
            "--restore-from",
            run,
            "--output-dir",
            tmp_path / "out",
            "--device",
            "cpu",
            "--weights",
            weights,
        ]
        assert predict.main([str(images), *map(str, words)]) == 0
        label = tmp_path / "out" / "aachen" / "aachen_000001_000019_leftImg8bit.png"
        assert read_raw_label(label, "index").shape == SIZE[::-1]

    def test_finished_run_prints_its_result_again(
        self, run: Path, data: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (run / "metrics.jsonl").read_text()
        snapshot = snapshots.resolve(run).stat().st_mtime_ns
        words = command(data, run, "--evaluate-every", 1, "--pictures-every", 2)
        capsys.readouterr()
        assert train_st.main(words) == 0
        printed = "".join(capsys.readouterr())
        assert json.loads((run / DONE).read_text())["text"] in printed
        assert (run / "metrics.jsonl").read_text() == before
        assert snapshots.resolve(run).stat().st_mtime_ns == snapshot

    def test_later_stop_continues(self, run: Path, data: Path, tmp_path: Path) -> None:
        shutil.copytree(run, tmp_path / "run")
        words = command(data, tmp_path / "run", "--evaluate-every", 1, "--num-steps-stop", 3)
        assert train_st.main(words) == 0
        assert [line["iteration"] for line in steps(tmp_path / "run")] == [1, 2, 3]
        assert state_of(tmp_path / "run")["teacher_updates"] == 3

    def test_distance_grows_with_the_backbone(self, train: Train) -> None:
        lines = losses(train(*ALL_CLASSES, "--feature-distance-min-share", 0.1, "--learning-rate", 0.01))
        assert lines[1]["loss/feature_distance"] > 0.1

    def test_starts_from_the_teacher_of_another_run(self, run: Path, train: Train, data: Path) -> None:
        start = ("--restore-from", run, "--backbone-weights", data / IMAGENET, "--learning-rate", 1e-12)
        teacher = state_of(run)["teacher"]
        weights = state_of(train(*start, "--restore-weights", "teacher"))["weights"]
        name = "decode_head.conv_seg.weight"
        assert torch.allclose(weights[name], teacher[name], rtol=0, atol=1e-9)
        assert not torch.allclose(state_of(train(*start))["weights"][name], teacher[name], rtol=0, atol=1e-9)


class TestParts:
    @pytest.mark.parametrize(
        ("words", "terms"),
        [
            (["--method", "dacs"], BASE),
            (["--feature-distance-weight", 0], BASE),
            (["--mix", "none", "--no-blur", "--jitter-threshold", 1], DAFORMER),
            (["--no-rare-class-sampling"], DAFORMER),
            (["--masked-consistency", "--mask-block", 16, "--pictures-every", 2], {*DAFORMER, "loss/masked"}),
            (["--teacher-buffers", "copied", "--teacher-augmentation"], DAFORMER),
        ],
        ids=["dacs", "no distance", "no mixing", "uniform", "masked", "teacher"],
    )
    def test_switch_one_by_one(self, train: Train, words: list[object], terms: set[str]) -> None:
        folder = train(*words)
        assert [set(line) for line in losses(folder)] == [terms] * 2
        assert all(np.isfinite(value) for line in losses(folder) for value in line.values())

    @pytest.mark.parametrize(
        ("words", "warned"),
        [
            (DEEPLAB, True),  # frozen scales everywhere
            ([*TWO_HEADS, "--batch-norm", "frozen"], True),  # and GroupNorm in the heads
            (TWO_HEADS, False),
        ],
        ids=["affine", "frozen", "local"],
    )
    def test_teacher_buffers_that_cannot_differ_are_warned_about(
        self, train: Train, caplog: pytest.LogCaptureFixture, words: list[str], warned: bool
    ) -> None:
        caplog.clear()
        train(*words, "--teacher-buffers", "copied", "--num-steps-stop", 1)
        assert ("--teacher-buffers copied has no effect" in caplog.text) is warned

    def test_dacs_has_its_own_values(self, train: Train) -> None:
        arguments = json.loads((train("--method", "dacs") / ARGUMENTS_FILE).read_text())["arguments"]
        values = {"ema_decay": 0.99, "rare_class_sampling": False, "feature_distance_weight": 0.0}
        assert {name: arguments[name] for name in values} == values

    def test_masked_images_are_pictured(self, train: Train) -> None:
        folder = train("--masked-consistency", "--mask-block", 16, "--pictures-every", 2)
        assert (folder / "pictures" / "iteration_0000002_train_masked.png").is_file()

    def test_uniform_sampling_needs_no_statistics(self, train: Train, data: Path, tmp_path: Path) -> None:
        other = tmp_path / "data"
        shutil.copytree(data, other, ignore=shutil.ignore_patterns("sample_*", "samples_*", "*.p"))
        uniform = train("--no-rare-class-sampling")
        assert losses(train("--no-rare-class-sampling", data=other)) == losses(uniform)
        assert losses(uniform) != losses(train())


class TestOtherNetworks:
    def test_deeplab(self, train: Train, data: Path) -> None:
        folder = train(*DEEPLAB)
        assert [set(line) for line in losses(folder)] == [BASE] * 2
        assert scores(folder, data)["mIoU"] == pytest.approx(
            state_of(folder)["metrics"]["val/miou"], abs=1e-9
        )

    def test_auxiliary_head_learns_from_every_image(self, train: Train) -> None:
        folder = train(*TWO_HEADS, "--masked-consistency", "--lambda-seg", 0.5)
        terms = {*BASE, "loss/masked"}
        assert set(losses(folder)[0]) == {*terms, *(f"{term}_aux" for term in terms)}

    def test_bank_fits_a_deeplab_too(self, train: Train) -> None:
        words = ("--method", "dida", "--instance-bank", "fill", "--bank-fill-at", 1, "--bank-size", 38)
        assert "loss/instance" in losses(train(*DEEPLAB, *words))[1]


class TestDida:
    def test_bank_is_read_updated_and_saved(self, train: Train, bank: Path) -> None:
        folder = train("--method", "dida", "--instance-bank", bank)
        assert [set(line) for line in losses(folder)] == [DIDA] * 2
        assert steps(folder)[0]["bank/norm_mean"] > 0
        state = state_of(folder)
        assert state["method"] == "dida"
        saved = state["method_state"]["instance_bank"]
        features, labels = (np.load(bank / name)["arr_0"] for name in (FEATURES_FILE, LABELS_FILE))
        assert np.array_equal(saved["labels"].numpy(), labels)
        assert np.allclose(saved["features"].numpy(), features, atol=0.01 * features.max())
        assert not np.array_equal(saved["features"].numpy(), features)

    def test_classes_and_norms_of_the_bank_are_in_the_log(self, train: Train, bank: Path) -> None:
        log = (train("--method", "dida", "--instance-bank", bank) / "log.txt").read_text()
        assert "entries of the bank: road 2, sidewalk 2" in log
        assert "norms of its features: " in log

    def test_bank_is_filled_from_the_student(self, train: Train) -> None:
        fill = ("--instance-bank", "fill", "--bank-fill-at", 1, "--bank-size", 38)
        folder = train("--method", "dida", *fill, "--num-steps-stop", 3)
        assert [set(line) for line in losses(folder)] == [DAFORMER, DIDA, DIDA]
        saved = state_of(folder)["method_state"]["instance_bank"]
        assert saved["labels"].bincount(minlength=19).tolist() == [2] * 19
        assert (folder / "iteration_0000001.pth").is_file()  # a killed run continues after the filling

    def test_everything_but_the_instance_loss_is_daformer(self, train: Train, bank: Path) -> None:
        idle = train("--method", "dida", "--instance-bank", bank, "--instance-weight", 0)
        plain = train()
        assert losses(idle) == losses(plain)
        assert changed(state_of(plain)["weights"], state_of(idle)["weights"]) == []

    def test_every_switch_of_loss_and_bank_counts(self, train: Train, bank: Path) -> None:
        base = ("--method", "dida", "--instance-bank", bank)
        moving = ("--bank-momentum", 0.5)
        switches: list[tuple[object, ...]] = [
            *((), ("--calibrate", "teacher"), ("--calibrate", "none"), ("--smooth", 0.5)),
            *(moving, (*moving, "--bank-labels", "own"), (*moving, "--bank-absent", "keep")),
        ]
        found = [losses(train(*base, *words)) for words in switches]
        assert all(set(line) == DIDA for lines in found for line in lines)
        assert len({json.dumps(lines) for lines in found}) == len(switches)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the released code."""
    path = tmp_path_factory.mktemp("released") / "latest.pth"
    torch.save(daformer_checkpoint("mit_b0"), path)
    return path


class TestOriginalFiles:
    def test_checkpoint_is_scored_as_student_and_as_teacher(self, checkpoint: Path, data: Path) -> None:
        quick = ("--base-size", "192,128")
        found = [scores(checkpoint, data, *quick, "--weights", which) for which in ("student", "teacher")]
        assert [run["protocol"]["name"] for run in found] == ["daformer-cityscapes"] * 2
        assert [run["iteration"] for run in found] == [40_000] * 2
        assert found[0]["confusion"] != found[1]["confusion"]

    def test_checkpoint_predicts(self, checkpoint: Path, data: Path, tmp_path: Path) -> None:
        images = data / "cityscapes" / "leftImg8bit" / "val"
        for weights in ("student", "teacher"):
            words = ["--restore-from", checkpoint, "--output-dir", tmp_path / weights, "--device", "cpu"]
            words += ["--base-size", "192,128", "--weights", weights]
            assert predict.main([str(images), *map(str, words)]) == 0
        student, teacher = (sorted((tmp_path / name).rglob("*.png")) for name in ("student", "teacher"))
        assert len(student) == len(teacher) >= 2
        assert any(a.read_bytes() != b.read_bytes() for a, b in zip(student, teacher, strict=True))

    def test_checkpoint_starts_a_training(self, checkpoint: Path, train: Train, data: Path) -> None:
        start = ("--restore-from", checkpoint, "--backbone-weights", data / IMAGENET, "--head-channels", 256)
        folder = train(*start, "--restore-weights", "teacher")
        assert state_of(folder)["iteration"] == 2

    def test_converted_labels_train_alike(self, train: Train, data: Path, tmp_path: Path) -> None:
        other = tmp_path / "data"
        shutil.copytree(data, other, ignore=shutil.ignore_patterns("sample_*", "samples_*", "*.p"))
        table = load_description("gta5").label_table("cityscapes19")
        for path in (other / "gta5" / "labels").glob("*.png"):
            converted = map_label(read_raw_label(path, "palette"), table)
            write_label_png(path.with_name(f"{path.stem}_labelTrainIds.png"), converted)
            path.unlink()
        count = ["statistics", "gta5", "--data-root", str(other), "--num-workers", "0"]
        assert prepare_data.main(count) == 0
        assert losses(train(data=other)) == losses(train())
