"""What query rounds do without a trainer: select, ask, buy, take over, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selection.rounds import RoundFolder, RoundQueries
from tests.toy_active import DrawnImages
from tests.toy_anchored import COUNT, IMAGES, after_calls, staged_trainer
from trainers import query_rounds
from trainers.loop_settings import Interrupted, Outcome, WaitForLabels
from trainers.oracles import TruthOracle
from trainers.query_rounds import AnnotationState, QueryRounds
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError

TRUTH = DrawnImages(IMAGES, seed=1).truth


def whole_image_rounds(folder: Path, **changes: Any) -> QueryRounds:
    """One round about whole images that are drawn at random."""
    return staged_trainer(folder, **{"score": "random", **changes}).rounds


class Asked:
    """An oracle that gives this outcome, or the truth; remembers what it was asked."""

    def __init__(self, outcome: Outcome = None) -> None:
        self.outcome = outcome
        self.names: list[str] = []

    def answer(self, folder: RoundFolder, queries: RoundQueries) -> Outcome:
        self.names += [query.name for query in queries.images]
        if self.outcome is not None:
            return self.outcome
        return TruthOracle(TRUTH, num_workers=0).answer(folder, queries)


class TestState:
    def test_nothing_is_bought_at_first(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path)
        assert int(rounds.state.rounds) == 0
        assert rounds.state.is_of(rounds.reader.bought)

    def test_follows_what_is_bought(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path)
        before = AnnotationState()
        before.load_state_dict(rounds.state.state_dict())
        assert rounds.run(0, 0) is None
        assert int(rounds.state.rounds) == rounds.reader.bought.rounds == 1
        assert rounds.state.is_of(rounds.reader.bought)
        assert not before.is_of(rounds.reader.bought)
        assert before.is_of(rounds.store.load(0))


class TestSelect:
    def test_record_says_what_the_round_is(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path, identity="0123abcd")
        queries = rounds.select(0, 0)
        assert queries is not None
        info = queries.info
        assert info == rounds.store.round(0).info()
        assert (info.number, info.iteration, info.rounds, info.images) == (0, 0, 1, COUNT)
        assert (info.method, info.setting, info.score, info.run) == ("mada", "image", "random", "0123abcd")
        assert (info.budget, info.network_input, info.seed) == ("3images", "48x33", 0)
        assert info.whole_images
        assert info.class_weights is None

    def test_buys_nothing(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path)
        rounds.select(0, 0)
        assert rounds.reader.bought.rounds == 0
        assert not rounds.store.round(0).has_labels()

    def test_is_the_same_when_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = whole_image_rounds(tmp_path).select(0, 0)
        monkeypatch.setattr("trainers.image_round.image_query", lambda *given: pytest.fail("again"))
        again = whole_image_rounds(tmp_path).select(0, 0)
        assert first is not None
        assert again is not None
        assert again.digest() == first.digest()

    def test_that_is_cut_short_asks_nobody(self, tmp_path: Path) -> None:
        oracle = Asked()
        rounds = whole_image_rounds(tmp_path, oracle=oracle, stops={"choice": after_calls(1)})
        assert rounds.select(0, 0) is None
        assert isinstance(rounds.run(0, 0), Interrupted)
        assert oracle.names == []


class TestBuy:
    def test_takes_whole_images_over(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path)
        queries = rounds.select(0, 0)
        assert queries is not None
        assert rounds.buy(queries) is None
        bought = rounds.reader.bought
        assert set(bought.names_with_labels()) == {query.name for query in queries.images}
        for number in range(IMAGES):
            name = f"{number}.png"
            if name in bought.names_with_labels():
                assert np.array_equal(bought.mask(name), TRUTH(name))
            else:
                assert bought.size_of(name) is None

    def test_asks_once(self, tmp_path: Path) -> None:
        oracle = Asked()
        rounds = whole_image_rounds(tmp_path, oracle=oracle)
        queries = rounds.select(0, 0)
        assert queries is not None
        for _ in range(2):
            assert rounds.buy(queries) is None
        assert whole_image_rounds(tmp_path, oracle=oracle).run(0, 0) is None
        assert oracle.names == [query.name for query in queries.images]

    def test_waits_with_the_oracle(self, tmp_path: Path) -> None:
        waiting = WaitForLabels("label them")
        rounds = whole_image_rounds(tmp_path, oracle=Asked(waiting))
        assert rounds.run(0, 0) is waiting
        assert rounds.reader.bought.rounds == int(rounds.state.rounds) == 0
        assert not (rounds.store.folder / "index.html").exists()

    def test_is_reported(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reported = []
        monkeypatch.setattr(query_rounds, "report_round", lambda *given, **options: reported.append(options))
        rounds = whole_image_rounds(tmp_path)
        rounds.run(0, 0)
        assert [options["pictures"] for options in reported] == [0]
        assert reported[0]["images"] is rounds.query.images

    def test_writes_masks_of_the_queried_images_where_they_are_wanted(self, tmp_path: Path) -> None:
        for name, wanted in (("without", False), ("with", True)):
            rounds = whole_image_rounds(tmp_path / name)
            rounds.write_masks = wanted
            rounds.run(0, 0)
            masks = [path for path in rounds.store.folder.rglob("*.png") if "gtMask" in path.parts]
            assert len(masks) == (COUNT if wanted else 0)


class TestRestore:
    def test_reads_what_the_snapshot_was_trained_with(self, tmp_path: Path) -> None:
        first = whole_image_rounds(tmp_path)
        first.run(0, 0)
        again = whole_image_rounds(tmp_path)
        assert again.reader.bought.rounds == 0
        again.state.load_state_dict(first.state.state_dict())
        again.restore()
        assert again.reader.bought.digest == first.reader.bought.digest

    def test_forgets_what_was_bought_after_it(self, tmp_path: Path) -> None:
        rounds = whole_image_rounds(tmp_path)
        before = {name: value.clone() for name, value in rounds.state.state_dict().items()}
        rounds.run(0, 0)
        rounds.state.load_state_dict(before)
        rounds.restore()
        assert rounds.reader.bought.rounds == 0
        assert rounds.reader.bought.names_with_labels() == ()

    def test_refuses_other_answers(self, tmp_path: Path) -> None:
        first = whole_image_rounds(tmp_path)
        first.run(0, 0)
        folder = first.store.round(0)
        labels = np.where(folder.labels() == IGNORE_LABEL, IGNORE_LABEL, 2).astype(np.uint8)
        folder.labels_path.unlink()
        folder.write_labels(labels)
        again = whole_image_rounds(tmp_path)
        again.state.load_state_dict(first.state.state_dict())
        with pytest.raises(UserError, match=r"not those that trained the snapshot \(1 rounds\)") as caught:
            again.restore()
        assert caught.value.everywhere


class TestCheck:
    def test_begins_no_round(self, tmp_path: Path) -> None:
        whole_image_rounds(tmp_path / "run").check((0,))
        assert list(tmp_path.iterdir()) == []

    def test_accepts_the_own_round(self, tmp_path: Path) -> None:
        whole_image_rounds(tmp_path, identity="00").run(0, 0)
        whole_image_rounds(tmp_path, identity="00").check((0,))

    @pytest.mark.parametrize("changes", [{"identity": "01"}, {"identity": "00", "score": "entropy"}])
    def test_refuses_that_of_another_run(self, tmp_path: Path, changes: dict[str, str]) -> None:
        whole_image_rounds(tmp_path, identity="00").select(0, 0)
        with pytest.raises(UserError, match="round_00 belongs to another run"):
            whole_image_rounds(tmp_path, **changes).check((0,))
