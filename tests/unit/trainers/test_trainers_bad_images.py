"""Skipped files are counted once, reported once, and limited."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from data_loaders.samples import Sample
from data_loaders.streams import SampleStream
from data_loaders.transforms import RandomSource
from tests.toy_training import DrawnImages
from trainers.bad_images import FEW, SkippedImages
from utils.errors import BadFileError, UserError


class Damaged(DrawnImages):
    """Some of the files cannot be read."""

    def __init__(self, bad: Sequence[int], n: int = 8) -> None:
        super().__init__(labelled=True)
        self.bad = bad
        self.n = n

    def __len__(self) -> int:
        return self.n

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
        if index in self.bad:
            raise BadFileError(f"image {index}.png is empty.")
        return super().sample(index, generator)


def streams(bad: Sequence[int], *, skip: bool = True, n: int = 8) -> dict[str, SampleStream]:
    dataset = Damaged(bad, n)
    return {"source": SampleStream(dataset, seed=1, name="source", global_batch=8, skip_bad_images=skip)}


def test_draws_are_counted_and_files_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    found, skipped = streams([2, 6]), SkippedImages()
    counts = []
    for _ in range(4):
        found["source"].next()
        counts.append(skipped.gather(found)["data/skipped_source"])
    assert counts[0] >= 2
    assert counts == sorted(set(counts))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "stream source: image 2.png is empty. Skipped" in warnings[0]
    assert f"(2 of at most {FEW} bad files)" in warnings[1]


def test_counts_go_on_from_a_snapshot(caplog: pytest.LogCaptureFixture) -> None:
    whole, before, after = SkippedImages(), SkippedImages(), SkippedImages()
    found = streams([2, 6])
    for _ in range(4):
        found["source"].next()
    whole.gather(found)
    found = streams([2, 6])
    for _ in range(2):
        found["source"].next()
    before.gather(found)
    after.load_state(before.state())
    caplog.clear()
    for _ in range(2):
        found["source"].next()
    after.take(found)  # the streams are replaced
    replaced = streams([2, 6])
    after.gather(replaced)
    assert after.state() == whole.state()
    assert not caplog.records


def test_too_many_bad_files_stop_the_run() -> None:
    found, skipped = streams(range(FEW + 1)), SkippedImages()
    for _ in range(4):
        found["source"].next()
    with pytest.raises(UserError, match=rf"{FEW + 1} files of stream source .* allows {FEW} of 8") as caught:
        skipped.gather(found)
    assert "\n" not in str(caught.value)
    assert caught.value.everywhere


def test_one_percent_of_a_large_stream_may_be_bad() -> None:
    found, skipped = streams(range(5), n=500), SkippedImages()
    for _ in range(200):
        found["source"].next()
    skipped.gather(found)
    assert len(skipped.files["source"]) == 5


def test_streams_that_skip_nothing_are_not_counted() -> None:
    found, skipped = streams([], skip=False), SkippedImages()
    found["source"].next()
    assert skipped.gather(found) == {}
    assert skipped.state() == {}
