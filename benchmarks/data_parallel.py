"""What training in several processes costs: iterations that exchange gradients, against the same work by
processes that train side by side without a process group.

Both kinds are alive at once and measured in turn, so that other work on the machine meets both. On a CPU: 1,
2 and 4 processes of one thread, gloo. With GPUs: 1, 2, 4, ... processes up to their number, nccl.

    OMP_NUM_THREADS=1 python -m benchmarks data_parallel
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.drawn import CLASSES, drawn_batches
from benchmarks.harness import Result
from networks import NetworkSpec, build
from networks.normalization import set_batch_norm
from trainers.loop_settings import LoopSettings
from trainers.supervised import SupervisedSettings, SupervisedTrainer
from utils import distributed, seeding
from utils.distributed import World
from utils.precision import resolve_precision

ROUNDS = 5
ANSWER_S = 300.0  # how long to wait for a process
LAUNCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Work:
    """What every process trains, on images of its own.

    Attributes:
        spec: of the network, with random weights.
        images: per process and iteration.
        height, width: of the images, in pixels.
        device: "cpu" or "cuda", with a GPU for each process.
        warm_up: iterations before the first measurement; DDP orders its buckets after the first.
    """

    spec: NetworkSpec
    images: int
    height: int
    width: int
    device: str
    warm_up: int

    def text(self) -> str:
        """The work in words."""
        images = f"{self.images} x {self.width}x{self.height}"
        return f"{self.spec.architecture} {self.spec.backbone}, {images} per process"


CPU_SPEC, GPU_SPEC = (
    NetworkSpec("deeplab_v2", backbone, CLASSES, "cityscapes19", {"norm_style": "bn"})
    for backbone in ("resnet18", "resnet101")
)
CPU_WORK = Work(CPU_SPEC, images=1, height=128, width=256, device="cpu", warm_up=2)
GPU_WORK = Work(GPU_SPEC, images=1, height=512, width=1024, device="cuda", warm_up=8)
CPU_PROCESSES = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process measured of some work.

    Attributes:
        wall_s: seconds of the clock.
        cpu_s: seconds of all its threads on a core; other processes do not add to them.
        weights: a number that processes with equal weights agree on.
    """

    wall_s: float
    cpu_s: float
    weights: float


# in the processes


def _train(channel: Connection, rank: int, size: int, port: int | None, work: Work) -> None:
    """A process: builds its trainer, says how many bytes of gradients it has, then answers tasks until None.

    Args:
        channel: to the process that measures.
        port: of rank 0 on this machine; None: there is no process group.
    """
    torch.set_num_threads(1)
    with _world(rank, size, port, work.device) as world:
        trainer = _trainer(work, world)
        batches = drawn_batches(work.images, work.height, work.width, world.device)
        batches["source"].image.add_(rank)  # else all gradients were equal before they are averaged
        gradients = sum(p.numel() * p.element_size() for p in trainer.network.parameters() if p.requires_grad)
        message = torch.ones(gradients // 4, device=world.device)
        _iterate(trainer, batches, work.warm_up)
        channel.send(gradients)
        for task in iter(channel.recv, None):
            _wait(world.device)
            wall, cpu = time.perf_counter(), time.process_time()
            if task == "train":
                _iterate(trainer, batches, 1)
            else:
                distributed.all_reduce_sum(message)
            _wait(world.device)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            channel.send(Answer(wall, cpu, _weights(trainer)))


def _world(rank: int, size: int, port: int | None, device: str) -> AbstractContextManager[World]:
    os.environ.update(dict.fromkeys(LAUNCH, ""))
    if port is None:
        place = torch.device(device, rank) if device == "cuda" else torch.device(device)
        if device == "cuda":
            torch.cuda.set_device(place)
        return nullcontext(World(rank=0, size=1, local_rank=0, device=place))
    values = (rank, size, rank, size, "127.0.0.1", port)
    os.environ.update({name: str(value) for name, value in zip(LAUNCH, values, strict=True)})
    return distributed.session(device, timeout_s=ANSWER_S)


def _trainer(work: Work, world: World) -> SupervisedTrainer:
    seeding.seed_everything(1)
    settings = SupervisedSettings(learning_rate=1e-5)  # noise has nothing to be learnt
    return SupervisedTrainer(
        network=build(work.spec).to(world.device),
        settings=settings,
        world=world,
        loop=LoopSettings(
            num_steps_stop=settings.num_steps, precision=resolve_precision("auto", world.device)
        ),
    )


def _iterate(trainer: SupervisedTrainer, batches: dict[str, Any], iterations: int) -> None:
    for _ in range(iterations):
        trainer.run_iteration(trainer.iteration, [batches])
        trainer.iteration += 1


def _weights(trainer: SupervisedTrainer) -> float:
    return float(next(trainer.network.parameters()).detach().double().square().sum())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# in the process that measures


class Crew:
    """Processes that train the same work at the same time; see `crew`."""

    def __init__(self, processes: Sequence[Any], channels: Sequence[Connection]) -> None:
        self.processes = processes
        self.channels = channels
        self.gradient_bytes: int = self._answers()[0]

    def do(self, task: str) -> list[Answer]:
        """All do one task at once: "train" an iteration, or "exchange" as many bytes as gradients have."""
        for channel in self.channels:
            channel.send(task)
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = []
        for rank, channel in enumerate(self.channels):
            try:
                answered = channel.poll(ANSWER_S)
                answers += [channel.recv()] if answered else []
            except (EOFError, ConnectionResetError):
                answered = False
            if not answered:
                raise RuntimeError(f"process {rank} of {len(self.channels)} has died or does not answer")
        return answers


@contextmanager
def crew(size: int, work: Work, *, together: bool) -> Iterator[Crew]:
    """`size` processes that are ready to train: together in a process group, or each for itself.

    Raises:
        RuntimeError: one of them died or did not answer in time; its error is on stderr.
    """
    context = get_context("forkserver")  # torch is imported once for all
    context.set_forkserver_preload([_train.__module__])
    port = _free_port() if together else None
    processes, channels = [], []
    try:
        for rank in range(size):
            channel, theirs = context.Pipe()
            process = context.Process(target=_train, args=(theirs, rank, size, port, work), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            channels.append(channel)
        yield Crew(processes, channels)
        for channel in channels:
            channel.send(None)
        for process in processes:
            process.join(ANSWER_S)
    finally:
        for process in processes:
            process.kill()  # those that are still there
        for channel in channels:
            channel.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True, slots=True)
class Figures:
    """One number of processes; lists have one value per round, the mean over the processes.

    Attributes:
        size: number of processes.
        alone, together: iterations without and with communication; the same for one process.
        exchange: nothing but the sum of one message of the gradients' size; empty for one process.
        gradient_bytes: that each process contributes to a step.
    """

    size: int
    alone: list[Answer]
    together: list[Answer]
    exchange: list[Answer]
    gradient_bytes: int

    @property
    def efficiencies(self) -> list[float]:
        """Time without communication / time with, of each round."""
        return [a.wall_s / t.wall_s for a, t in zip(self.alone, self.together, strict=True)]

    @property
    def efficiency(self) -> float:
        """Of the median round."""
        return statistics.median(self.efficiencies)

    @property
    def cpu_efficiency(self) -> float:
        """The same of processor time, which neither other processes nor waiting add to."""
        return _median_cpu(self.alone) / _median_cpu(self.together)

    @property
    def ring_bytes(self) -> int:
        """That each process sends in a ring all-reduce of the gradients."""
        return 2 * (self.size - 1) * self.gradient_bytes // self.size


def measure(size: int, work: Work, *, rounds: int = ROUNDS) -> Figures:
    """The figures of `size` processes; checks first that gradients are exchanged where they should be."""
    with ExitStack() as stack:
        side_by_side = stack.enter_context(crew(size, work, together=False))
        if size == 1:
            alone = [_mean(side_by_side.do("train")) for _ in range(rounds)]
            return Figures(size, alone, alone, [], side_by_side.gradient_bytes)
        joined = stack.enter_context(crew(size, work, together=True))
        _check(side_by_side.do("train"), joined.do("train"))
        measured = [
            (_mean(side_by_side.do("train")), _mean(joined.do("train")), _mean(joined.do("exchange")))
            for _ in range(rounds)
        ]
        alone, together, exchange = (list(column) for column in zip(*measured, strict=True))
        return Figures(size, alone, together, exchange, joined.gradient_bytes)


def _check(alone: Sequence[Answer], together: Sequence[Answer]) -> None:
    assert len({answer.weights for answer in together}) == 1, "the processes' gradients were not averaged"
    assert len({answer.weights for answer in alone}) == len(alone), "processes without a group share weights"


def _mean(answers: Sequence[Answer]) -> Answer:
    walls, cpus = [a.wall_s for a in answers], [a.cpu_s for a in answers]
    return Answer(statistics.fmean(walls), statistics.fmean(cpus), float("nan"))


def _best(answers: Sequence[Answer]) -> float:
    return min(answer.wall_s for answer in answers)


def _median_cpu(answers: Sequence[Answer]) -> float:
    return statistics.median(answer.cpu_s for answer in answers)


# reports


@cache
def _figures() -> tuple[Work, list[Figures]]:
    gpus = torch.cuda.device_count()
    if gpus == 0:
        return CPU_WORK, [measure(size, CPU_WORK) for size in CPU_PROCESSES]
    sizes = [2**power for power in range(gpus.bit_length())]
    return GPU_WORK, [measure(size, GPU_WORK, rounds=4 * ROUNDS) for size in sizes]


def run() -> list[Result]:
    """A row per number of processes; the ratio is the efficiency."""
    work, figures = _figures()
    return [
        Result(
            f"iteration of {f.size} processes",
            _best(f.alone),
            _best(f.together),
            f"plain: without communication; {work.text()}{_crowded(f.size, work)}",
        )
        for f in figures
        if f.size > 1
    ]


def table() -> str:
    """Efficiency and share of communication of each number of processes, then bytes of published networks."""
    work, figures = _figures()
    lines = [
        "| processes | images/s | without, ms | with, ms | efficiency (rounds) | of processor time | "
        "exposed communication | exchange alone, ms | gradients, MB | ring sends, MB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [_row(f, work) for f in figures]
    return "\n".join([f"{work.text()}, {work.device}", "", *lines, "", published_gradients()])


def _row(figures: Figures, work: Work) -> str:
    f = figures
    without, best = _best(f.alone), _best(f.together)
    spread = f"{min(f.efficiencies):.0%} to {max(f.efficiencies):.0%}"
    exchange = f"{1000 * _best(f.exchange):.0f}" if f.exchange else "-"
    shares = f"{f.efficiency:.0%} ({spread}) | {f.cpu_efficiency:.0%} | {max(0.0, 1 - f.efficiency):.0%}"
    return (
        f"| {f.size}{_crowded(f.size, work)} | {f.size * work.images / best:.2f} | {1000 * without:.0f} "
        f"| {1000 * best:.0f} | {shares if f.size > 1 else '- | - | -'} "
        f"| {exchange} | {f.gradient_bytes / 1e6:.0f} | {f.ring_bytes / 1e6:.0f} |"
    )


def _crowded(size: int, work: Work) -> str:
    """A remark where processes share cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return f" on {cores} cores" if work.device == "cpu" and size > cores else ""


@dataclass(frozen=True, slots=True)
class Published:
    """A network of published runs, and whether the scales and shifts of its backbone's BatchNorm train."""

    name: str
    spec: NetworkSpec
    train_batch_norm: bool = False


MRNET = {"norm_style": "gn", "use_se": True}
PUBLISHED = tuple(
    Published(name, NetworkSpec(architecture, backbone, CLASSES, "cityscapes19", options), trains)
    for name, architecture, backbone, options, trains in (
        ("MRNet, Rectifying", "deeplab_two_head", "resnet101_caffe", MRNET, False),
        ("RIPU, DWACA", "deeplab_v2", "resnet101", {}, False),
        ("RIPU, DeepLab-V3+", "deeplab_v3plus", "resnet101", {}, False),
        ("MADA", "mada_v3plus", "resnet101", {}, True),
        ("DAFormer, DIDA", "daformer", "mit_b5", {}, False),
    )
)


def published_gradients() -> str:
    """Bytes of float32 gradients per step of the published networks, and their BatchNorm layers."""
    lines = [
        "| runs | network | parameters that train | gradients, MB | 8 send, MB | 64 send, MB | BatchNorm |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for published in PUBLISHED:
        with torch.device("meta"):
            network = build(published.spec)
        set_batch_norm(network, "local", train_affine=published.train_batch_norm)
        layers = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        channels = sum(layer.num_features for layer in layers)
        parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
        sent = " | ".join(f"{2 * (n - 1) / n * 4 * parameters / 1e6:.0f}" for n in (8, 64))
        lines.append(
            f"| {published.name} | {published.spec.architecture} {published.spec.backbone} | {parameters:,} "
            f"| {4 * parameters / 1e6:.0f} | {sent} | {len(layers)} layers, {channels} channels |"
        )
    return "\n".join(lines)
