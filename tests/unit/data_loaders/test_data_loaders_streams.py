"""A stream depends on its seed and name only: not on workers, ranks, accumulation or where it was resumed."""

from __future__ import annotations

import multiprocessing
import subprocess
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_loaders.samples import Batch, Sample
from data_loaders.streams import REPLACEMENTS, SampleStream, ShuffledOrder
from data_loaders.transforms import RandomSource
from utils.errors import BadFileError, UserError


class ToyDataset:
    """Images that show their index and a draw of their generator; index 3 fails where asked, and so do those
    of `bad` as damaged files."""

    def __init__(self, n: int, *, damaged: bool = False, bad: Sequence[int] = ()) -> None:
        self.n = n
        self.damaged = damaged
        self.bad = bad

    def __len__(self) -> int:
        return self.n

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
        if self.damaged and index == 3:
            raise UserError("image 3.png cannot be decoded")
        if index in self.bad:
            raise BadFileError(f"image {index}.png is truncated.")
        image = torch.zeros(3, 2, 2, dtype=torch.uint8)
        image[0] = index
        image[1] = 0 if generator is None else int(generator.integers(0, 255, endpoint=True))
        return Sample(image, image[2], str(index), (2, 2))


def stream(n: int = 7, **options: object) -> SampleStream:
    return SampleStream(ToyDataset(n), **{"seed": 5, "name": "source", "global_batch": 4, **options})


def content(batch: Batch) -> list[tuple[int, int]]:
    """(index, draw) of every image."""
    return [(int(image[0, 0, 0]), int(image[1, 0, 0])) for image in batch.image]


def draws(source: SampleStream, batches: int) -> list[tuple[int, int]]:
    return [pair for _ in range(batches) for pair in content(source.next())]


@given(n=st.integers(1, 40), seed=st.integers(0, 2**70), epoch=st.integers(0, 5))
def test_each_epoch_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = ShuffledOrder(n, seed, "source")
    assert sorted(order(draw) for draw in range(epoch * n, (epoch + 1) * n)) == list(range(n))


def test_epochs_and_streams_are_shuffled_differently() -> None:
    order, other = ShuffledOrder(50, 0, "source"), ShuffledOrder(50, 0, "target")
    first = [order(draw) for draw in range(50)]
    assert first != [order(draw) for draw in range(50, 100)]
    assert first != [other(draw) for draw in range(50)]
    assert first == [order(draw) for draw in range(50)]  # going back is allowed


@settings(deadline=None, max_examples=25)
@given(
    local=st.integers(1, 3),
    world_size=st.integers(1, 4),
    accumulation=st.integers(1, 3),
    iterations=st.integers(1, 3),
)
def test_the_ranks_together_give_the_batches_of_one_process(
    local: int, world_size: int, accumulation: int, iterations: int
) -> None:
    global_batch = local * world_size * accumulation
    whole = stream(global_batch=global_batch)
    ranks = [
        stream(global_batch=global_batch, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    for _ in range(iterations):
        parts = [content(source.next()) for _ in range(accumulation) for source in ranks]
        assert [pair for part in parts for pair in part] == content(whole.next())
    assert {source.consumed for source in ranks} == {whole.consumed} == {iterations * global_batch}


@settings(deadline=None, max_examples=20)
@given(before=st.integers(0, 6), skipped=st.integers(0, 9))
def test_a_stream_goes_on_at_any_position(before: int, skipped: int) -> None:
    expected = draws(stream(global_batch=1), 20)
    source = stream(global_batch=1)
    draws(source, before)
    source.seek(skipped)
    assert draws(source, 5) == expected[skipped : skipped + 5]
    assert source.consumed == skipped + 5


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_stream(num_workers: int) -> None:
    expected = draws(stream(), 6)
    source = stream(num_workers=num_workers)
    assert draws(source, 2) == expected[:8]
    assert source.consumed == 8  # handed out, however many were loaded ahead
    source.seek(12)
    assert draws(source, 3) == expected[12:]
    source.close()


def test_a_batch_knows_the_draws_of_its_images() -> None:
    whole = stream(global_batch=4)
    ranks = [stream(global_batch=4, rank=rank, world_size=2) for rank in range(2)]
    for first in (0, 4):
        assert whole.next().draws == tuple(range(first, first + 4))
        assert sum((source.next().draws for source in ranks), ()) == tuple(range(first, first + 4))


def test_any_order_can_replace_the_shuffled_one() -> None:
    source = stream(order=lambda draw: draw % 2)
    assert [index for index, _ in draws(source, 1)] == [0, 1, 0, 1]
    assert source.last_names == ("0", "1", "0", "1")


def test_loading_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    state = torch.get_rng_state()
    source = stream(num_workers=1)
    source.next()
    source.close()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_users_error_keeps_its_one_line(num_workers: int) -> None:
    source = SampleStream(
        ToyDataset(4, damaged=True), seed=0, name="source", global_batch=4, num_workers=num_workers
    )
    with pytest.raises(UserError) as caught:
        source.next()
    assert str(caught.value) == "image 3.png cannot be decoded"


def skipping(bad: Sequence[int], **options: object) -> SampleStream:
    """A stream over seven files, some of them damaged."""
    chosen = {"seed": 5, "name": "source", "global_batch": 4, "skip_bad_images": True, **options}
    return SampleStream(ToyDataset(7, bad=bad), **chosen)


def test_a_bad_file_stops_the_stream_unless_it_is_to_be_skipped() -> None:
    with pytest.raises(UserError, match=r"^image 3.png is truncated.$"):
        draws(skipping([3], skip_bad_images=False), 2)


def test_skipping_changes_only_the_draws_of_bad_files() -> None:
    whole, source = draws(skipping([]), 14), skipping([3, 5])
    found = draws(source, 14)
    for (index, _), (ours, _) in zip(whole, found, strict=True):
        assert ours not in (3, 5)
        assert index in (3, 5) or ours == index
    assert found != whole
    assert {"image 3.png is truncated.", "image 5.png is truncated."} == set(source.skipped)
    assert len(source.skipped) >= 2 * 8  # each of them once in every epoch, and where replacements met them


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_workers_and_resuming_do_not_change_what_replaces_a_bad_file(
    world_size: int, num_workers: int
) -> None:
    whole = skipping([0, 3])
    expected = draws(whole, 6)
    options = {"world_size": world_size, "num_workers": num_workers}
    ranks = [skipping([0, 3], rank=rank, **options) for rank in range(world_size)]
    found = [pair for _ in range(3) for source in ranks for pair in content(source.next())]
    for source in ranks:
        source.seek(12)
    found += [pair for _ in range(3) for source in ranks for pair in content(source.next())]
    assert found == expected
    assert sorted(message for source in ranks for message in source.skipped) == sorted(whole.skipped)


def test_replacements_come_from_the_streams_own_order() -> None:
    source = skipping([0], order=lambda draw: (0, 4, 6)[draw % 3])
    assert {index for index, _ in draws(source, 20)} == {4, 6}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dead_disk_is_not_skipped(num_workers: int) -> None:
    source = skipping(range(7), num_workers=num_workers)
    with pytest.raises(UserError, match=rf"truncated. So were {REPLACEMENTS} files .* whether the disk"):
        source.next()


def test_other_errors_are_not_skipped() -> None:
    source = SampleStream(
        ToyDataset(4, damaged=True), seed=0, name="source", global_batch=4, skip_bad_images=True
    )
    with pytest.raises(UserError, match=r"image 3.png cannot be decoded"):
        source.next()


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="batch size 4 cannot be divided over 3 processes x 1"):
        stream(world_size=3)


def test_signals_of_the_cluster_do_not_end_the_workers() -> None:
    expected = draws(stream(), 40)
    others = multiprocessing.active_children()
    source = stream(num_workers=1)
    source.next()
    (worker,) = set(multiprocessing.active_children()) - set(others)
    for name in ("TERM", "USR1", "USR2", "INT"):
        subprocess.run(["sh", "-c", f"kill -{name} {worker.pid}"], check=True)  # not from the parent
    assert draws(source, 39) == expected[4:]
    source.close()


left_open: list[SampleStream] = []


def leave_a_stream_open() -> None:
    left_open.append(stream(num_workers=1))
    left_open[0].next()


def test_a_process_that_leaves_a_stream_open_can_exit() -> None:
    process = multiprocessing.get_context("fork").Process(target=leave_a_stream_open)
    process.start()
    process.join(timeout=30)
    ended = process.exitcode
    process.kill()
    assert ended == 0


def test_closing_ends_the_workers() -> None:
    others = multiprocessing.active_children()
    source = stream(num_workers=2)
    source.next()
    workers = set(multiprocessing.active_children()) - set(others)
    assert len(workers) == 2
    source.close()
    for worker in workers:
        worker.join(timeout=10)
    assert not any(worker.is_alive() for worker in workers)


def test_the_time_spent_waiting_is_counted() -> None:
    class SlowDataset(ToyDataset):
        def sample(self, index: int, generator: RandomSource | None = None) -> Sample:
            time.sleep(0.02)
            return super().sample(index, generator)

    source = SampleStream(SlowDataset(4), seed=0, name="source", global_batch=2)
    source.next()
    assert source.wait_s >= 0.04
