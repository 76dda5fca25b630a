"""Endless seeded streams of batches that resume at any position.

Training images are numbered by *draws*. Optimizer iteration i of a global batch B, in A micro-batches over R
ranks, uses the draws i*B .. (i+1)*B-1; micro-batch k of rank r takes the b = B / (A*R) draws from
i*B + k*B/A + r*b on. What a draw shows depends on (seed, stream name, draw) alone: not on ranks, workers, or
where a run was resumed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data_loaders.samples import Batch, Sample, collate
from data_loaders.transforms import RandomSource
from utils import seeding
from utils.errors import BadFileError, UserError

Order = Callable[[int], int]
Loaded = TypeVar("Loaded")
PREFETCH = 4  # batches per worker
REPLACEMENTS = 10  # draws in the place of one whose file cannot be read, before the run stops


class SampleSource(Protocol):
    """What streams read from: SegmentationDataset, or anything that gives samples by index."""

    def __len__(self) -> int: ...

    def sample(self, index: int, generator: RandomSource | None = None) -> Sample: ...


class ShuffledOrder:
    """Endless order in which every epoch of n draws is a new permutation of range(n)."""

    def __init__(self, n: int, seed: int, stream: str) -> None:
        self.n = n
        self.seed = seed
        self.stream = stream
        self._epoch = -1
        self._permutation: list[int] = []

    def __call__(self, draw: int) -> int:
        """Index of the sample that draw number `draw` shows."""
        epoch, position = divmod(draw, self.n)
        if epoch != self._epoch:
            shuffler = seeding.generator(self.seed, f"{self.stream}/order", epoch)
            self._permutation = shuffler.permutation(self.n).tolist()
            self._epoch = epoch
        return self._permutation[position]


class SampleStream:
    """This rank's micro-batches of an endless stream, loaded ahead by workers.

    Args:
        dataset: the samples.
        order: draw number -> index; None: ShuffledOrder.
        seed: the seed of the run.
        name: of the stream ("source", "target"); streams of one seed with different names are independent.
        global_batch: images per optimizer iteration, over all ranks and micro-batches.
        rank: of this process.
        world_size: number of processes.
        accumulation: micro-batches per optimizer iteration.
        num_workers: worker processes of this rank; 0 loads in this process.
        pin_memory: put batches into page-locked memory for copies that do not block.
        fingerprint: changes with what the stream reads; a continued run compares it ("": not compared).
        description: what it reads, in words, for messages.
        skip_bad_images: a draw whose image or label file is missing or damaged shows another sample, chosen
            by (seed, stream name, draw) too.

    Raises:
        UserError: the batch does not divide, or (in `next`) a sample cannot be read; with
            `skip_bad_images` when `REPLACEMENTS` others cannot either.
    """

    def __init__(
        self,
        dataset: SampleSource,
        *,
        order: Order | None = None,
        seed: int,
        name: str,
        global_batch: int,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        fingerprint: str = "",
        description: str = "",
        skip_bad_images: bool = False,
    ) -> None:
        if global_batch % (world_size * accumulation):
            raise UserError(
                f"batch size {global_batch} cannot be divided over {world_size} processes x {accumulation} "
                f"accumulation steps; use a multiple of {world_size * accumulation}"
            )
        self.name = name
        self.fingerprint = fingerprint
        self.description = description
        self.micro_batch = global_batch // accumulation  # over all ranks
        self.local_batch = self.micro_batch // world_size
        self.rank = rank
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.consumed = 0  # draws handed out, over all ranks
        self.wait_s = 0.0  # seconds spent waiting in next()
        self.last_names: tuple[str, ...] = ()
        self.skip_bad_images = skip_bad_images
        self.skipped: list[str] = []  # what this rank's batches skipped; `trainers.bad_images` collects it
        self.num_images = len(dataset)
        self._order = order or ShuffledOrder(len(dataset), seed, name)
        self._draws = _Draws(dataset, seed, name, self._order if skip_bad_images else None)
        self._loader: Iterator[Batch | _Failure] | None = None

    def next(self) -> Batch:
        """This rank's next micro-batch."""
        start = time.perf_counter()
        if self._loader is None:
            self._loader = self._load_from(self.consumed)
        batch = _checked(next(self._loader))
        self.consumed += self.micro_batch
        self.last_names = batch.names
        self.skipped += batch.skipped
        self.wait_s += time.perf_counter() - start
        return batch

    def seek(self, consumed: int) -> None:
        """Goes on after `consumed` draws; batches that workers have loaded ahead are dropped."""
        self.close()
        self.consumed = consumed

    def close(self) -> None:
        """Ends the workers; the stream goes on from its position when it is used again."""
        self._loader = None

    def _load_from(self, consumed: int) -> Iterator[Batch | _Failure]:
        keys = _MicroBatches(
            self._order, consumed + self.rank * self.local_batch, self.local_batch, self.micro_batch
        )
        with _termination_held_back():
            return iter(_loader(self._draws, keys, self.num_workers, pin_memory=self.pin_memory))


class _Failure:
    """A user's error on its way out of a worker; an exception would arrive with the worker's traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


class _MicroBatches(Sampler[list[tuple[int, int]]]):
    """Endless keys (draw, index) of one rank's micro-batches."""

    def __init__(self, order: Order, first: int, size: int, stride: int) -> None:
        self.order = order
        self.first = first
        self.size = size
        self.stride = stride

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first = self.first
        while True:
            yield [(draw, self.order(draw)) for draw in range(first, first + self.size)]
            first += self.stride


class _Draws(Dataset[Batch | _Failure]):
    """Batches by their keys: what a worker does. With `others`, an order, bad files are skipped."""

    def __init__(self, samples: SampleSource, seed: int, stream: str, others: Order | None) -> None:
        self.samples = samples
        self.seed = seed
        self.stream = stream
        self.others = others

    def __getitem__(self, keys: list[tuple[int, int]]) -> Batch | _Failure:
        skipped: list[str] = []
        try:
            samples = [self._draw(draw, index, skipped) for draw, index in keys]
            return collate(samples, draws=[draw for draw, _ in keys], skipped=skipped)
        except UserError as error:
            return _Failure(str(error))

    def _draw(self, draw: int, index: int, skipped: list[str]) -> Sample:
        try:
            return self.samples.sample(index, seeding.generator(self.seed, self.stream, draw))
        except BadFileError as error:
            if self.others is None:
                raise
            skipped.append(str(error))
            return self._replacement(self.others, draw, skipped)

    def _replacement(self, others: Order, draw: int, skipped: list[str]) -> Sample:
        """Another sample for a draw, which neither ranks, workers nor resuming decide."""
        for attempt in range(1, REPLACEMENTS + 1):
            generator = seeding.generator(self.seed, f"{self.stream}/replacement {attempt}", draw)
            index = others(int(generator.integers(0, len(self.samples))))
            try:
                return self.samples.sample(index, generator)
            except BadFileError as error:
                skipped.append(str(error))
        raise UserError(
            f"{skipped[-1]} So were {REPLACEMENTS} files drawn in a row: look whether the disk is there; "
            "--skip-bad-images is for single bad files"
        )


def _loader(
    dataset: Dataset, keys: Sampler | Sequence[int], num_workers: int, *, pin_memory: bool
) -> DataLoader:
    """A DataLoader that gives dataset[key] for each key, in order, and leaves the global generators alone."""
    return DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=PREFETCH if num_workers else None,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory and torch.cuda.is_available(),
        generator=torch.Generator(),  # else starting the workers draws from the dropout generator
    )


def _as_it_is(loaded: object) -> object:
    return loaded


@contextmanager
def _termination_held_back() -> Iterator[None]:
    """SIGTERM waits meanwhile; workers that start inside inherit that, in the threads of libraries too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(worker: int) -> None:
    """One thread per worker, and signals are left to the training process, which ends the workers itself.

    A cluster sends its signals to every process of a job; workers that obeyed would leave the training
    process without data before it has written its last snapshot.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for stop in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(stop, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # where workers are not forked
    threading.Thread(target=_obey_the_training_process, daemon=True).start()


def _obey_the_training_process() -> None:
    """Waits for the SIGTERM by which Python ends the workers of a process that exits; others' are dropped."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only workers wait"
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


def _checked(loaded: Loaded | _Failure) -> Loaded:
    if isinstance(loaded, _Failure):
        raise UserError(loaded.message)
    return loaded
