"""Active learning on drawn pictures: what each method and setting asks, trains, logs and leaves behind."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import train_al
import train_source
from data_loaders.decoding import map_label, read_raw_label
from data_loaders.description import load_description
from selection.class_weights import class_weights
from selection.queries import RoundQueries
from selection.store import AnnotationStore
from tests.official_formats import write_cityscapes, write_gta5
from utils import snapshots
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.runs import ARGUMENTS_FILE, DONE

SIZE = (64, 48)
IMAGES = 4  # of the target
ROUNDS = (1, 3)
NETWORK = shlex.split("--network deeplab_v3plus --backbone resnet18_quarter --head-channels 8")
WORDS = shlex.split(
    "--input-size 64,48 --input-size-target 64,48 --batch-size 2 --num-workers 0 --num-steps 20 "
    "--num-steps-stop 4 --log-every 1 --save-every 10 --device cpu --learning-rate 0.001"
)
BUDGET = ["--select-iterations", ",".join(map(str, ROUNDS)), "--budget", "5%", "--query-pictures", "1"]
RANDOM = ["--backbone-weights", "none"]
QUIET = ["--no-tensorboard", "--source-order", "shuffled"]
DWACA = ["--method", "dwaca", "--dropout-schedule", "always"]
SPACE = class_space("cityscapes19")
Train = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve source images with all classes, four target images, two to score."""
    root = tmp_path_factory.mktemp("data")
    write_gta5(root, 12, SIZE)
    write_cityscapes(root, IMAGES, SIZE)
    write_cityscapes(root, 2, SIZE, split="val")
    return root


@pytest.fixture(scope="module")
def train(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Trains with these further arguments, each kind once; returns the run folder."""
    root = tmp_path_factory.mktemp("runs")
    folders: dict[tuple[str, ...], Path] = {}

    def run(*words: str, data: Path = data) -> Path:
        if words not in folders:
            folders[words] = root / str(len(folders))
            start = [] if "--restore-from" in words else RANDOM
            places = ["--data-root", str(data), "--snapshot-dir", str(folders[words])]
            assert train_al.main([*NETWORK, *WORDS, *BUDGET, *start, *places, *words]) == 0
        return folders[words]

    return run


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def queries_of(folder: Path, number: int) -> RoundQueries:
    queries = AnnotationStore(folder / "queries").round(number).queries()
    assert queries is not None
    return queries


def picks(folder: Path) -> dict[str, list[list[int]]]:
    """All picks, by round and image."""
    return {
        f"{number} {query.name}": query.picks.tolist()
        for number in range(len(ROUNDS))
        for query in queries_of(folder, number).images
    }


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return snapshots.read(snapshots.resolve(folder))["weights"]


def truth(data: Path, name: str) -> np.ndarray:
    """(H, W) train ids of a target image."""
    path = data / "cityscapes" / "gtFine" / "train" / name.replace("leftImg8bit", "gtFine_labelIds")
    return map_label(read_raw_label(path, "index"), load_description("cityscapes").label_table(SPACE.name))


def closest(picked: np.ndarray) -> int:
    """Smallest Chebyshev distance of two picks."""
    distance = np.abs(picked[:, None].astype(int) - picked[None].astype(int)).max(2)
    return int(distance[~np.eye(len(picked), dtype=bool)].min())


@pytest.fixture(scope="module")
def run(train: Train) -> Path:
    """One run with everything that a run leaves behind."""
    return train("--evaluate-every", "2")


class TestRegions:
    def test_folder_holds_arguments_logs_snapshots_and_the_mark(self, run: Path) -> None:
        arguments = json.loads((run / ARGUMENTS_FILE).read_text())["arguments"]
        assert arguments["script"] == "train_al.py"
        assert arguments["select_iterations"] == list(ROUNDS)
        assert json.loads((run / DONE).read_text())["text"].startswith("iteration 4, target val mIoU ")
        assert {path.name for path in run.glob("*.pth")} >= {f"iteration_000000{n}.pth" for n in (1, 3, 4)}
        assert list(run.glob("events.out.tfevents*"))

    def test_terms_of_the_method_are_logged(self, run: Path) -> None:
        lines = {line["iteration"]: line for line in metrics(run) if "lr/segmentation" in line}
        terms = {f"loss/{name}" for name in ("source", "target", "consistency", "negative")}
        assert all({name for name in line if name.startswith("loss/")} == terms for line in lines.values())
        assert lines[1]["loss/target"] == 0  # nothing is bought yet
        assert lines[2]["loss/target"] > 0

    def test_every_round_asks_for_its_share_in_squares_apart(self, run: Path) -> None:
        earlier = {query.name: query.picks[:0] for query in queries_of(run, 0).images}
        for number in range(len(ROUNDS)):
            queries = queries_of(run, number)
            assert queries.info.iteration == ROUNDS[number]
            assert len(queries.images) == IMAGES
            for query in queries.images:
                assert len(query.picks) == 9  # ceil(64 * 48 * 5 % / 2 rounds / 9 pixels)
                picked = np.concatenate([earlier[query.name], query.picks])
                assert closest(picked) > 2
                earlier[query.name] = picked

    def test_bought_labels_are_the_truth_of_the_squares(self, run: Path, data: Path) -> None:
        bought = AnnotationStore(run / "queries").load(len(ROUNDS))
        for query in queries_of(run, 0).images:
            mask, label = bought.mask(query.name), truth(data, query.name)
            expected = np.full_like(label, IGNORE_LABEL)
            for number in range(len(ROUNDS)):
                for row, column in queries_of(run, number)[query.name].picks:
                    square = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
                    expected[square] = label[square]
            assert np.array_equal(mask, expected)

    def test_shares_are_logged_by_round_and_class(self, run: Path) -> None:
        lines = [line for line in metrics(run) if "queries/pixels" in line]
        assert [line["iteration"] for line in lines] == list(ROUNDS)
        for number, line in enumerate(lines):
            queries = queries_of(run, number)
            labels = AnnotationStore(run / "queries").round(number).labels()
            assert line["queries/pixels"] == queries.pixels
            assert line["queries/regions"] == 9 * IMAGES
            for index, name in enumerate(SPACE.class_names):
                share = 100 * (labels == index).sum() / len(labels)
                assert line[f"queries/share/{name}"] == pytest.approx(share)
        drawn = sorted(path.name for path in (run / "pictures").iterdir())
        stem = "aachen_000000_000019_leftImg8bit"
        assert drawn == [f"iteration_{number:07d}_queries_{stem}.png" for number in ROUNDS]

    def test_page_shows_both_rounds_with_their_pictures(self, run: Path) -> None:
        page = run / "queries" / "index.html"
        sources: list[str] = []

        class Pictures(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                sources.extend(value for name, value in attrs if tag == "img" and name == "src")

        Pictures().feed(page.read_text())
        assert len(sources) == len(ROUNDS)
        assert all((page.parent / source).is_file() for source in sources)

    def test_evaluation_reads_the_snapshot_under_the_protocol_of_the_run(
        self, run: Path, data: Path, tmp_path: Path
    ) -> None:
        table = tmp_path / "scores.json"
        assert (
            evaluate.main([str(run), "--data-root", str(data), "--device", "cpu", "--json", str(table)]) == 0
        )
        found = json.loads(table.read_text())["runs"][0]
        assert found["protocol"]["name"] == "ripu"
        assert found["protocol"]["base_size"] == list(SIZE)
        scored = [line for line in metrics(run) if "val/miou" in line]
        assert [line["iteration"] for line in scored] == [2, 4]
        assert snapshots.read(snapshots.resolve(run))["metrics"]["val/miou"] == scored[-1]["val/miou"]
        assert found["mIoU"] == pytest.approx(scored[-1]["val/miou"], abs=1e-9)


def test_pixels_are_bought_one_by_one_and_far_apart(train: Train) -> None:
    run = train(*QUIET, "--setting", "pixel", "--radius", "4", "--budget", "16px")
    for number in range(len(ROUNDS)):
        queries = queries_of(run, number)
        assert (queries.info.label_radius, queries.info.exclusion_radius) == (0, 4)
        assert queries.pixels == 8 * IMAGES
    for query in queries_of(run, 0).images:
        assert closest(np.concatenate([queries_of(run, n)[query.name].picks for n in range(2)])) > 4


def test_baselines_ask_elsewhere(train: Train) -> None:
    kinds = {score: picks(train(*QUIET, "--score", score)) for score in ("published", "entropy", "random")}
    first = f"0 {next(iter(kinds['random'])).split()[1]}"
    assert len({json.dumps(found[first]) for found in kinds.values()}) == 3
    assert all(len(found[first]) == 9 for found in kinds.values())
    random = train(*QUIET, "--score", "random")
    assert queries_of(random, 0).info.score == "random"
    assert closest(queries_of(random, 0).images[0].picks) > 2
    places = [json.dumps(found) for found in kinds["random"].values()]
    assert len(set(places)) == len(places)  # other places in every image and round


class TestClassWeights:
    @pytest.mark.parametrize("chosen", ["validation", "source", "labelled"])
    def test_are_those_of_the_measured_iou_and_change_the_selection(self, train: Train, chosen: str) -> None:
        run = train(*QUIET, *DWACA, "--class-weights-from", chosen)
        found = [queries_of(run, number).info.class_weights for number in range(len(ROUNDS))]
        plain = picks(train(*QUIET, "--score", "published"))
        if chosen == "labelled":  # there is nothing to measure on before the first round
            assert found[0] == (1.0,) * 19
        else:
            assert max(found[0]) == 1 > min(found[0])
            assert (
                picks(run)["0 aachen/aachen_000000_000019_leftImg8bit.png"]
                != plain["0 aachen/aachen_000000_000019_leftImg8bit.png"]
            )
        assert max(found[1]) == 1 > min(found[1])
        assert found[0] != found[1]
        assert picks(run) != plain

    def test_from_validation_are_those_of_the_logged_scores(self, train: Train) -> None:
        run = train(*QUIET, *DWACA, "--class-weights-from", "validation")
        for number, iteration in enumerate(ROUNDS):
            line = next(x for x in metrics(run) if x["iteration"] == iteration and "val/miou" in x)
            iou = np.array([line[f"val/iou/{name}"] for name in SPACE.class_names]) / 100
            found = queries_of(run, number).info.class_weights
            assert found == tuple(class_weights(iou.astype(np.float32)))

    def test_all_equal_make_ripu_bit_for_bit(self, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainers.class_weighting.class_weights", np.ones_like)
        dwaca = train(*QUIET, *DWACA, "--class-weights-from", "source", "--class-weight-images", "1")
        ripu = train(*QUIET, "--score", "published")
        assert queries_of(dwaca, 1).info.class_weights == (1.0,) * 19
        assert picks(dwaca) == picks(ripu)
        ours, theirs = weights(dwaca), weights(ripu)
        assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_without_source_data_it_starts_with_a_round(data: Path, train: Train, tmp_path: Path) -> None:
    source = tmp_path / "source"
    words = [*NETWORK, *WORDS, *RANDOM, "--crop-size", "48,32", "--no-tensorboard"]
    assert train_source.main([*words, "--data-root", str(data), "--snapshot-dir", str(source)]) == 0
    target = tmp_path / "data"
    shutil.copytree(data / "cityscapes", target / "cityscapes")
    words = ["--source-free", "--restore-from", str(source), "--select-iterations", "0,2", "--no-tensorboard"]
    run = train(*words, data=target)
    assert [queries_of(run, number).info.iteration for number in range(2)] == [0, 2]
    lines = [line for line in metrics(run) if "lr/segmentation" in line]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        assert {name for name in line if name.startswith("loss/")} == {"loss/target", "loss/negative"}
        assert line["loss/target"] > 0
    start = snapshots.read(run / "iteration_0000000.pth")["weights"]
    restored = weights(source)
    assert all(torch.equal(start[name], value) for name, value in restored.items())


@pytest.fixture(scope="module")
def written(train: Train) -> Path:
    """A run that also writes the originals' files."""
    return train(*QUIET, "--write-masks")


class TestMasksOfTheOriginals:
    def test_hold_what_was_bought(self, written: Path, data: Path) -> None:
        bought = AnnotationStore(written / "queries").load(len(ROUNDS))
        for query in queries_of(written, 0).images:
            stem = query.name.removesuffix("_leftImg8bit.png")
            mask = read_raw_label(
                written / "queries" / "gtMask" / "train" / f"{stem}_gtFine_labelIds.png", "index"
            )
            assert np.array_equal(mask, bought.mask(query.name))
            indicator = written / "queries" / "gtIndicator" / "train" / f"{stem}_indicator.pth"
            maps = torch.load(indicator, weights_only=True)
            assert np.array_equal(maps["active"].numpy(), bought.blocked(query.name))
            assert np.array_equal(maps["selected"].numpy(), bought.selected(query.name))

    def test_count_as_bought_before_the_first_round(self, written: Path, train: Train) -> None:
        before = AnnotationStore(written / "queries").load(len(ROUNDS))
        run = train(*QUIET, "--annotations-from", str(written / "queries"))
        store = AnnotationStore(run / "queries")
        lines = [line for line in metrics(run) if "loss/target" in line]
        assert lines[0]["loss/target"] > 0  # labels before any round of this run
        for query in queries_of(run, 0).images:
            assert np.array_equal(store.load(0).mask(query.name), before.mask(query.name))
            blocked = before.blocked(query.name)
            assert not any(blocked[row, column] for row, column in query.picks)

    def test_of_another_list_of_images_are_refused(
        self, written: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        masks = tmp_path / "masks"
        shutil.copytree(written / "queries", masks)
        next((masks / "gtMask").rglob("*_000000_*")).unlink()
        folder = tmp_path / "run"
        words: list[Any] = [*NETWORK, *WORDS, *BUDGET, *RANDOM, *QUIET, "--annotations-from", masks]
        words += ["--data-root", data, "--snapshot-dir", folder]
        assert train_al.main([*map(str, words)]) == 2
        assert "aachen_000000_000019_gtFine_labelIds.png is missing" in capsys.readouterr().err
        assert not folder.exists()
