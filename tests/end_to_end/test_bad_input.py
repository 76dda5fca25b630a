"""Mistakes that a user can repair: one line that names them and the remedy, exit code 2, nothing written."""

from __future__ import annotations

import pickle
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import generate_plabel
import prepare_data
import train_ft
import train_ms
import train_source
from tests.distributed.launching import run_processes
from tests.official_formats import write_cityscapes, write_gta5
from utils import devices, distributed
from utils.distributed import World

SIZE = (64, 48)
SMALL = shlex.split(
    "--backbone resnet18_quarter --head-channels 8 --bottleneck-channels 8 --norm-style gn --device cpu "
    "--input-size 64,48 --input-size-target 64,48 --crop-size 48,32 --batch-size 2 --num-steps 2 "
    "--num-workers 0 --no-tensorboard"
)
RANDOM = ["--backbone-weights", "none"]
MAINS = {"train_source": train_source, "train_ms": train_ms, "train_ft": train_ft, "evaluate": evaluate}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root that is as it should be."""
    root = tmp_path_factory.mktemp("drawn")
    write_gta5(root, 4, SIZE)
    write_cityscapes(root, 4, SIZE, labelled=False)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


@pytest.fixture
def data(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage, in an empty working folder."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SEGADAPT_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(drawn, tmp_path / "data"))


@pytest.fixture
def refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Runs an entry point that must refuse, checks what all refusals have in common, returns the error.

    The first line must contain all of `expected`.
    """

    def run(module: object, words: Sequence[object], *expected: str, writes: bool = False) -> list[str]:
        before = content_of(tmp_path)
        capsys.readouterr()
        assert module.main([*map(str, words)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "Traceback" not in "".join(lines)
        start = [number for number, line in enumerate(lines) if line.startswith("error")]
        assert len(start) == 1, lines
        for text in expected:
            assert text in lines[start[0]]
        rest = lines[start[0] + 1 :]  # commands to paste, each after a line that says what it does
        assert all(line.startswith("  ") or line.endswith(":") for line in rest)
        assert writes or content_of(tmp_path) == before
        return lines[start[0] :]

    return run


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything below a folder: time of the last change and content of files, folders by name.

    The empty lock file of a run folder is opened by whoever looks, so its time does not count.
    """
    return {
        str(path.relative_to(folder)): (
            0 if path.name == ".lock" else path.stat().st_mtime_ns,
            path.read_bytes(),
        )
        for path in folder.rglob("*")
        if path.is_file()
    } | {str(path.relative_to(folder)): (0, b"") for path in folder.rglob("*") if path.is_dir()}


def training(data: Path, *words: object, weights: Sequence[str] = RANDOM) -> list[str]:
    """A tiny training; later words win."""
    return [*SMALL, *weights, "--data-root", str(data), "--snapshot-dir", "run", *map(str, words)]


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Path:
    """The run folder of one finished iteration of stage I."""
    run = tmp_path / "trained"
    assert train_ms.main(training(data, "--num-steps-stop", 1, "--snapshot-dir", run)) == 0
    return run


class TestFolders:
    @pytest.mark.parametrize(
        ("flag", "name"),
        [("--data-root", "nowhere"), ("--source-root", "data/gta6"), ("--target-root", "data/cityscape")],
    )
    def test_missing_folder_is_named_with_its_flag(
        self, refused: Callable, data: Path, flag: str, name: str
    ) -> None:
        refused(train_ms, training(data, flag, name), flag, name, "does not exist")

    def test_folder_without_the_data_set_says_what_was_looked_for(
        self, refused: Callable, data: Path
    ) -> None:
        shutil.rmtree(data / "gta5")
        refused(train_source, training(data), "gta5", str(data), "images/{name}.png", "prepare_data.py find")

    def test_no_folder_at_all_names_the_flag(self, refused: Callable) -> None:
        words = [*SMALL, *RANDOM, "--snapshot-dir", "run"]
        refused(train_source, words, "--data-root", "SEGADAPT_DATA")

    @pytest.mark.parametrize("script", ["train_source", "train_ms", "train_ft", "evaluate"])
    def test_unknown_data_set_suggests_the_nearest(
        self, refused: Callable, data: Path, trained: Path, script: str
    ) -> None:
        words = {
            "evaluate": [trained, "--data-root", data],
            "train_ft": training(data, "--restore-from", trained, weights=()),
        }
        chosen = words.get(script, training(data))
        refused(MAINS[script], [*chosen, "--target", "cityscape"], "'cityscape'", "did you mean cityscapes?")


class TestPairs:
    @pytest.mark.parametrize("lost", ["labels/00002.png", "images/00003.png"])
    def test_image_without_label_and_the_reverse_are_refused(
        self, refused: Callable, data: Path, lost: str
    ) -> None:
        (data / "gta5" / lost).unlink()
        refused(train_source, training(data), Path(lost).name, "1 of 4", "at most 0.5%", "--write-list")

    def test_up_to_half_a_percent_is_skipped_unless_strict(
        self, refused: Callable, data: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(5, 501):
            for folder in ("images", "labels"):
                path = data / "gta5" / folder / f"{number:05d}.png"
                path.hardlink_to(data / "gta5" / folder / "00001.png")
        (data / "gta5" / "labels" / "00007.png").unlink()
        (data / "gta5" / "images" / "00100.png").unlink()
        words = training(data, "--num-steps-stop", 1)
        refused(train_source, [*words, "--strict"], "2 of 500", "00007.png", "--strict allows none")
        assert train_source.main(words) == 0
        assert "2 of 500" in caplog.text
        (data / "gta5" / "labels" / "00011.png").unlink()
        refused(train_source, training(data, "--snapshot-dir", "other"), "3 of 500", "at most 0.5%")


class TestLabels:
    def test_values_that_no_table_knows_are_listed_with_file_and_expected_name(
        self, refused: Callable, data: Path
    ) -> None:
        path = data / "gta5" / "labels" / "00001.png"
        ids = np.array(Image.open(path))
        ids[:2, :3] = [77, 77, 201]
        Image.fromarray(ids).save(path)
        expected = (
            "{77, 201} (6 of 3072 pixels)",
            str(path),
            "label ids of cityscapes",
            "of another data set?",
        )
        refused(train_ms, training(data), *expected)
        refused(prepare_data, ["check", "gta5", "--data-root", data], "first 77 in 00001.png")

    def test_train_ids_read_as_raw_ids_name_the_file_that_was_meant(
        self, refused: Callable, data: Path
    ) -> None:
        for path in (data / "cityscapes" / "gtFine" / "val" / "aachen").iterdir():
            Image.fromarray(np.full(SIZE[::-1], 77, np.uint8)).save(path)
            path.rename(path.with_name(path.name.replace("_gtFine_labelIds", "")))
        shipped = Path(prepare_data.__file__).parent / "data_loaders" / "descriptions" / "cityscapes.toml"
        own = shipped.read_text().replace('{name}_gtFine_labelIds.png"', '{name}.png"')
        (data / "mine.toml").write_text(own.replace('name = "cityscapes"', 'name = "mine"'))
        words = training(data, "--target", data / "mine.toml", "--evaluation-split", "val")
        refused(train_ms, words, "{77}", "aachen_000000_000019.png", "label ids of mine")

    def test_a_file_of_another_kind_names_the_one_that_was_meant(self, refused: Callable, data: Path) -> None:
        write_cityscapes(data, 4, SIZE)
        labels = data / "cityscapes" / "gtFine" / "train" / "aachen"
        for path in labels.iterdir():
            path.rename(path.with_name(path.name.replace("labelIds", "instanceIds")))
        shipped = Path(prepare_data.__file__).parent / "data_loaders" / "descriptions" / "cityscapes.toml"
        own = shipped.read_text().replace("_gtFine_labelIds.png", "_gtFine_instanceIds.png")
        (data / "mine.toml").write_text(own.replace('name = "cityscapes"', 'name = "mine"'))
        first = labels / "aachen_000000_000019_gtFine_instanceIds.png"
        meant = "did you mean aachen_000000_000019_gtFine_labelIds.png?"
        refused(
            train_source, training(data, "--source", data / "mine.toml"), str(first), "instance ids", meant
        )


class TestDamagedFiles:
    @pytest.mark.parametrize("name", ["images/00002.png", "labels/00002.png"])
    def test_check_finds_a_truncated_png(self, refused: Callable, data: Path, name: str) -> None:
        truncate(data / "gta5" / name)
        words = ["check", "gta5", "--data-root", data, "--num-workers", "0"]
        refused(prepare_data, words, "1 of 4 pairs", "00002.png", "--write-list")

    @pytest.mark.parametrize("name", ["gta5/images/00002.png", "gta5/labels/00002.png"])
    @pytest.mark.parametrize("workers", [0, 1])
    def test_training_stops_with_the_name_of_a_truncated_png(
        self, refused: Callable, data: Path, name: str, workers: int
    ) -> None:
        truncate(data / name)
        words = training(data, "--num-workers", workers, "--num-steps", 8)
        refused(train_source, words, str(data / name), writes=True)
        assert not list(Path("run").glob("*.pth"))

    def test_evaluation_stops_with_the_name_of_a_truncated_png(
        self, refused: Callable, data: Path, trained: Path
    ) -> None:
        path = truncate(next((data / "cityscapes" / "leftImg8bit" / "val").rglob("*1_000019*.png")))
        words = [trained, "--data-root", data, "--device", "cpu", "--protocol", "common", "--json", "a.json"]
        refused(evaluate, words, str(path), "truncated")


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-200])
    return path


class TestListsAndSizes:
    def test_list_file_with_a_missing_entry_names_file_line_and_entry(
        self, refused: Callable, data: Path
    ) -> None:
        names = data / "names.txt"
        names.write_text("00001.png\n00009.png\n")
        refused(
            train_ms,
            training(data, "--source-list", names),
            f"{names}, line 2",
            "'00009.png'",
            "--source-root",
        )

    def test_crop_larger_than_the_image_after_jitter(self, refused: Callable, data: Path) -> None:
        expected = ("60,46", "51,38", "scale jitter goes down to 0.8", "smaller crop size")
        refused(train_source, training(data, "--crop-size", "60,46"), *expected)

    def test_crop_larger_than_the_target_images(self, refused: Callable, data: Path) -> None:
        words = training(data, "--input-size-target", "40,40")
        refused(train_ms, words, "48,32", "40,40", "smaller crop size")


class TestCheckpoints:
    def test_another_class_count(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--restore-from", trained, "--classes", "synthia16", weights=())
        refused(train_ms, words, str(trained), "num_classes 19", "16")

    def test_another_architecture(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--restore-from", trained, "--backbone", "resnet18", weights=())
        refused(train_ms, words, str(trained), "resnet18_quarter", "options that it was trained with")

    def test_text_file(self, refused: Callable, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        path.write_text("<html>Too many downloads</html>")
        for module, words in self._readers(data, path):
            refused(module, words, str(path), "not a snapshot", "<html>")

    def test_unknown_layout(self, refused: Callable, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save({"encoder.stem.weight": torch.zeros(3)}, path)
        for module, words in self._readers(data, path):
            refused(module, words, str(path), "unknown layout", "encoder.stem.weight")

    @pytest.mark.parametrize("torch_file", [False, True])
    def test_pickle_that_tries_to_run_code(
        self, refused: Callable, data: Path, tmp_path: Path, torch_file: bool
    ) -> None:
        path, victim = tmp_path / "weights.pth", tmp_path / "victim"
        if torch_file:
            torch.save({"weights": Payload(victim)}, path)
        else:
            path.write_bytes(pickle.dumps({"weights": Payload(victim)}))
        for module, words in self._readers(data, path):
            refused(module, words, str(path), "is refused")
        assert not victim.exists()

    @staticmethod
    def _readers(data: Path, path: Path) -> Iterator[tuple[object, list[object]]]:
        yield train_ms, training(data, "--restore-from", path, weights=())
        yield train_ms, training(data, weights=("--backbone-weights", str(path)))
        yield evaluate, [path, "--data-root", data, "--device", "cpu"]
        yield generate_plabel, ["--restore-from", path, "--data-root", data, "--device", "cpu"]


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Callable, tuple[Path]]:
        return (Path.touch, (self.victim,))


class TestWeights:
    def test_missing_backbone_weights_file(self, refused: Callable, data: Path) -> None:
        words = training(data, weights=("--backbone-weights", "resnet.pth"))
        refused(
            train_source, words, "--backbone-weights resnet.pth does not exist", "prepare_data.py weights"
        )

    def test_nothing_says_what_the_network_starts_from(self, refused: Callable, data: Path) -> None:
        refused(train_ms, training(data, weights=()), "--backbone-weights PATH", "--restore-from")

    def test_torchvision_has_none_of_that_backbone(self, refused: Callable, data: Path) -> None:
        words = training(data, weights=("--backbone-weights", "torchvision"))
        refused(train_source, words, "resnet18_quarter", "--backbone-weights PATH")

    def test_weights_from_the_web_are_not_fetched(self, refused: Callable, data: Path) -> None:
        words = training(data, "--restore-from", "http://example.org/init.pth", weights=())
        refused(train_ms, words, "--restore-from", "prepare_data.py weights")


class TestPseudoLabels:
    @pytest.fixture
    def labelled(self, data: Path, trained: Path) -> Path:
        words = ["--restore-from", trained, "--data-root", data, "--device", "cpu", "--protocol", "common"]
        assert generate_plabel.main([*map(str, words)]) == 0
        return trained

    def test_labels_of_another_image_list(self, refused: Callable, data: Path, labelled: Path) -> None:
        names = data / "names.txt"
        names.write_text("aachen/aachen_000001_000019_leftImg8bit.png\n")
        words = training(data, "--restore-from", labelled, "--target-list", names, weights=())
        refused(train_ft, words, "another image list (4 images", "now 1 of cityscapes", "generate_plabel.py")

    def test_no_labels(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--restore-from", trained, weights=())
        refused(train_ft, words, str(trained / "pseudo_labels"), "generate_plabel.py", "--pseudo-label-dir")

    def test_labels_of_another_snapshot_are_not_overwritten(
        self, refused: Callable, data: Path, labelled: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        assert train_ms.main(training(data, "--num-steps-stop", 1, "--seed", 1, "--snapshot-dir", other)) == 0
        folder = labelled / "pseudo_labels" / "cityscapes_train"
        words = ["--restore-from", other, "--data-root", data, "--device", "cpu", "--protocol", "common"]
        refused(generate_plabel, [*words, "--pseudo-label-dir", folder], str(folder), "weights_sha256")


CONTRADICTIONS = [
    ("--num-steps-stop 9", "--num-steps-stop 9 is after --num-steps 2"),
    ("--warm-up 2", "--warm-up 2 does not end before --num-steps 2"),
    ("--num-classes 16", "--num-classes 16, but 19 classes are in use"),
    ("--cpu --device cuda", "--cpu contradicts --device cuda"),
    ("--fp16 --precision bf16", "--fp16 contradicts --precision bf16"),
    ("--precision fp16", "fp16"),
    ("--gpu-ids 0,1", "use torchrun"),
    ("--iter-size 4", "--accumulation 4"),
    ("--scale-range 1.2,0.8", "--scale-range"),
    ("--num-steps many", "--num-steps"),
    ("--lamda-seg 0.5", "did you mean --lambda-seg?"),
    (
        "--network deeplab_oracle --backbone resnet18 --lambda-kl-target 0.1 --target-terms-start 0",
        "--network deeplab_two_head",
    ),
    ("--network deeplab_three_head", "deeplab_two_head"),
    ("--fused-optimizer apex", "apex"),
    ("--group-norm-kernel apex", "apex"),
    ("--classes citiscapes19", "cityscapes19"),
    ("--protocol mrnet-cityscapes", "use --protocol mrnet"),
    ("@launch/recipes/gta5_to_cityscape_mrnet.args", "gta5_to_cityscapes_mrnet.args"),
]


@pytest.mark.parametrize(("line", "expected"), CONTRADICTIONS)
def test_options_that_contradict_or_cannot_be_honoured(
    refused: Callable, data: Path, line: str, expected: str
) -> None:
    words = [
        word for word in training(data) if "--device cuda" not in line or word not in ("--device", "cpu")
    ]
    refused(train_ms, [*words, *line.split()], expected)


class TestSnapshotFolder:
    def test_other_arguments(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--num-steps-stop", 1, "--snapshot-dir", trained, "--learning-rate", "1e-3")
        expected = (str(trained), "--learning-rate 0.00025 -> 0.001", "another --snapshot-dir")
        refused(train_ms, words, *expected)

    def test_of_another_script(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--num-steps-stop", 1, "--snapshot-dir", trained)
        refused(train_source, words, str(trained), "the script train_ms.py -> train_source.py")

    def test_used_folder_with_resume_never(self, refused: Callable, data: Path, trained: Path) -> None:
        words = training(data, "--num-steps-stop", 1, "--snapshot-dir", trained, "--resume", "never")
        refused(train_ms, words, str(trained), "--resume never")

    def test_a_file_in_its_place(self, refused: Callable, data: Path) -> None:
        Path("run").write_text("my notes")
        refused(train_ms, training(data), "--snapshot-dir", "run is a file")


def test_batch_that_does_not_divide_ends_in_two_commands_that_parse(
    refused: Callable, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def four_processes(device: str, *, timeout_s: float) -> Iterator[World]:
        yield World(rank=0, size=4, local_rank=0, device=torch.device("cpu"))

    monkeypatch.setattr(distributed, "session", four_processes)
    lines = refused(train_ms, training(data), "--batch-size 2", "4 processes")
    exact, scaled = (line for line in lines if line.startswith("  "))
    for command, processes, batch in ((exact, 2, 2), (scaled, 4, 4)):
        launcher, _, rest = command.strip().partition(" train_ms.py ")
        assert launcher == f"torchrun --standalone --nproc-per-node {processes}"
        parsed = train_ms.parse_args(shlex.split(rest))
        assert parsed.batch_size == batch
        assert parsed.learning_rate == pytest.approx(2.5e-4 * batch / 2)


@pytest.mark.parametrize("script", ["train_source", "train_ms", "evaluate"])
def test_gpu_that_torch_cannot_use_is_no_silent_cpu_run(
    refused: Callable, data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(devices, "_has_visible_gpu", lambda: True)
    monkeypatch.setattr(devices, "_cuda_problem", lambda: "the driver is too old")
    words = [trained, "--data-root", data] if script == "evaluate" else training(data)
    kept = [word for word in words if word not in ("--device", "cpu")]
    refused(MAINS[script], kept, "the driver is too old", "--device cpu")


def test_an_error_of_all_processes_is_printed_once(data: Path, tmp_path: Path) -> None:
    words = training(data, "--crop-size", "60,46", "--snapshot-dir", tmp_path / "run")
    result = run_processes(2, ["train_ms.py", *words], check=False)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if "error" in line and "60,46" in line]
    assert len(errors) == 1
    assert not (tmp_path / "run").exists()
