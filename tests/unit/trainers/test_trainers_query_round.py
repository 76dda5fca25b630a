"""Choosing the regions of a round: one image, and all images in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selection import scores
from selection.budget import Budget
from selection.regions import select_regions
from selection.rounds import RoundFolder, RoundInfo
from selection.store import BoughtLabels
from tests.toy_active import ArrayImages, DrawnImages, small_network
from tests.toy_training import WORLD
from trainers import query_round
from trainers.query_round import QueryRound, QuerySettings, Selected, select_image
from utils import distributed
from utils.errors import UserError

SIZE, INPUT = (40, 60), (33, 48)
IMAGES = 7
NOTHING = BoughtLabels()


def settings(**changes: Any) -> QuerySettings:
    chosen = {"setting": "region", "budget": Budget.parse("10%"), "radius": 1, "rounds": 2}
    return QuerySettings(**{**chosen, "training_size": (48, 33), "pictures": 0, **changes})


def logits(seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(19, 9, 12, generator=torch.Generator().manual_seed(seed))


def selected(**changes: Any) -> Selected:
    """A selection in one image."""
    options = {"number": 0, "size": SIZE, "network_input": INPUT, "blocked": None, "settings": settings()}
    return select_image(changes.pop("logits", logits()), "a.png", **{**options, **changes})


class TestSettings:
    @pytest.mark.parametrize(("setting", "label", "exclusion"), [("region", 3, 6), ("pixel", 0, 3)])
    def test_radii(self, setting: str, label: int, exclusion: int) -> None:
        chosen = settings(setting=setting, radius=3)
        assert (chosen.label_radius, chosen.exclusion_radius) == (label, exclusion)

    def test_pixels_are_counted_at_the_training_size(self) -> None:
        chosen = settings(setting="pixel", budget=Budget.parse("40px"), training_size=(20, 10))
        assert chosen.picks((20, 40)) == 80  # 40 pixels / 2 rounds, in an image of 4 times the area


class TestSelectImage:
    @pytest.mark.parametrize("setting", ["region", "pixel"])
    def test_is_the_score_of_the_setting_and_the_greedy_choice(self, setting: str) -> None:
        chosen = settings(setting=setting, radius=2, budget=Budget.parse("2%"))
        blocked = np.zeros(SIZE, bool)
        blocked[:20] = True
        found = selected(settings=chosen, blocked=blocked)
        score_of = scores.region_scores if setting == "region" else scores.pixel_scores
        maps = score_of(logits(), size=SIZE, network_input=INPUT, radius=2)
        assert torch.equal(found.score, maps.score)
        picks = select_regions(
            maps.score,
            torch.from_numpy(blocked),
            chosen.picks(SIZE),
            exclusion_radius=chosen.exclusion_radius,
        )
        assert found.query.picks.tolist() == picks.tolist()
        assert found.query.picks[:, 0].min() >= 20

    def test_keeps_the_prediction_of_every_queried_pixel(self) -> None:
        found = selected().query
        prediction = scores.region_scores(logits(), size=SIZE, network_input=INPUT, radius=1).prediction
        assert np.array_equal(found.predicted, prediction.numpy().reshape(-1)[found.pixels(1)])

    def test_class_weights_move_the_picks(self) -> None:
        weights = torch.full((19,), 1e-12, dtype=torch.float64)
        weights[4] = 1
        weighted = selected(class_weight=weights)
        assert weighted.query.picks.tolist() != selected().query.picks.tolist()
        even = selected(class_weight=torch.ones(19, dtype=torch.float64))
        assert even.query.picks.tolist() == selected().query.picks.tolist()

    def test_random_places_follow_from_seed_round_and_image_alone(self) -> None:
        def places(seed: int = 0, **where: int) -> str:
            chosen = settings(score="random", seed=seed)
            return str(selected(settings=chosen, **where).query.picks.tolist())

        drawn = [places(), places(seed=1), places(number=1), places(round_number=1)]
        assert len(set(drawn)) == 4
        assert places(logits=logits(1)) == places()

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_network_that_is_broken_is_named_with_the_image(self, value: float) -> None:
        broken = logits()
        broken[3, 2, 1] = value
        with pytest.raises(UserError, match=r"a\.png is not finite"):
            selected(logits=broken)


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return RoundFolder(tmp_path / "round_00")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are selected, in the order in which they are."""
    found: list[str] = []

    def recording(logits: torch.Tensor, name: str, **options: Any) -> Selected:
        found.append(name)
        return select_image(logits, name, **options)

    monkeypatch.setattr(query_round, "select_image", recording)
    monkeypatch.setattr(query_round, "PART_IMAGES", 2)
    return found


def query(**changes: Any) -> QueryRound:
    parts = {"images": ArrayImages(DrawnImages(IMAGES).images), "settings": settings(), "num_workers": 0}
    return QueryRound(small_network(), world=WORLD, **{**parts, **changes})


def info(**changes: Any) -> RoundInfo:
    chosen = {"number": 0, "iteration": 5, "method": "ripu", "setting": "region", "label_radius": 1}
    chosen |= {"exclusion_radius": 2, "budget": "10%", "rounds": 2, "class_space": "cityscapes19"}
    chosen |= {"image_list": "7 arrays", "images": IMAGES, "seed": 0}
    return RoundInfo(**{**chosen, **changes})


class TestRound:
    def test_asks_about_every_image_once_in_the_order_of_the_list(
        self, folder: RoundFolder, names: list[str]
    ) -> None:
        queries = query(num_workers=2).select(folder, info(), NOTHING)
        expected = [f"{number}.png" for number in range(IMAGES)]
        assert names == [image.name for image in queries.images] == expected
        assert len({str(image.picks.tolist()) for image in queries.images}) == IMAGES

    def test_finished_queries_are_read_without_a_network(self, folder: RoundFolder, names: list[str]) -> None:
        first = query().select(folder, info(), NOTHING)
        names.clear()
        again = query().select(folder, info(), NOTHING)
        assert names == []
        assert again.digest() == first.digest()

    @pytest.mark.parametrize("done", [1, 2, 5])
    def test_stopped_round_keeps_what_is_done_and_selects_the_rest(
        self, folder: RoundFolder, names: list[str], done: int
    ) -> None:
        stopped = query(stop=lambda: len(names) == done)
        assert stopped.select(folder, info(), NOTHING) is None
        assert folder.part_names() == set(names)
        queries = query().select(folder, info(), NOTHING)
        assert sorted(names) == sorted(image.name for image in queries.images)
        whole = RoundFolder(folder.folder.with_name("whole"))
        assert queries.digest() == query().select(whole, info(), NOTHING).digest()

    def test_images_that_are_missing_are_split_over_the_processes(
        self, folder: RoundFolder, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        query(stop=lambda: len(names) == 3).select(folder, info(), NOTHING)
        names.clear()
        shard = distributed.shard
        with monkeypatch.context() as patched:
            patched.setattr(distributed, "shard", lambda n: shard(n, rank=1, size=2))
            patched.setattr(distributed, "any_rank", lambda flag, what: True)
            assert query().select(folder, info(), NOTHING) is None
        assert names == ["5.png", "6.png"]

    def test_nothing_is_picked_where_something_was_bought(
        self, folder: RoundFolder, names: list[str]
    ) -> None:
        class LeftHalf(BoughtLabels):
            def size_of(self, name: str) -> tuple[int, int]:
                return INPUT

            def blocked(self, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
                assert size == INPUT
                return np.arange(48)[None].repeat(33, 0) < 24

        queries = query().select(folder, info(), LeftHalf())
        assert all((image.picks[:, 1] >= 24).all() for image in queries.images)

    def test_folder_of_another_run(self, folder: RoundFolder, names: list[str]) -> None:
        query(stop=lambda: len(names) == 3).select(folder, info(), NOTHING)
        names.clear()
        with pytest.raises(UserError, match="seed is 0 there and 1 here"):
            query().select(folder, info(seed=1), NOTHING)
        assert names == []

    def test_network_is_in_eval_mode_meanwhile(
        self, folder: RoundFolder, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chosen = query()
        modes = []

        def noted(*args: Any, **options: Any) -> Selected:
            modes.append((chosen.network.training, torch.is_grad_enabled()))
            return select_image(*args, **options)

        monkeypatch.setattr(query_round, "select_image", noted)
        chosen.network.train()
        chosen.select(folder, info(), NOTHING)
        assert set(modes) == {(False, False)}
        assert chosen.network.training

    def test_score_maps_of_the_first_images_are_kept_for_their_pictures(
        self, folder: RoundFolder, names: list[str]
    ) -> None:
        query(settings=settings(pictures=2)).select(folder, info(), NOTHING)
        assert sorted(path.name for path in (folder.folder / "scores").iterdir()) == ["0.png", "1.png"]
