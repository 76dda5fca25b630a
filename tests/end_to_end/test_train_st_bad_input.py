"""Mistakes in self-training that a user can repair: one line that names them and the remedy, exit code 2,
before anything is trained or written."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import evaluate
import fill_bank
import predict
import prepare_data
import train_st
from data_loaders.statistics import COUNTED_CLASSES, STATISTICS, STATISTICS_BY_FILE
from tests.official_formats import daformer_checkpoint, mit_imagenet_files
from tests.toy_self_training import IMAGENET, bank_command, command, mit_entries, write_domains
from trainers.bank_files import FEATURES_FILE, LABELS_FILE
from utils import distributed
from utils.distributed import World

CHANNELS, ENTRIES = 16, 38
Refused = Callable[..., str]
DIDA = ("--method", "dida", "--instance-bank", "bank")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that is as it should be, and a finished run and a bank of it."""
    root = tmp_path_factory.mktemp("drawn")
    write_domains(root)
    assert train_st.main(command(root, root / "finished", "--num-steps-stop", 1)) == 0
    write_bank(root / "bank")
    return root


@pytest.fixture
def data(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, in a working folder with the bank and nothing else."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(drawn / "bank", tmp_path / "bank")
    return Path(shutil.copytree(drawn, tmp_path / "data", ignore=shutil.ignore_patterns("finished", "bank")))


def write_bank(folder: Path, *, size: int = ENTRIES, channels: int = CHANNELS, classes: int = 19) -> None:
    """A bank in the published format."""
    folder.mkdir(exist_ok=True)
    features = np.random.default_rng(0).random((size, channels), np.float32)
    np.savez(folder / FEATURES_FILE, features)
    np.savez(folder / LABELS_FILE, np.arange(size) % classes)


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs train_st.py, or another script, which must refuse; checks what all refusals have in common."""

    def run(*expected: str, words: list[str], script: object = train_st) -> str:
        before = content_of(tmp_path)
        capsys.readouterr()
        assert script.main(words) == 2
        lines = capsys.readouterr().err.splitlines()
        errors = [line for line in lines if line.startswith("error")]
        assert errors == lines[-1:], lines
        for text in expected:
            assert text in errors[0], errors[0]
        assert content_of(tmp_path) == before
        return errors[0]

    return run


def content_of(folder: Path) -> dict[str, bytes | None]:
    """All files below a folder with their content, and all folders."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--method dida", ["--method dida needs --instance-bank", "fill_bank.py", "or fill"]),
        (
            "--method dida --instance-bank fill --bank-fill-at 1 --bank-size 18",
            ["--bank-size 18", "19 classes"],
        ),
        (
            "--method dida --instance-bank fill --bank-fill-at 2",
            ["--bank-fill-at 2", "--num-steps-stop 2", "earlier"],
        ),
        ("--method dida --instance-bank nowhere", ["nowhere", FEATURES_FILE, LABELS_FILE, "fill_bank.py"]),
        ("--method dida --instance-bank data/mit_b0.pth", ["mit_b0.pth is a checkpoint", "--restore-from"]),
        (
            "--method dida --instance-bank fill --bank-fill-at 0 --restore-from data/mit_b0.pth",
            ["--bank-fill-at 0", "untrained head", "data/mit_b0.pth holds a backbone only"],
        ),
        ("--method mada", ["--method", "mada"]),
        ("--mix cut", ["--mix", "cut"]),
        ("--smooth 1.5", ["--smooth", "1.5"]),
        ("--pseudo-threshold 2", ["--pseudo-threshold", "2"]),
        ("--mask-ratio -0.5", ["--mask-ratio", "-0.5"]),
        ("--mask-block 0", ["--mask-block", "0"]),
        ("--masked-consistency -1", ["--masked-consistency", "-1"]),
        ("--ema-decay 0", ["--ema-decay 0", "teacher", "0.999"]),
        ("--ema-decay 1", ["--ema-decay", "below 1"]),
        ("--crop-size none", ["--crop-size", "none"]),
        ("--crop-size 128,64", ["--crop-size 128,64", "source", "96x64", "--input-size 96,64"]),
        (
            "--input-size 192,128 --crop-size 128,128",
            ["--crop-size 128,128", "target", "96x64", "--input-size-target 96,64"],
        ),
        (
            "--crop-size 24,24 --feature-distance-weight 0 --ignore-bottom 0",
            ["--crop-size 24,24", "29x29", "larger"],
        ),
        ("--crop-size 64,48", ["--crop-size 64,48", "32", "mit_b0", "--feature-distance-weight 0"]),
        ("--ignore-top 60", ["--ignore-top 60", "--ignore-bottom 12", "64 rows"]),
        ("--feature-distance-classes road,tree", ["--feature-distance-classes", "'tree'", "vegetation"]),
        ("--feature-distance-classes=", ["--feature-distance-classes names no class", "things"]),
        ("--feature-distance-classes 19", ["--feature-distance-classes", "'19'", "cityscapes19"]),
        ("--backbone-weights none", ["--backbone-weights none", "--feature-distance-weight 0"]),
        ("--backbone-weights nowhere.pth", ["--backbone-weights nowhere.pth", "does not exist"]),
        ("--backbone-weights torchvision", ["torchvision has no weights", "mit_b0", "PATH"]),
        ("--backbone mit_b9", ["mit_b9", "mit_b5"]),
        ("--restore-from nowhere.pth", ["--restore-from", "nowhere.pth does not exist"]),
        ("--rare-class-temperature 0", ["--rare-class-temperature", "above 0"]),
        ("--class-statistics nowhere", ["--class-statistics", "nowhere does not exist"]),
    ],
)  # fmt: skip
def test_options(refused: Refused, data: Path, line: str, expected: list[str]) -> None:
    refused(*expected, words=command(data, "run", *line.split()))


class TestStatistics:
    def test_none(self, refused: Refused, data: Path) -> None:
        (data / "gta5" / STATISTICS).unlink()
        (data / "gta5" / STATISTICS_BY_FILE).unlink()
        line = refused(STATISTICS_BY_FILE, "is not there", "--class-statistics", words=command(data, "run"))
        ready = line.partition("python prepare_data.py ")[2].partition(" (or ")[0]
        assert prepare_data.main([*shlex.split(ready), "--num-workers", "0"]) == 0
        assert train_st.main(command(data, "run", "--num-steps-stop", 1)) == 0

    def test_damaged(self, refused: Refused, data: Path) -> None:
        (data / "gta5" / STATISTICS_BY_FILE).write_text('{"a":')
        refused(STATISTICS_BY_FILE, "prepare_data.py statistics gta5", words=command(data, "run"))

    def test_class_without_an_image(self, refused: Refused, data: Path) -> None:
        words = command(data, "run", "--rare-class-min-pixels", 1000)
        refused(
            f"gta5/{STATISTICS_BY_FILE}: no source image has more than 1000 pixels of class",
            "--rare-class-min-pixels 511",
            words=words,
        )

    def test_of_another_class_space(self, refused: Refused, data: Path) -> None:
        (data / "gta5" / COUNTED_CLASSES).write_text('{"class_space": "synthia16"}')
        refused("synthia16", "cityscapes19", "prepare_data.py statistics gta5", words=command(data, "run"))

    def test_unknown_class(self, refused: Refused, data: Path) -> None:
        self.change(data, lambda counts: {**counts, "33": 9})
        refused("class 33", "0..18", "prepare_data.py statistics gta5", words=command(data, "run"))

    def test_of_another_conversion(self, refused: Refused, data: Path) -> None:
        self.change(data, lambda counts: {key: 2 * pixels for key, pixels in counts.items()})
        refused("another conversion", "prepare_data.py statistics gta5", words=command(data, "run"))

    def test_of_other_images(self, refused: Refused, data: Path) -> None:
        for folder in ("images", "labels"):
            path = data / "gta5" / folder / "00001.png"
            path.rename(path.with_name("99999.png"))
        refused("lacks 1 of 8 source images", "99999", "prepare_data.py", words=command(data, "run"))

    @staticmethod
    def change(data: Path, altered: Callable[[dict[str, int]], dict[str, int]]) -> None:
        """Replaces the counts of every image."""
        path = data / "gta5" / STATISTICS_BY_FILE
        content = json.loads(path.read_text())
        path.write_text(json.dumps({name: altered(counts) for name, counts in content.items()}))


class TestBank:
    @pytest.mark.parametrize("missing", [FEATURES_FILE, LABELS_FILE])
    def test_without_one_of_its_files(self, refused: Refused, data: Path, missing: str) -> None:
        Path("bank", missing).unlink()
        refused(f"bank/{missing} does not exist", "fill_bank.py", words=command(data, "run", *DIDA))

    def test_damaged(self, refused: Refused, data: Path) -> None:
        Path("bank", LABELS_FILE).write_bytes(b"PK")
        refused(f"bank/{LABELS_FILE} cannot be read", words=command(data, "run", *DIDA))

    def test_of_more_classes(self, refused: Refused, data: Path) -> None:
        write_bank(Path("bank"), classes=21)
        refused("bank: labels 19, 20", "0..18", "other classes", words=command(data, "run", *DIDA))

    def test_of_negative_labels(self, refused: Refused, data: Path) -> None:
        np.savez("bank/" + LABELS_FILE, np.arange(ENTRIES) % 20 - 1)
        refused("bank: labels -1", "0..18", words=command(data, "run", *DIDA))

    def test_of_another_network(self, refused: Refused, data: Path) -> None:
        write_bank(Path("bank"), channels=256)
        refused(
            "bank", "256 channels", "network's have 16", "fill_bank.py", words=command(data, "run", *DIDA)
        )

    def test_smaller_than_the_classes(self, refused: Refused, data: Path) -> None:
        write_bank(Path("bank"), size=18)
        refused("bank: 18 entries", "19 classes", "larger bank", words=command(data, "run", *DIDA))

    def test_files_of_two_banks(self, refused: Refused, data: Path) -> None:
        np.savez("bank/" + LABELS_FILE, np.arange(ENTRIES + 1) % 19)
        refused("38 features but 39 labels", words=command(data, "run", *DIDA))

    def test_not_finite(self, refused: Refused, data: Path) -> None:
        features = np.ones((ENTRIES, CHANNELS), np.float32)
        features[3, 2] = np.nan
        np.savez("bank/" + FEATURES_FILE, features)
        refused("1 of 38 features are not finite", "entry 3", words=command(data, "run", *DIDA))


class TestStart:
    def test_distance_without_the_backbone_weights(self, refused: Refused, data: Path, drawn: Path) -> None:
        words = command(data, "run", "--restore-from", drawn / "finished")
        refused("feature distance", "finished", "--backbone-weights", words=words)

    def test_no_teacher_in_the_file(self, refused: Refused, data: Path, tmp_path: Path) -> None:
        checkpoint = daformer_checkpoint("mit_b0")
        plain = {
            n.removeprefix("model."): v for n, v in checkpoint["state_dict"].items() if n.startswith("model.")
        }
        torch.save(plain, tmp_path / "plain.pth")
        words = command(data, "run", "--restore-from", "plain.pth", "--backbone-weights", data / IMAGENET)
        words += ["--restore-weights", "teacher", "--head-channels", "256"]
        refused("plain.pth", "teacher", words=words)

    def test_teacher_of_another_architecture(self, refused: Refused, data: Path, drawn: Path) -> None:
        words = command(data, "run", "--restore-from", drawn / "finished", "--feature-distance-weight", 0)
        words += ["--restore-weights", "teacher"]
        other = ["--network", "deeplab_v3plus", "--backbone", "resnet18_quarter"]
        refused("finished", "architecture daformer", "deeplab_v3plus", words=[*words, *other])
        refused("finished", "backbone mit_b0", "mit_b1", words=[*words, "--backbone", "mit_b1"])
        refused("finished", "head_channels 16", "builds 32", words=[*words, "--head-channels", "32"])

    def test_imagenet_file_of_another_size(self, refused: Refused, data: Path) -> None:
        words = command(data, "run", "--backbone", "mit_b1")
        refused(IMAGENET, "of mit_b0", "--backbone mit_b0", "mit_b1", words=words)

    def test_imagenet_file_with_a_hole(self, refused: Refused, data: Path, tmp_path: Path) -> None:
        entries = mit_entries("mit_b0")
        del entries["block2.0.attn.q.weight"]
        torch.save({"state_dict": entries}, tmp_path / "hole.pth")
        words = command(data, "run", "--backbone-weights", "hole.pth")
        refused("hole.pth", "block2.0.attn.q.weight", words=words)

    def test_imagenet_file_of_another_kind(self, refused: Refused, data: Path, drawn: Path) -> None:
        words = command(data, "run", "--network", "deeplab_v3plus", "--backbone", "resnet18_quarter")
        refused(IMAGENET, "Mix Transformer", "resnet18_quarter", words=words)


class TestData:
    def test_no_target_images(self, refused: Refused, data: Path) -> None:
        shutil.rmtree(data / "cityscapes" / "leftImg8bit" / "train")
        refused("cityscapes, split train", "no images", words=command(data, "run"))

    def test_class_space_without_things(self, refused: Refused, data: Path) -> None:
        Path("town.toml").write_text(TOWN)
        words = command(data, "run", "--target", "town.toml", "--target-root", data / "cityscapes")
        words += ["--no-rare-class-sampling"]
        refused("town2", "things", "--feature-distance-classes", "--feature-distance-weight 0", words=words)


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def session(device: str, *, timeout_s: float) -> Iterator[World]:
        yield World(rank=0, size=2, local_rank=0, device=torch.device("cpu"))

    monkeypatch.setattr(distributed, "session", session)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.usefixtures("two_processes")
def test_batch_that_two_processes_cannot_share(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert train_st.main(command(data, "run", "--batch-size", 3)) == 2
    error = capsys.readouterr().err
    assert "error: --batch-size 3 counts the images of all processes" in error
    commands = [line for line in error.splitlines() if line.startswith("  ")]
    assert len(commands) == 2
    assert "--batch-size 4 --learning-rate 8e-05" in commands[1]
    assert not Path("run").exists()


class TestRunFolder:
    def test_other_arguments(self, refused: Refused, data: Path, drawn: Path) -> None:
        shutil.copytree(drawn / "finished", "run")
        words = command(data, "run", "--num-steps-stop", 1)
        for further, said in (
            (["--method", "dacs"], "--method daformer -> dacs"),
            (["--mix", "none"], "--mix class -> none"),
            (["--no-rare-class-sampling"], "--rare-class-sampling True -> False"),
        ):
            refused(said, "--snapshot-dir", words=[*words, *further])

    def test_other_imagenet_weights(
        self, data: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(drawn / "finished", "run")
        entries = {name: value + 1 for name, value in mit_entries("mit_b0").items()}
        torch.save(mit_imagenet_files(entries)["nvlabs"], "other.pth")
        assert train_st.main(command(data, "run", "--backbone-weights", "other.pth")) == 2
        assert "--backbone-weights holds other weights" in capsys.readouterr().err

    def test_other_statistics(self, data: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.copytree(drawn / "finished", "run")
        path = data / "gta5" / STATISTICS_BY_FILE
        content = json.loads(path.read_text())
        name = list(content)[4]  # the first and last image are counted again
        content[name] = {key: pixels + 1 for key, pixels in content[name].items()}
        path.write_text(json.dumps(content))
        assert train_st.main(command(data, "run")) == 2
        assert "source" in capsys.readouterr().err.splitlines()[-1]

    def test_bank_that_was_filled_and_is_read_now(self, refused: Refused, data: Path) -> None:
        words = command(data, "run", "--method", "dida", "--num-steps-stop", 1)
        words += ["--warm-up", "0", "--restore-from", "data/run0", "--backbone-weights", data / IMAGENET]
        assert train_st.main(command(data, "data/run0", "--num-steps-stop", 1)) == 0
        fill = ["--instance-bank", "fill", "--bank-size", "38"]
        assert train_st.main([str(word) for word in (*words, *fill)]) == 0
        bank = ["--instance-bank", "bank", "--bank-size", "38"]
        error = refused("--instance-bank fill -> bank", words=[str(word) for word in (*words, *bank)])
        assert "bank-from" not in error


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--base-size 48,24", ["--base-size 48,24 is too small", "29x29"]),
        ("--base-size 96,48 --aug-test", ["--base-size 96,48 at the smallest scale of --aug-test, 48,24,"]),
        ("--window 32,28", ["--window 32,28 is too small", "29x29"]),
    ],
)
@pytest.mark.parametrize("script", [evaluate, predict])
def test_sizes_that_a_mix_transformer_cannot_see(
    refused: Refused, data: Path, drawn: Path, script: ModuleType, line: str, expected: list[str]
) -> None:
    words = ["--restore-from", str(drawn / "finished"), "--device", "cpu", *line.split()]
    if script is predict:
        words += [str(data / "cityscapes" / "leftImg8bit" / "val"), "--output-dir", "out"]
    else:
        words += ["--data-root", str(data)]
    refused(*expected, words=words, script=script)


class TestFillBank:
    @pytest.fixture
    def words(self, data: Path, drawn: Path) -> list[str]:
        """A command that would fill a bank."""
        return bank_command(data, drawn / "finished", "new")

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("--bank-size 5", ["--bank-size 5", "19 classes"]),
            ("--output bank", ["--output bank", "holds files already"]),
            ("--output data/mit_b0.pth", ["--output", "is a file"]),
            ("--restore-from nowhere", ["--restore-from", "nowhere does not exist"]),
            ("--classes idd7", ["cityscapes19", "idd7"]),
            ("--crop-size 128,64", ["--crop-size 128,64", "source", "--input-size 96,64"]),
            ("--crop-size 28,28", ["--crop-size 28,28", "29x29"]),
            ("--rare-class-min-pixels 1000", ["--rare-class-min-pixels 511"]),
            ("--instance-bank fill", ["unknown option --instance-bank"]),
        ],
    )
    def test_options(self, refused: Refused, words: list[str], line: str, expected: list[str]) -> None:
        refused(*expected, words=[*words, *line.split()], script=fill_bank)

    def test_options_without_effect_are_named(
        self, refused: Refused, words: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        off = ["--no-rare-class-sampling", "--rare-class-temperature", "1", "--bank-size", "5"]
        refused("--bank-size 5", words=[*words, *off], script=fill_bank)
        assert "--rare-class-temperature has no effect" in caplog.text

    def test_no_statistics(self, refused: Refused, data: Path, words: list[str]) -> None:
        (data / "gta5" / STATISTICS).unlink()
        (data / "gta5" / STATISTICS_BY_FILE).unlink()
        refused("prepare_data.py statistics gta5", words=words, script=fill_bank)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--calibrate none", "--calibrate has no effect with --method daformer"),
        ("--method dacs --smooth 0.9", "--smooth has no effect with --method dacs"),
        ("--mask-ratio 0.5", "--mask-ratio has no effect without --masked-consistency"),
    ],
)
def test_options_without_effect_are_named(
    data: Path, line: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train_st.parse_args(command(data, "run", *line.split()))
    assert named in caplog.text


TOWN = """\
[class_space]
name = "town2"
names = ["ground", "rest"]
palette = [[128, 64, 128], [70, 70, 70]]
[class_space.merge]
cityscapes19 = [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]

[[layouts]]
image = "leftImg8bit/train/{name}_leftImg8bit.png"
"""
