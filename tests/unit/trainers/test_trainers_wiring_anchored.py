"""From the arguments of MADA to its parts: data sets as published, lists, anchors, identity, refusals."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import train_al
from data_loaders.dataset import SegmentationDataset
from data_loaders.decoding import read_image
from data_loaders.description import DESCRIPTION_FOLDER
from data_loaders.resampling import resize_image
from data_loaders.scaled_crops import ScaledCropTransform
from networks import NetworkSpec, build
from selection.anchor_files import centroids_name, write_centroids, write_vectors
from selection.budget import Budget
from selection.store import AnnotationStore
from tests.official_formats import write_cityscapes, write_gta5, write_synthia
from tests.toy_cityscapes import write_snapshot
from tests.toy_training import WORLD
from tests.unit.selection.toy_rounds import begun, fill_store, whole_queries
from trainers import wiring, wiring_anchored, wiring_data
from trainers.anchored_stages import StagedTrainer
from trainers.oracles import PeopleOracle, TruthOracle
from utils.errors import UserError
from utils.precision import Precision

SIZE = (64, 48)
SOURCE_IMAGES, IMAGES, WIDTH = 5, 4, 8
SMALL = [
    *("--method", "mada", "--backbone", "resnet18_quarter", "--head-channels", str(WIDTH)),
    *("--num-workers", "0", "--device", "cpu", "--budget", "2images", "--num-anchors", "2"),
]
SIZES = [
    *("--input-size", "64,48", "--input-size-active", "48,32", "--input-size-target", "32,24"),
    *("--crop-size", "32,16", "--scaled-width", "64"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source and target images, one to score, and the network that a run starts from."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, SOURCE_IMAGES, SIZE)
    write_synthia(root, 2, SIZE)
    write_cityscapes(root, IMAGES, SIZE)
    write_cityscapes(root, 1, SIZE, split="val")
    torch.manual_seed(0)
    spec = NetworkSpec("mada_v3plus", "resnet18_quarter", 19, "cityscapes19", {"head_channels": WIDTH})
    write_snapshot(root / "warm-up.pth", build(spec))
    return root


class Wired:
    """Parts and trainer of a command line, in a run folder that does not exist yet."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data = data
        self.folder = folder

    def args(self, *words: object) -> argparse.Namespace:
        places = ["--data-root", self.data, "--snapshot-dir", self.folder]
        start = ["--restore-from", self.data / "warm-up.pth"]
        return train_al.parse_args([str(word) for word in (*SMALL, *places, *start, *words)])

    def parts(self, *words: object) -> wiring_anchored.AnchoredParts:
        return wiring_anchored.prepare(self.args(*words))

    def trainer(self, *words: object) -> StagedTrainer:
        args = self.args(*words)
        parts = wiring_anchored.prepare(args)
        network = wiring.build_network(args, parts.domains.space, WORLD)
        return wiring_anchored.make_trainer(args, parts, network, WORLD, Precision("fp32"))

    def identity(self, *words: object) -> str:
        args = self.args(*words)
        return wiring_anchored.identity(args, wiring_anchored.prepare(args))

    def names(self) -> list[str]:
        return [item.name for item in self.parts().domains.target.items]


@pytest.fixture
def wired(data: Path, tmp_path: Path) -> Wired:
    return Wired(data, tmp_path / "run")


class Bought:
    """Annotations of some images, all pixels of class 3."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def names_with_labels(self) -> tuple[str, ...]:
        return tuple(self.names)

    def size_of(self, name: str) -> tuple[int, int]:
        return SIZE[::-1]

    def mask(self, name: str) -> np.ndarray:
        return np.full(SIZE[::-1], 3, np.uint8)


def datasets(
    wired: Wired, monkeypatch: pytest.MonkeyPatch, stage: int, *words: object, bought: int = 2
) -> Mapping[str, SegmentationDataset]:
    """Those of a stage's streams, when the last images of the target are bought."""
    args = wired.args(*words)
    parts = wiring_anchored.prepare(args)
    names = [item.name for item in parts.domains.target.items]
    parts.reader.bought = Bought(names[len(names) - bought :][::-1])
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        wiring_data, "sample_streams", lambda args, world, sets, **options: found.update(sets) or {}
    )
    wiring_anchored.make_streams(args, parts, WORLD, stage)
    return found


class TestStreams:
    def test_sizes_are_the_published_ones(self, wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
        found = datasets(wired, monkeypatch, 2)
        sizes = {"source": (1914, 1052), "active": (1914, 1052), "target": (2048, 1024)}
        assert {name: dataset.transform.size for name, dataset in found.items()} == sizes
        for dataset in found.values():
            transform = dataset.transform
            assert isinstance(transform, ScaledCropTransform)
            assert (transform.crop, transform.scaled_width) == ((512, 896), 2200)
            assert (transform.scale_range, transform.mirror) == ((0.5, 1.5), 0.5)
        sample = found["active"].sample(0, np.random.default_rng(0))
        assert tuple(sample.image.shape) == (3, 512, 896)
        assert tuple(sample.label.shape) == (512, 896)

    def test_options_change_them(self, wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
        words = [*SIZES, "--scale-range", "1,1.2", "--no-mirror"]
        found = datasets(wired, monkeypatch, 2, *words)
        sizes = {"source": (64, 48), "active": (48, 32), "target": (32, 24)}
        assert {name: dataset.transform.size for name, dataset in found.items()} == sizes
        assert {name: dataset.transform.mirror for name, dataset in found.items()} == {
            "source": 0.0,
            "active": 0.0,
            "target": 0.5,
        }
        assert found["source"].transform.scale_range == (1.0, 1.2)
        assert found["target"].sample(0, np.random.default_rng(0)).label is None

    def test_active_ones_are_the_bought_images_in_list_order(
        self, wired: Wired, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = datasets(wired, monkeypatch, 1, *SIZES)
        assert set(found) == {"active", "source"}
        assert [item.name for item in found["active"].items] == wired.names()[-2:]
        label = found["active"].sample(0, np.random.default_rng(0)).label
        assert (label == 3).all()
        assert len(found["source"].items) == SOURCE_IMAGES

    def test_target_of_the_second_stage_is_all_of_it(
        self, wired: Wired, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = datasets(wired, monkeypatch, 2, *SIZES)
        assert set(found) == {"active", "source", "target"}
        assert [item.name for item in found["target"].items] == wired.names()

    def test_without_a_label_there_is_nothing_to_train_on(
        self, wired: Wired, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(UserError, match=r"no pixel of the bought images in .*run/queries has a label"):
            datasets(wired, monkeypatch, 1, *SIZES, bought=0)


class TestWholeImages:
    def test_are_seen_at_the_published_sizes(self, wired: Wired) -> None:
        trainer = wired.trainer()
        source, query = trainer.source_anchors, trainer.rounds.query
        assert source.samples.transform.size == (1914, 1052)
        assert query.samples.transform.size == (2048, 1024)
        assert trainer.target_anchors.samples.transform.size == (2048, 1024)
        assert query.settings.network_input == "2048x1024"
        assert (source.labelled, trainer.target_anchors.labelled) == (True, False)

    def test_are_resized_as_for_training_and_nothing_else(self, wired: Wired) -> None:
        trainer = wired.trainer(*SIZES)
        parts = wired.parts(*SIZES)
        for samples, files, size in (
            (trainer.source_anchors.samples, parts.domains.source, (64, 48)),
            (trainer.rounds.query.samples, parts.domains.target, (32, 24)),
        ):
            assert len(samples) == len(files.items)
            sample = samples.sample(1, None)
            expected = resize_image(read_image(files.items[1].image), size, "pillow_bilinear")
            assert np.array_equal(sample.image.numpy().transpose(1, 2, 0), expected)
            assert sample.size == SIZE[::-1]
        assert trainer.source_anchors.samples.sample(0, None).label is not None
        assert trainer.rounds.query.samples.sample(0, None).label is None

    def test_are_scored_at_a_size_of_their_own(self, wired: Wired) -> None:
        trainer = wired.trainer(*SIZES, "--input-size-query", "40,20")
        assert trainer.rounds.query.samples.transform.size == (40, 20)
        assert trainer.target_anchors.samples.transform.size == (40, 20)
        assert trainer.rounds.query.settings.network_input == "40x20"
        assert trainer.source_anchors.fingerprint.endswith(" 64x48")
        assert trainer.target_anchors.fingerprint.endswith(" 40x20")


def listed(folder: Path, names: list[str], name: str = "list.txt") -> Path:
    path = folder / name
    path.write_text("".join(f"{name}\n" for name in names))
    return path


class TestQuery:
    def test_settings(self, wired: Wired) -> None:
        found = wired.parts("--budget", "50%", "--score", "entropy", "--seed", 4, "--query-pictures", 3).query
        assert (found.budget, found.count) == (Budget(50.0, "percent"), 2)
        assert (found.score, found.seed, found.pictures, found.setting) == ("entropy", 4, 3, "image")

    def test_list_gives_positions_in_the_order_of_the_data(self, wired: Wired, tmp_path: Path) -> None:
        names = wired.names()
        parts = wired.parts("--image-list", listed(tmp_path, [names[3], names[0], names[2]]))
        assert parts.listed.tolist() == [0, 2, 3]
        assert parts.known.tolist() == []
        assert (parts.query.count, parts.query.score) == (3, "list")
        assert parts.query.budget == Budget(3.0, "images")

    def test_known_images_are_asked_about_beside_the_budget(self, wired: Wired, tmp_path: Path) -> None:
        parts = wired.parts("--labelled-list", listed(tmp_path, [wired.names()[1]]), "--budget", "2images")
        assert parts.listed is None
        assert parts.known.tolist() == [1]
        assert parts.query.count == 3

    @pytest.mark.parametrize("option", ["--image-list", "--labelled-list"])
    def test_list_of_a_run_is_found_in_its_folder(self, wired: Wired, tmp_path: Path, option: str) -> None:
        folder = tmp_path / "other" / "selection_list"
        folder.mkdir(parents=True)
        with pytest.raises(UserError, match=f"folder {tmp_path}/other holds none of stage1_cac_list"):
            wired.parts(option, tmp_path / "other")
        listed(folder, wired.names()[2:3], "stage1_cac_list_0.05.txt")
        parts = wired.parts(option, tmp_path / "other")
        assert (parts.listed if option == "--image-list" else parts.known).tolist() == [2]

    def test_round_gets_what_the_arguments_say(self, wired: Wired, tmp_path: Path) -> None:
        trainer = wired.trainer("--labelled-list", listed(tmp_path, [wired.names()[1]]))
        query = trainer.rounds.query
        assert (query.asked, query.known.tolist(), query.listed) == (3, [1], None)
        assert query.folder == wired.folder / "anchors"
        assert query.list_folder == wired.folder / "selection_list"
        assert (trainer.rounds.method, trainer.method) == ("mada", "mada")
        assert tuple(query.images.names) == tuple(wired.names())

    def test_nothing_is_written(self, wired: Wired) -> None:
        wired.trainer()
        assert not wired.folder.exists()


class TestIdentity:
    def test_follows_from_lists_and_settings(self, wired: Wired, tmp_path: Path) -> None:
        names = wired.names()
        two = listed(tmp_path, names[:2])
        found = {
            "plain": wired.identity(),
            "listed": wired.identity("--image-list", two),
            "other list": wired.identity("--image-list", listed(tmp_path, names[1:3], "other.txt")),
            "known": wired.identity("--labelled-list", two),
            "budget": wired.identity("--budget", "3images"),
            "size": wired.identity("--input-size-target", "32,24"),
            "anchors": wired.identity("--num-anchors", "3"),
            "seed": wired.identity("--seed", "1"),
            "source": wired.identity("--source", "synthia", "--allow-absent-classes"),
        }
        assert len(set(found.values())) == len(found)

    def test_says_nothing_of_machines_people_and_the_end(self, wired: Wired, tmp_path: Path) -> None:
        plain = wired.identity()
        for words in (
            ["--num-workers", "3"],
            ["--oracle", "people"],
            ["--stop-after", "selection"],
            ["--keep-snapshots", "9"],
            ["--allow-absent-classes"],
        ):
            assert wired.identity(*words) == plain, words
        names = wired.names()
        forth, back = (listed(tmp_path, order, "any.txt") for order in (names[:2], names[:2][::-1]))
        assert forth == back
        assert wired.identity("--image-list", back) == wired.identity(
            "--image-list", listed(tmp_path, names[:2], "sorted.txt")
        )


class TestOracle:
    def test_truth_reads_the_labels_of_the_target(self, wired: Wired) -> None:
        oracle = wired.trainer().rounds.oracle
        assert isinstance(oracle, TruthOracle)
        assert oracle.oracle.read_label(wired.names()[0]).shape == SIZE[::-1]

    def test_people_are_told_the_price_before_the_run_begins(
        self, wired: Wired, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level("INFO"):
            oracle = wired.trainer("--oracle", "people", "--accept-partial").rounds.oracle
        assert isinstance(oracle, PeopleOracle)
        assert f"people are the oracle: {oracle.price}" in caplog.text
        assert "--budget 2images asks people for all pixels of 2 of 4 images: about 3.0 h" in oracle.price
        assert oracle.accept_partial
        assert oracle.run == str(wired.folder)

    def test_price_is_that_of_all_images_asked_about(self, wired: Wired, tmp_path: Path) -> None:
        words = ["--oracle", "people", "--labelled-list", listed(tmp_path, wired.names()[:1])]
        price = wired.trainer(*words, "--seconds-per-decision", 7200).rounds.oracle.price
        assert "--budget 2images asks people for all pixels of 2 of 4 images" in price
        assert "for those of 1 more: about 6.0 h at an assumed 2 h per image" in price

    def test_listed_images_are_what_people_label(self, wired: Wired, tmp_path: Path) -> None:
        words = ["--oracle", "people", "--image-list", listed(tmp_path, wired.names()[:3])]
        price = wired.trainer(*words).rounds.oracle.price
        assert "asks people for all pixels of the 3 listed images: about 4.5 h" in price
        assert "--budget" not in price

    def test_labels_of_another_run(self, wired: Wired, tmp_path: Path) -> None:
        queries = whole_queries()
        begun(tmp_path / "other", queries).write_answers(queries.predicted)
        words = ["--oracle", "people", "--labels-from", tmp_path / "other"]
        assert wired.trainer(*words).rounds.oracle.earlier.run == tmp_path / "other"
        assert wired.identity(*words) == wired.identity(*words[:2])
        queries = whole_queries(class_space="synthia16")
        begun(tmp_path / "fewer", queries).write_answers(queries.predicted % 16)
        with pytest.raises(UserError, match="labels of the classes synthia16, this run trains cityscapes19"):
            wired.trainer(*words[:-1], tmp_path / "fewer")


class TestLabels:
    """Those of the target are read where the oracle answers from them, and nowhere else."""

    @pytest.fixture
    def unlabelled(self, data: Path, tmp_path: Path) -> Wired:
        root = tmp_path / "data"
        shutil.copytree(data, root)
        shutil.rmtree(root / "cityscapes" / "gtFine" / "train")
        return Wired(root, tmp_path / "run")

    def test_that_are_missing_are_refused(self, unlabelled: Wired) -> None:
        with pytest.raises(UserError, match=r"target images have no label in .*--oracle people"):
            unlabelled.parts()

    @pytest.mark.parametrize(
        "words",
        [["--oracle", "people"], ["--stop-after", "selection"], ["--stop-after", "source-anchors"],
         ["--start-at", "target-anchors", "--stop-after", "target-anchors"]],
    )  # fmt: skip
    def test_are_not_needed(self, unlabelled: Wired, words: list[str]) -> None:
        assert len(unlabelled.parts(*words).domains.target.items) == IMAGES

    def test_of_another_size_are_refused(self, data: Path, tmp_path: Path) -> None:
        root = tmp_path / "data"
        shutil.copytree(data, root)
        for path in (root / "cityscapes" / "gtFine" / "train").rglob("*.png"):
            cv2.imwrite(str(path), np.full((24, 32), 7, np.uint8))
        with pytest.raises(
            UserError, match=r"is 32x24, its image 64x48: the oracle needs labels of the size"
        ):
            Wired(root, tmp_path / "run").parts()


class TestSource:
    def test_is_not_read_where_target_anchors_alone_are_wanted(self, wired: Wired) -> None:
        trainer = wired.trainer("--start-at", "target-anchors", "--stop-after", "target-anchors")
        assert (
            wired.parts("--start-at", "target-anchors", "--stop-after", "target-anchors").domains.source
            is None
        )
        assert not trainer.plan.buys
        assert trainer.loop.num_steps_stop == 0

    @pytest.fixture
    def without_trains(self, tmp_path: Path) -> Path:
        """The description of a source whose labels know three classes less."""
        text = (
            (DESCRIPTION_FOLDER / "synthia.toml")
            .read_text()
            .replace("void_ids = [", "void_ids = [16, 19, 20, ")
        )
        for line in ("16 = 9\n", "19 = 15\n", "20 = 16\n"):
            assert line in text
            text = text.replace(line, "")
        path = tmp_path / "without_trains.toml"
        path.write_text(text.replace('name = "synthia"', 'name = "without_trains"', 1))
        return path

    def test_classes_that_it_cannot_show_are_refused(self, wired: Wired, without_trains: Path) -> None:
        words = ["--source", without_trains]
        with pytest.raises(
            UserError,
            match=r"no label of without_trains stands for terrain, bus, train.*--allow-absent-classes",
        ):
            wired.parts(*words)
        assert wired.parts(*words, "--allow-absent-classes").domains.source is not None

    def test_classes_do_not_matter_where_it_is_not_described(
        self, wired: Wired, without_trains: Path, tmp_path: Path
    ) -> None:
        words = ["--source", without_trains]
        wired.parts(*words, "--score", "random")
        wired.parts(*words, "--image-list", listed(tmp_path, wired.names()[:1]))
        with pytest.raises(UserError, match="no label of without_trains stands for"):
            wired.parts(*words, "--score", "random", "--stop-after", "source-anchors")


class TestAnchors:
    def anchors(self, folder: Path, shape: tuple[int, int, int] = (2, 19, WIDTH)) -> Path:
        path = folder / "anchors.pkl"
        write_centroids(path, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        return path

    def vectors(self, folder: Path, shape: tuple[int, int, int] = (6, 19, WIDTH)) -> Path:
        path = folder / "vectors.pkl"
        write_vectors(path, np.random.default_rng(0).random(shape, np.float32))
        return path

    def test_have_the_shape_of_the_network(self, wired: Wired) -> None:
        assert tuple(wired.trainer("--num-anchors", 3).anchors.values.shape) == (3, 19, WIDTH)

    @pytest.mark.parametrize("which", ["source", "target"])
    def test_that_are_given_are_taken(self, wired: Wired, tmp_path: Path, which: str) -> None:
        trainer = wired.trainer(f"--{which}-anchors", self.anchors(tmp_path))
        found = getattr(trainer, f"{which}_anchors")()
        assert found.flatten().tolist() == list(range(2 * 19 * WIDTH))

    @pytest.mark.parametrize("which", ["source", "target"])
    def test_of_a_run_are_found_by_their_number(self, wired: Wired, tmp_path: Path, which: str) -> None:
        path = tmp_path / "other" / "anchors" / centroids_name(which, 2)
        path.parent.mkdir(parents=True)
        shutil.copy(self.anchors(tmp_path), path)
        trainer = wired.trainer(f"--{which}-anchors", tmp_path / "other")
        assert tuple(getattr(trainer, f"{which}_anchors")().shape) == (2, 19, WIDTH)
        with pytest.raises(UserError, match=f"folder {tmp_path}/other holds none of .*_3.pkl"):
            wired.trainer(f"--{which}-anchors", tmp_path / "other", "--num-anchors", 3)

    @pytest.mark.parametrize("which", ["source", "target"])
    def test_of_another_shape_are_refused(self, wired: Wired, tmp_path: Path, which: str) -> None:
        path = self.anchors(tmp_path, (3, 19, WIDTH))
        with pytest.raises(
            UserError, match=r"anchors.pkl have shape .*2 anchors of 19 classes with 8 channels"
        ):
            wired.trainer(f"--{which}-anchors", path)

    def test_of_vectors_are_clustered_and_kept(self, wired: Wired, tmp_path: Path) -> None:
        trainer = wired.trainer("--source-vectors", self.vectors(tmp_path))
        assert not wired.folder.exists()
        assert tuple(trainer.source_anchors().shape) == (2, 19, WIDTH)
        assert (wired.folder / "anchors" / "cluster_centroids_full_2.pkl").exists()

    def test_of_unfit_vectors_are_refused(self, wired: Wired, tmp_path: Path) -> None:
        path = self.vectors(tmp_path, (1, 19, WIDTH))
        with pytest.raises(UserError, match=r"--num-anchors 2 is more than the 1 vectors in .*vectors.pkl"):
            wired.trainer("--source-vectors", path)
        path = self.vectors(tmp_path, (6, 19, WIDTH + 1))
        with pytest.raises(UserError, match=r"vectors.pkl have shape \(6, 19, 9\), not \(images, 19, 8\)"):
            wired.trainer("--source-vectors", path)

    def test_more_than_source_images_are_refused(self, wired: Wired, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"--num-anchors 6 is more than the 5 source images in .*gta5"):
            wired.parts("--num-anchors", SOURCE_IMAGES + 1)

    def test_more_than_target_images_are_refused_where_they_are_used(self, wired: Wired) -> None:
        words = ["--num-anchors", IMAGES + 1]
        with pytest.raises(
            UserError, match=r"--num-anchors 5 is more than the 4 target images in .*cityscapes"
        ):
            wired.parts(*words)
        wired.parts(*words, "--lambda-alignment", 0)
        wired.parts(*words, "--stop-after", "stage-1")
        with pytest.raises(UserError, match="4 target images"):
            wired.parts(*words, "--lambda-alignment", 0, "--stop-after", "target-anchors")


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["--budget", "5%"], r"--budget 5% of 4 images is less than one image"),
            (["--budget", "5images"], r"--budget 5images is more than the 4 images"),
            (["--budget", "40px"], r"--budget 40px buys pixels of every image"),
        ],
    )
    def test_budget(self, wired: Wired, words: list[str], text: str) -> None:
        with pytest.raises(UserError, match=text):
            wired.parts(*words)

    def test_budget_beside_what_is_known(self, wired: Wired, tmp_path: Path) -> None:
        known = listed(tmp_path, wired.names()[:3])
        with pytest.raises(UserError, match=r"buys 2 images, but only 1 of 4 are not in --labelled-list"):
            wired.parts("--labelled-list", known)

    @pytest.mark.parametrize("option", ["--image-list", "--labelled-list"])
    def test_list_of_other_images(self, wired: Wired, tmp_path: Path, option: str) -> None:
        with pytest.raises(UserError, match=r"list.txt, line 1: 'ulm/0.png' is none of the 4 images"):
            wired.parts(option, listed(tmp_path, ["ulm/0.png"]))

    def test_round_of_another_run(self, wired: Wired) -> None:
        fill_store(AnnotationStore(wired.folder / "queries"), 1)
        with pytest.raises(UserError, match=r"run/queries/round_00 belongs to another run"):
            wired.trainer()

    def test_file_in_the_place_of_the_queries(self, wired: Wired) -> None:
        wired.folder.mkdir()
        (wired.folder / "queries").write_text("notes")
        with pytest.raises(UserError, match=r"run/queries is no folder that can be written"):
            wired.parts()


def test_stop_signals_reach_everything_that_takes_long(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = wired.trainer()
    parts = (trainer.source_anchors, trainer.rounds.query, trainer.rounds.oracle, trainer.target_anchors)
    assert not any(part.stop() for part in parts)
    monkeypatch.setattr("utils.stopping.requested", lambda: "SIGTERM")
    assert all(part.stop() for part in parts)


def test_settings_of_the_method(wired: Wired) -> None:
    words = [
        "--lambda-alignment",
        0.5,
        "--lambda-pseudo",
        0.2,
        "--anchor-momentum",
        0.9,
        "--batch-rule",
        "mean",
    ]
    settings = wired.trainer(*words, "--stage-steps", "7,9", "--stage-2-from", "last").settings
    assert (settings.lambda_alignment, settings.lambda_pseudo) == (0.5, 0.2)
    assert (settings.anchor_momentum, settings.batch_rule) == (0.9, "mean")
    plan = wired.trainer(*words, "--stage-steps", "7,9", "--stage-2-from", "last").plan
    assert (plan.steps, plan.second_from, plan.stop_after) == ((7, 9), "last", "stage-2")
    assert (settings.learning_rate, settings.num_steps, settings.weight_decay) == (1e-4, 90_000, 2e-4)
