"""Choosing whole images: scores, what is asked about, the lists, and rounds that were cut short."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loaders.samples import Sample
from selection import vector_folder
from selection.budget import Budget
from selection.image_distance import image_scores
from selection.queries import WHOLE_IMAGE
from selection.report import read_captions
from selection.rounds import RoundFolder, RoundInfo, RoundQueries
from selection.store import BoughtLabels
from selection.vector_folder import VectorFolder
from tests.toy_active import SIZE, ArrayImages, DrawnImages, small_network
from tests.toy_training import WORLD
from trainers import description, image_round
from trainers.image_round import ImageQuerySettings, ImageRound, image_query
from utils.errors import UserError

IMAGES, COUNT = 9, 4
NOTHING = BoughtLabels()
ANCHORS = torch.rand(3, 19, 16, generator=torch.Generator().manual_seed(0))


class Counted(DrawnImages):
    """Remembers which images were looked at."""

    def __init__(self) -> None:
        super().__init__(IMAGES)
        self.seen: list[int] = []

    def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
        self.seen.append(index)
        return super().sample(index, generator)


def settings(**changes: Any) -> ImageQuerySettings:
    options = {"budget": Budget.parse("50%"), "score": "published", "seed": 0, "network_input": "48x33"}
    return ImageQuerySettings(**{**options, "pictures": 0, "count": COUNT, **changes})


def a_round(run: Path, samples: Counted | None = None, **changes: Any) -> ImageRound:
    """A round of the run in this folder; keywords of the settings among the changes."""
    names = set(ImageQuerySettings.__dataclass_fields__)
    asked = settings(**{name: value for name, value in changes.items() if name in names})
    parts = {name: value for name, value in changes.items() if name not in names}
    samples = samples or Counted()
    options: dict[str, Any] = {
        "source_anchors": lambda: ANCHORS,
        "network": small_network(),
        "num_workers": 0,
    }
    return ImageRound(
        images=ArrayImages(samples.images),
        settings=asked,
        samples=samples,
        folder=run / "anchors",
        list_folder=run / "selection_list",
        world=WORLD,
        **{**options, **parts},
    )


def select(run: Path, samples: Counted | None = None, **changes: Any) -> RoundQueries | None:
    chosen = a_round(run, samples, **changes)
    query = chosen.settings
    info = RoundInfo(
        number=0,
        iteration=0,
        method="mada",
        setting=query.setting,
        label_radius=query.label_radius,
        exclusion_radius=query.exclusion_radius,
        budget=str(query.budget),
        rounds=query.rounds,
        class_space="cityscapes19",
        image_list=chosen.images.fingerprint,
        images=chosen.asked,
        seed=query.seed,
        score=query.score,
    )
    return chosen.select(RoundFolder(run / "queries" / "round_00"), info, NOTHING)


def positions(queries: RoundQueries | None) -> list[int]:
    assert queries is not None
    return [int(query.name.removesuffix(".png")) for query in queries.images]


def table(run: Path) -> list[dict[str, str]]:
    with (run / "selection_list" / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "PART_IMAGES", 2)
    monkeypatch.setattr(image_round, "PART_IMAGES", 2)
    monkeypatch.setattr(vector_folder, "_ROWS_AT_ONCE", 4)


class TestSettings:
    def test_say_that_whole_images_are_asked_about_in_one_round(self) -> None:
        chosen = settings()
        assert (chosen.setting, chosen.rounds) == ("image", 1)
        assert chosen.label_radius == chosen.exclusion_radius == WHOLE_IMAGE


class TestRound:
    def test_asks_about_the_images_farthest_from_the_source(self, tmp_path: Path) -> None:
        queries = select(tmp_path)
        vectors = VectorFolder(tmp_path / "anchors" / "scoring_vectors").vectors()
        scores = image_scores(vectors, ANCHORS).values
        assert len(set(scores.tolist())) == IMAGES
        assert positions(queries) == sorted(np.argsort(-scores)[:COUNT].tolist())

    def test_query_is_the_whole_image_with_its_prediction(self, tmp_path: Path) -> None:
        queries = select(tmp_path)
        network = small_network().eval()
        assert queries is not None
        assert queries.pixels == COUNT * SIZE[0] * SIZE[1]
        for query in queries.images:
            assert query.size == SIZE
            assert len(query.pixels(queries.info.label_radius)) == SIZE[0] * SIZE[1]
            image = torch.from_numpy(DrawnImages(IMAGES).images[int(query.name.removesuffix(".png"))])
            with torch.no_grad():
                logits = network(image[None]).logits
            full = torch.nn.functional.interpolate(logits, size=SIZE, mode="bilinear", align_corners=True)
            assert np.array_equal(query.predicted, full.argmax(1).flatten().numpy())

    def test_writes_the_published_lists_and_all_scores(self, tmp_path: Path) -> None:
        asked = positions(select(tmp_path))
        folder = tmp_path / "selection_list"
        assert (folder / "stage1_cac_list_0.5.txt").read_text() == "".join(f"{n}.png\n" for n in asked)
        assert (folder / "stage1_cac_index_0.5.txt").read_text() == "".join(f"{n}\n" for n in asked)
        rows = table(tmp_path)
        assert [row["name"] for row in rows] == [f"{number}.png" for number in range(IMAGES)]
        assert [number for number, row in enumerate(rows) if row["chosen"] == "1"] == asked
        vectors = VectorFolder(tmp_path / "anchors" / "scoring_vectors").vectors()
        expected = image_scores(vectors, ANCHORS)
        assert [float(row["score"]) for row in rows] == expected.values.tolist()
        assert [int(row["nearest anchor"]) for row in rows] == list(expected.nearest)

    def test_entropy_baseline_needs_no_anchors(self, tmp_path: Path) -> None:
        queries = select(tmp_path, score="entropy", source_anchors=None)
        entropies = VectorFolder(tmp_path / "anchors" / "scoring_vectors").entropies()
        assert positions(queries) == sorted(np.argsort(-entropies)[:COUNT].tolist())
        assert {row["nearest anchor"] for row in table(tmp_path)} == {""}

    def test_random_baseline_describes_nothing(self, tmp_path: Path) -> None:
        samples = Counted()
        asked = positions(select(tmp_path, samples, score="random", source_anchors=None))
        assert samples.seen == asked
        assert not (tmp_path / "anchors").exists()
        others = {
            str(positions(select(tmp_path / str(seed), score="random", seed=seed))) for seed in range(4)
        }
        assert str(asked) in others
        assert len(others) > 1

    def test_images_that_are_given_are_asked_about_without_scores(self, tmp_path: Path) -> None:
        listed, known = np.array([7, 2, 5]), np.array([0])
        samples = Counted()
        queries = select(tmp_path, samples, listed=listed, known=known, budget=None, source_anchors=None)
        assert positions(queries) == samples.seen == [0, 2, 5, 7]
        assert (tmp_path / "selection_list" / "stage1_cac_list_4images.txt").is_file()
        rows = table(tmp_path)
        assert {row["score"] for row in rows} == {""}
        assert [row["chosen"] for row in rows] == list("101001010")
        assert [row["by"] for row in rows if row["by"]] == ["labelled-list", *(3 * ["image-list"])]

    def test_known_images_are_asked_about_too(self, tmp_path: Path) -> None:
        free = positions(select(tmp_path / "free"))
        known = [number for number in range(IMAGES) if number not in free][:2]
        queries = select(tmp_path / "known", known=np.array(known), count=COUNT + 2)
        assert positions(queries) == sorted(free + known)
        assert (tmp_path / "known" / "selection_list" / f"stage1_cac_list_{COUNT + 2}images.txt").is_file()
        assert [int(row["name"][:-4]) for row in table(tmp_path / "known") if row["by"] == "score"] == free

    def test_says_what_it_did(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            select(tmp_path)
        [line] = [message for message in caplog.messages if message.startswith("chose ")]
        assert f"chose {COUNT} of {IMAGES} images by distance to 3 source anchors, " in line
        assert line.endswith(str(tmp_path / "selection_list" / "stage1_cac_list_0.5.txt"))

    def test_images_with_the_highest_scores_are_drawn_with_captions(self, tmp_path: Path) -> None:
        asked = positions(select(tmp_path, pictures=2))
        folder = tmp_path / "queries" / "round_00"
        rows = table(tmp_path)
        best = sorted(asked, key=lambda number: -float(rows[number]["score"]))[:2]
        assert best != asked[:2]
        assert sorted(path.name for path in (folder / "scores").iterdir()) == sorted(f"{n}.png" for n in best)
        captions = {
            f"{number}.png": f"distance to 3 source anchors: {float(rows[number]['score']):.4g}, "
            f"nearest {rows[number]['nearest anchor']}"
            for number in best
        }
        assert list(read_captions(folder).items()) == list(captions.items())

    def test_of_images_that_are_given_the_first_are_drawn(self, tmp_path: Path) -> None:
        select(tmp_path, listed=np.array([7, 2, 5, 3]), budget=None, source_anchors=None, pictures=2)
        assert read_captions(tmp_path / "queries" / "round_00") == {"2.png": "", "3.png": ""}

    def test_network_gets_its_mode_back(self, tmp_path: Path) -> None:
        network = small_network().train()
        select(tmp_path, network=network)
        assert network.training


class TestCutShort:
    def test_anchors_that_were_stopped(self, tmp_path: Path) -> None:
        samples = Counted()
        assert select(tmp_path, samples, source_anchors=lambda: None) is None
        assert samples.seen == []

    @pytest.mark.parametrize("done", [1, 4, IMAGES + 1, IMAGES + 3])
    def test_goes_on_where_it_stopped(self, tmp_path: Path, done: int) -> None:
        samples = Counted()
        assert select(tmp_path, samples, stop=lambda: len(samples.seen) > done) is None
        again = Counted()
        queries = select(tmp_path, again)
        total = IMAGES + COUNT
        assert len(again.seen) == total - done
        assert queries is not None
        whole = select(tmp_path / "whole")
        assert whole is not None
        assert queries.digest() == whole.digest()
        lists = [sorted((run / "selection_list").iterdir()) for run in (tmp_path, tmp_path / "whole")]
        assert [path.read_bytes() for path in lists[0]] == [path.read_bytes() for path in lists[1]]

    def test_finished_queries_are_read(self, tmp_path: Path) -> None:
        first = select(tmp_path)
        samples = Counted()
        again = select(tmp_path, samples, source_anchors=None)
        assert samples.seen == []
        assert first is not None
        assert again is not None
        assert again.digest() == first.digest()

    def test_predictions_of_images_that_are_not_asked_about_are_left_out(self, tmp_path: Path) -> None:
        samples = Counted()
        select(tmp_path, samples, score="random", stop=lambda: len(samples.seen) > 2)
        folder = RoundFolder(tmp_path / "queries" / "round_00")
        assert len(folder.part_names()) == 2
        listed = np.array([number for number in range(IMAGES) if f"{number}.png" not in folder.part_names()])
        queries = select(tmp_path, score="random", listed=listed[:COUNT])
        assert positions(queries) == listed[:COUNT].tolist()

    def test_round_of_another_run(self, tmp_path: Path) -> None:
        select(tmp_path)
        with pytest.raises(UserError, match="seed is 0 there and 1 here"):
            select(tmp_path, seed=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_prediction_that_is_not_finite_names_the_image(value: float) -> None:
    logits = torch.zeros(1, 19, 4, 5)
    logits[0, 2, 1, 1] = value
    with pytest.raises(UserError, match=r"a\.png is not finite"):
        image_query(logits, "a.png", (8, 10))


def test_scores_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="image scores are not finite"):
        select(tmp_path, source_anchors=lambda: ANCHORS * float("nan"))
    assert not (tmp_path / "selection_list").exists()
