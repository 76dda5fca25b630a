"""MADA on drawn pictures: all phases in one command, and each of them alone with the original's files."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import predict
import train_al
import train_ms
import train_source
from data_loaders.decoding import read_raw_label
from selection.anchor_files import (
    centroids_name,
    clusters_name,
    read_centroids,
    read_clusters,
    read_list,
    read_positions,
    read_vectors,
    vectors_name,
    write_list,
)
from selection.anchors import cluster
from selection.image_distance import anchor_distances
from selection.queries import WHOLE_IMAGE
from selection.store import AnnotationStore
from tests.forked_runs import assert_same, run_forked
from tests.official_formats import mada_checkpoint, write_synthia
from tests.toy_mada_runs import (
    ANCHORS,
    BOUGHT,
    CHANNELS,
    CLASSES,
    IMAGES,
    QUIET,
    SIZE,
    SOURCE_IMAGES,
    STEPS,
    command,
    draw_data,
    truth_of,
    warmed_up,
)
from utils import snapshots
from utils.phases import PHASES
from utils.runs import ARGUMENTS_FILE, DONE

SHAPE = {"num_anchors": ANCHORS, "num_classes": CLASSES, "channels": CHANNELS}
NAMES = [f"aachen/aachen_{number:06d}_000019_leftImg8bit.png" for number in range(IMAGES)]
LIST = "selection_list/stage1_cac_list_0.4.txt"
SCORES = "selection_list/scores.csv"
SOURCE_ANCHORS = f"anchors/{centroids_name('source', ANCHORS)}"
TARGET_ANCHORS = f"anchors/{centroids_name('target', ANCHORS)}"
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warmed-up network."""
    return warmed_up(tmp_path_factory.mktemp("start") / "warm_up.pth")


@pytest.fixture(scope="module")
def run(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All phases in one command, with everything that they can write."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train_al.main(command(data, start, folder, "--published-vectors", "--write-masks")) == 0
    return folder


@pytest.fixture(scope="module")
def train(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Runs with these further arguments, each kind once; returns the run folder."""
    root = tmp_path_factory.mktemp("runs")
    folders: dict[tuple[str, ...], Path] = {}

    def make(*words: object, data: Path = data, start: Path = start) -> Path:
        kind = (str(data), str(start), *map(str, words))
        if kind not in folders:
            folders[kind] = root / str(len(folders))
            assert train_al.main(command(data, start, folders[kind], *QUIET, *words)) == 0
        return folders[kind]

    return make


def anchors_of(folder: Path, domain: str) -> np.ndarray:
    """(V, C, D), from the published file."""
    return read_centroids(folder / "anchors" / centroids_name(domain, ANCHORS), **SHAPE)


def described(folder: Path) -> set[str]:
    """What the run described."""
    return {path.parent.name.removesuffix("_vectors") for path in folder.glob("anchors/*/vectors.npy")}


def asked(folder: Path) -> list[str]:
    """The images that the run asked about."""
    queries = AnnotationStore(folder / "queries").round(0).queries()
    assert queries is not None
    return [query.name for query in queries.images]


def scores(folder: Path) -> list[dict[str, str]]:
    with (folder / SCORES).open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def training_lines(folder: Path) -> dict[int, dict[str, float]]:
    return {int(line["iteration"]): line for line in metrics(folder) if "lr/segmentation" in line}


def terms(line: dict[str, float]) -> set[str]:
    return {name.removeprefix("loss/") for name in line if name.startswith("loss/")}


def state_of(place: Path) -> dict[str, object]:
    return snapshots.read(snapshots.resolve(place))


def weights(place: Path) -> object:
    return state_of(place)["weights"]


class TestOneCommand:
    def test_anchors_are_those_of_the_vectors_of_all_images(self, run: Path) -> None:
        for domain, count in (("source", SOURCE_IMAGES), ("target", IMAGES)):
            published = run / "anchors" / vectors_name(domain)
            vectors = read_vectors(published, num_classes=CLASSES, channels=CHANNELS)
            assert len(vectors) == count
            assert np.array_equal(vectors, np.load(run / "anchors" / f"{domain}_vectors" / "vectors.npy"))
            clusters = cluster(vectors, ANCHORS)
            assert np.array_equal(anchors_of(run, domain), clusters.centroids)
            found = read_clusters(run / "anchors" / clusters_name(domain, ANCHORS), num_anchors=ANCHORS)
            assert np.array_equal(found, clusters.labels)

    def test_chosen_are_the_images_farthest_from_their_nearest_anchor(self, run: Path) -> None:
        vectors = torch.from_numpy(np.load(run / "anchors" / "scoring_vectors" / "vectors.npy"))
        distances = anchor_distances(vectors, torch.from_numpy(anchors_of(run, "source"))).numpy()
        best = np.sort(np.argsort(-distances.min(1))[:BOUGHT])
        assert np.array_equal(read_list(run / LIST, NAMES), best)
        positions = read_positions(run / "selection_list" / "stage1_cac_index_0.4.txt", IMAGES)
        assert np.array_equal(positions, best)
        table = scores(run)
        assert [row["name"] for row in table] == NAMES
        assert [float(row["score"]) for row in table] == distances.min(1).tolist()
        assert [int(row["nearest anchor"]) for row in table] == distances.argmin(1).tolist()
        assert [int(row["chosen"]) for row in table] == np.isin(np.arange(IMAGES), best).tolist()
        assert asked(run) == [NAMES[position] for position in best]

    def test_bought_is_all_of_the_chosen_images_and_nothing_else(self, run: Path, data: Path) -> None:
        store = AnnotationStore(run / "queries")
        assert store.round(0).info().label_radius == WHOLE_IMAGE
        bought = store.load(1)
        assert list(bought.names_with_labels()) == asked(run)
        for name in asked(run):
            assert np.array_equal(bought.mask(name), truth_of(data, name))
            mask = run / "queries" / "gtMask" / "train" / f"{stem(name)}_gtFine_labelIds.png"
            assert np.array_equal(read_raw_label(mask, "index"), truth_of(data, name))

    def test_stages_have_their_terms_and_the_same_learning_rates(self, run: Path) -> None:
        lines = training_lines(run)
        assert list(lines) == [1, 2, 3, 4]
        for iteration, line in lines.items():
            more = {"pseudo", "alignment"} if iteration > STEPS[0] else set()
            assert terms(line) == {"active", "source"} | more
        rates = [line["lr/segmentation"] for line in lines.values()]
        assert rates[:2] == rates[2:]
        assert rates[0] > rates[1]

    def test_anchors_follow_the_training_of_stage_2(self, run: Path) -> None:
        described = torch.from_numpy(anchors_of(run, "target"))
        begun, ended = (
            state_of(place)["method_state"]["anchors"]["values"]
            for place in (run / f"iteration_{STEPS[0]:07d}.pth", run)
        )
        assert torch.equal(begun, described)
        assert 0 < (ended - described).abs().max() < 0.1

    def test_stage_2_starts_from_the_best_weights_of_stage_1(self, run: Path) -> None:
        scored = {line["iteration"]: line["val/miou"] for line in metrics(run) if "val/miou" in line}
        assert list(scored) == [1, 2, 3, 4]
        best = max((1, 2), key=lambda iteration: scored[iteration])
        assert state_of(run / "stage1")["iteration"] == best
        assert state_of(run / "best")["iteration"] == max(scored, key=lambda number: scored[number])
        last = json.loads((run / DONE).read_text())["text"]
        assert last == f"iteration 4, target val mIoU {scored[4]:.2f}"
        assert json.loads((run / ARGUMENTS_FILE).read_text())["arguments"]["method"] == "mada"

    def test_progress_is_said(self, run: Path) -> None:
        log = (run / "log.txt").read_text()
        for line in (
            f"describing source images {SOURCE_IMAGES}/{SOURCE_IMAGES}, ",
            f"{ANCHORS} source anchors, images of each: ",
            f"describing target images {IMAGES}/{IMAGES}, ",
            f"predicting the chosen images {BOUGHT}/{BOUGHT}, ",
            f"reading the answers {BOUGHT}/{BOUGHT}, ",
            f"round 1 of 1: {BOUGHT} whole images, {BOUGHT * SIZE[0] * SIZE[1]} pixels bought",
            "iter 2/4   50 %",
            "beginning of stage 2 after iteration 2",
            f"{ANCHORS} target anchors, images of each: ",
            "done: iteration 4, target val mIoU ",
        ):
            assert line in log

    def test_page_and_pictures_show_what_was_asked(self, run: Path) -> None:
        page = run / "queries" / "index.html"
        sources: list[str] = []

        class Pictures(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                sources.extend(value for name, value in attrs if tag == "img" and name == "src")

        Pictures().feed(page.read_text())
        assert len(sources) == 1
        assert (page.parent / sources[0]).is_file()
        shown = " ".join(re.sub("<[^>]+>", " ", page.read_text()).split())
        pixels = BOUGHT * SIZE[0] * SIZE[1]
        assert "mada, image, budget 40%, seed 0" in shown
        assert f"round 1 0 {BOUGHT} {BOUGHT} {pixels} {pixels} 0 0 " in shown  # all labelled, none ignored
        drawn = [path.name for path in (run / "pictures").iterdir()]
        farthest = max(scores(run), key=lambda row: float(row["score"]))
        assert drawn == [f"iteration_0000000_queries_{Path(farthest['name']).stem}.png"]
        about = f"{float(farthest['score']):.4g}, nearest {farthest['nearest anchor']}"
        assert f"; distance to {ANCHORS} source anchors: {about}" in shown
        assert list(run.glob("events.out.tfevents*"))

    @pytest.mark.parametrize("place", ["", "stage1", "best"])
    def test_result_of_each_stage_is_scored_as_in_the_run(
        self, run: Path, data: Path, tmp_path: Path, place: str
    ) -> None:
        table = tmp_path / "scores.json"
        words = [run / place, "--data-root", data, "--device", "cpu", "--json", table]
        assert evaluate.main([*map(str, words)]) == 0
        found = json.loads(table.read_text())["runs"][0]
        assert found["protocol"]["name"] == "mada"
        iteration = state_of(run / place)["iteration"]
        scored = {line["iteration"]: line["val/miou"] for line in metrics(run) if "val/miou" in line}
        assert found["mIoU"] == pytest.approx(scored[iteration], abs=1e-9)

    def test_result_labels_images(self, run: Path, data: Path, tmp_path: Path) -> None:
        images = data / "cityscapes" / "leftImg8bit" / "val"
        words = [images, "--restore-from", run, "--output-dir", tmp_path / "out", "--write", "labels"]
        assert predict.main([*map(str, words), "--device", "cpu"]) == 0
        written = sorted((tmp_path / "out").rglob("*.png"))
        assert len(written) == 2
        label = read_raw_label(written[0], "index")
        assert label.shape == SIZE[::-1]
        assert label.max() < CLASSES


def stem(name: str) -> str:
    return name.removesuffix("_leftImg8bit.png")


def test_phase_after_phase_ends_with_the_bits_of_the_one_command(
    run: Path, data: Path, start: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    written = (SOURCE_ANCHORS, LIST, "queries/round_00/labels.npz", "stage1", TARGET_ANCHORS)
    for number, phase in enumerate(PHASES):
        words = command(data, start, folder, "--published-vectors", "--write-masks", "--stop-after", phase)
        assert train_al.main(words) == 0
        assert (folder / DONE).exists()
        there = [(folder / path).exists() for path in written]
        assert there == [place <= number for place in range(len(written))], phase
    assert train_al.main(words[:-2]) == 0  # is done: nothing happens
    for path in (SOURCE_ANCHORS, TARGET_ANCHORS, LIST, SCORES):
        assert (folder / path).read_bytes() == (run / path).read_bytes()
    parts = ("iteration", "weights", "method_state", "optimizers")
    assert_same(
        {name: state_of(folder)[name] for name in parts}, {name: state_of(run)[name] for name in parts}
    )


class TestSelectionAlone:
    @pytest.mark.parametrize("kind", ["ours", "published"])
    def test_by_an_anchor_file(self, run: Path, train: Train, tmp_path: Path, kind: str) -> None:
        path = run / SOURCE_ANCHORS
        if kind == "published":
            path = as_published(anchors_of(run, "source").reshape(-1), tmp_path / path.name)
        folder = train("--source-anchors", path, "--stop-after", "selection")
        assert (folder / LIST).read_bytes() == (run / LIST).read_bytes()
        assert (folder / SCORES).read_bytes() == (run / SCORES).read_bytes()
        assert described(folder) == {"scoring"}
        assert not (folder / "queries" / "round_00" / "labels.npz").exists()

    @pytest.mark.parametrize("kind", ["ours", "published", "matrix", "run"])
    def test_by_a_file_of_vectors(self, run: Path, train: Train, tmp_path: Path, kind: str) -> None:
        path = run / "anchors" / vectors_name("source")
        if kind in ("matrix", "run"):
            path = run if kind == "run" else run / "anchors" / "source_vectors" / "vectors.npy"
        if kind == "published":
            vectors = read_vectors(path, num_classes=CLASSES, channels=CHANNELS)
            path = as_published(vectors.astype(np.float64), tmp_path / path.name)
        folder = train("--source-vectors", path, "--stop-after", "selection")
        for name in (SOURCE_ANCHORS, LIST, SCORES):
            assert (folder / name).read_bytes() == (run / name).read_bytes()
        assert described(folder) == {"scoring"}

    def test_of_a_share_of_other_size_or_a_number(self, train: Train) -> None:
        folder = train("--budget", "3images", "--stop-after", "selection")
        assert len(read_list(folder / "selection_list" / "stage1_cac_list_3images.txt", NAMES)) == 3
        folder = train("--budget", "39.9%", "--stop-after", "selection")  # of 5: rounded down
        assert len(read_list(folder / "selection_list" / "stage1_cac_list_0.399.txt", NAMES)) == 1

    @pytest.mark.parametrize("score", ["random", "entropy"])
    def test_by_another_score_needs_no_source_anchors(self, train: Train, score: str) -> None:
        folder = train("--score", score, "--stop-after", "selection")
        assert described(folder) == ({"scoring"} if score == "entropy" else set())
        assert not (folder / SOURCE_ANCHORS).exists()
        table = scores(folder)
        assert {row["nearest anchor"] for row in table} == {""}
        best = sorted(table, key=lambda row: -float(row["score"]))[:BOUGHT]
        assert sorted(row["name"] for row in best) == asked(folder)
        if score == "entropy":
            assert all(0 < float(row["score"]) < np.log(CLASSES) for row in table)

    def test_at_random_follows_from_the_seed(self, train: Train) -> None:
        random = ["--score", "random", "--stop-after", "selection"]
        chosen = [asked(train(*random, "--seed", seed)) for seed in range(3)]
        assert asked(train(*random)) == chosen[0]
        assert chosen[1] != chosen[0] or chosen[2] != chosen[0]


class TestListsOfImages:
    def test_given_images_are_asked_about_as_they_are(self, train: Train, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "list.txt"
        path.write_bytes(f"{NAMES[4]}\r\n{NAMES[0]}\r\n".encode())  # any order, as some editors write it
        folder = train("--image-list", path, "--stop-after", "stage-1")
        assert asked(folder) == [NAMES[0], NAMES[4]]
        assert described(folder) == set()
        chosen = folder / "selection_list" / "stage1_cac_list_2images.txt"
        assert chosen.read_text() == f"{NAMES[0]}\n{NAMES[4]}\n"
        assert [row["score"] for row in scores(folder)] == [""] * IMAGES
        assert [terms(line) for line in training_lines(folder).values()] == [{"active", "source"}] * STEPS[0]

    def test_labels_of_other_images_need_not_be_there(self, train: Train, data: Path, tmp_path: Path) -> None:
        write_list(tmp_path / "list.txt", NAMES[1:2])
        shutil.copytree(data, tmp_path / "data")
        labels = tmp_path / "data" / "cityscapes" / "gtFine" / "train"
        for path in labels.rglob("*_00000[0234]_*"):
            path.unlink()
        words = ["--image-list", tmp_path / "list.txt", "--stop-after", "labels"]
        folder = train(*words, data=tmp_path / "data")
        assert np.array_equal(
            AnnotationStore(folder / "queries").load(1).mask(NAMES[1]), truth_of(data, NAMES[1])
        )
        assert not training_lines(folder)

    def test_budget_buys_others_than_those_labelled_before(
        self, run: Path, train: Train, tmp_path: Path
    ) -> None:
        write_list(tmp_path / "known.txt", asked(run)[:1])
        words = ["--labelled-list", tmp_path / "known.txt", "--budget", "2images"]
        folder = train(*words, "--stop-after", "stage-1")
        rows = sorted(scores(run), key=lambda row: -float(row["score"]))
        others = [row["name"] for row in rows if row["name"] != asked(run)[0]]
        assert asked(folder) == sorted([asked(run)[0], *others[:2]])
        assert list(AnnotationStore(folder / "queries").load(1).names_with_labels()) == asked(folder)


class TestStage2Alone:
    def test_target_anchors_need_neither_source_nor_labels_nor_list(
        self, run: Path, train: Train, data: Path, tmp_path: Path
    ) -> None:
        images = tmp_path / "cityscapes" / "leftImg8bit"
        shutil.copytree(data / "cityscapes" / "leftImg8bit" / "train", images / "train")
        words = ["--start-at", "target-anchors", "--stop-after", "target-anchors"]
        folder = train(*words, data=tmp_path, start=run / "stage1")
        assert (folder / TARGET_ANCHORS).read_bytes() == (run / TARGET_ANCHORS).read_bytes()
        assert described(folder) == {"target"}
        assert not (folder / "queries").exists() or not list((folder / "queries").iterdir())

    def test_from_the_network_and_the_list_of_stage_1(self, run: Path, train: Train) -> None:
        words = ["--start-at", "target-anchors", "--image-list", run / LIST]
        folder = train(*words, start=run / "stage1")
        assert (folder / TARGET_ANCHORS).read_bytes() == (run / TARGET_ANCHORS).read_bytes()
        lines = training_lines(folder)
        assert list(lines) == list(range(1, STEPS[1] + 1))
        assert all(terms(line) == {"active", "source", "pseudo", "alignment"} for line in lines.values())
        assert lines[1]["lr/segmentation"] == training_lines(run)[1]["lr/segmentation"]
        given = train(*words, "--target-anchors", run / TARGET_ANCHORS, start=run / "stage1")
        assert described(given) == set()
        assert_same(weights(given), weights(folder))

    def test_goes_on_where_the_anchors_were_made_alone(
        self, run: Path, data: Path, start: Path, train: Train, tmp_path: Path
    ) -> None:
        words = ["--start-at", "target-anchors", "--image-list", str(run / LIST)]
        call = command(data, run / "stage1", tmp_path / "run", *QUIET, *words)
        assert train_al.main([*call, "--stop-after", "target-anchors"]) == 0
        assert train_al.main(call) == 0
        assert_same(weights(tmp_path / "run"), weights(train(*words, start=run / "stage1")))

    def test_without_alignment_describes_no_target(self, train: Train) -> None:
        folder = train("--lambda-alignment", "0", "--score", "random")
        assert described(folder) == set()
        assert list(training_lines(folder)) == [1, 2, 3, 4]

    def test_rules_of_the_batch_train_otherwise(self, run: Path, train: Train) -> None:
        words = ["--start-at", "target-anchors", "--image-list", run / LIST]
        last, mean = (train(*words, "--batch-rule", rule, start=run / "stage1") for rule in ("last", "mean"))
        found = [training_lines(folder)[1]["loss/alignment"] for folder in (last, mean)]
        assert found[0] != found[1]


class TestBeginnings:
    def test_published_checkpoint(self, data: Path, tmp_path: Path) -> None:
        path = tmp_path / "from_gta5_to_cityscapes_on_deeplab101_best_model_warmup.pkl"
        torch.save(mada_checkpoint(prefix="module."), path, _use_new_zipfile_serialization=False)
        words = ["--backbone", "resnet101", "--head-channels", "256", "--stop-after", "selection"]
        call = command(data, path, tmp_path / "run", *QUIET, *words, "--allow-absent-classes")
        assert train_al.main(call) == 0
        shape = {"num_anchors": ANCHORS, "num_classes": CLASSES, "channels": 256}
        assert read_centroids(tmp_path / "run" / SOURCE_ANCHORS, **shape).any()
        assert len(asked(tmp_path / "run")) == BOUGHT
        shutil.rmtree(tmp_path / "run")  # 240 MB each
        path.unlink()

    def test_own_warm_up_in_two_runs(self, data: Path, tmp_path: Path) -> None:
        network = [
            "--network",
            "mada_v3plus",
            "--backbone",
            "resnet18_quarter",
            "--head-channels",
            str(CHANNELS),
        ]
        sizes = ["--input-size", "64,48", "--input-size-target", "64,48", "--crop-size", "48,32"]
        words = [
            *network,
            *sizes,
            "--batch-size",
            "2",
            "--num-steps-stop",
            "1",
            "--train-bn",
            "--device",
            "cpu",
        ]
        words += ["--protocol", "mada", "--num-workers", "0", "--no-tensorboard", "--data-root", str(data)]
        source, adapted = tmp_path / "source", tmp_path / "adapted"
        begin = ["--backbone-weights", "none", "--snapshot-dir", str(source)]
        assert train_source.main([*words, *begin]) == 0
        assert train_ms.main([*words, "--restore-from", str(source), "--snapshot-dir", str(adapted)]) == 0
        call = command(data, adapted, tmp_path / "run", *QUIET, "--allow-absent-classes")
        assert train_al.main([*call, "--stage-steps", "1,1"]) == 0
        assert_same(weights(tmp_path / "run" / "iteration_0000000.pth"), weights(adapted))
        assert len(training_lines(tmp_path / "run")) == 2


def test_two_processes_choose_the_same(run: Path, data: Path, start: Path, tmp_path: Path) -> None:
    words = command(data, start, tmp_path / "run", *QUIET, "--published-vectors")
    assert run_forked("train_al", words, processes=2) == [0, 0]
    vectors = f"anchors/{vectors_name('source')}"
    for path in (SOURCE_ANCHORS, f"anchors/{clusters_name('source', ANCHORS)}", vectors, LIST, SCORES):
        assert (tmp_path / "run" / path).read_bytes() == (run / path).read_bytes()
    assert asked(tmp_path / "run") == asked(run)
    words = ["--start-at", "target-anchors", "--stop-after", "target-anchors"]
    call = command(data, run / "stage1", tmp_path / "target", *QUIET, *words)
    assert run_forked("train_al", call, processes=2) == [0, 0]
    assert (tmp_path / "target" / TARGET_ANCHORS).read_bytes() == (run / TARGET_ANCHORS).read_bytes()


def test_synthia_trains_16_classes_and_is_scored_over_16_and_13(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data / "cityscapes", root / "cityscapes")
    write_synthia(root, 4, SIZE)
    start = warmed_up(tmp_path / "warm_up.pth", 16, "synthia16")
    words = ["--source", "synthia", "--classes", "synthia16", "--allow-absent-classes"]
    assert train_al.main(command(root, start, tmp_path / "run", *QUIET, *words)) == 0
    shape = {"num_anchors": ANCHORS, "num_classes": 16, "channels": CHANNELS}
    assert read_centroids(tmp_path / "run" / TARGET_ANCHORS, **shape).any()
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run"), "--data-root", str(root), "--device", "cpu"]) == 0
    table = capsys.readouterr().out
    assert "16" in table
    assert "13" in table


def as_published(array: np.ndarray, path: Path) -> Path:
    """Writes an array as the original's torch.save did: legacy container, numpy's module by its old name."""
    torch.save(array, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy._core" not in content
    assert content.count(b"numpy.core.multiarray") == 1
    path.write_bytes(content)
    return path
