"""The benchmark of data parallelism: real processes, and figures that mean what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks import data_parallel
from benchmarks.data_parallel import Answer, Figures, Work, crew, measure
from benchmarks.drawn import CLASSES
from networks import NetworkSpec, build

TINY = Work(
    NetworkSpec("deeplab_v2", "resnet18_quarter", CLASSES, "cityscapes19", {"norm_style": "bn"}),
    images=1,
    height=32,
    width=64,
    device="cpu",
    warm_up=1,
)


def seconds(*values: float) -> list[Answer]:
    return [Answer(wall_s=value, cpu_s=value / 2, weights=0.0) for value in values]


FIGURES = Figures(
    size=2,
    alone=seconds(1.0, 2.0, 3.0),
    together=seconds(2.0, 2.5, 3.0),
    exchange=seconds(0.5, 0.4, 0.6),
    gradient_bytes=100_000_000,
)


def test_two_processes_exchange_gradients_and_two_without_a_group_do_not() -> None:
    figures = measure(2, TINY, rounds=2)  # checks the weights of both kinds
    for answers in (figures.alone, figures.together, figures.exchange):
        assert len(answers) == 2
        assert all(answer.wall_s > 0 and answer.cpu_s > 0 for answer in answers)
    network = build(TINY.spec)
    fixed = sum(p.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert figures.gradient_bytes == 4 * (sum(p.numel() for p in network.parameters()) - fixed)


def test_one_process_has_nothing_to_exchange() -> None:
    figures = measure(1, TINY, rounds=1)
    assert figures.alone == figures.together
    assert figures.exchange == []
    assert figures.ring_bytes == 0


def test_a_process_that_dies_is_reported() -> None:
    unknown = replace(TINY, spec=replace(TINY.spec, backbone="resnet17"))
    with (
        pytest.raises(RuntimeError, match="process 0 of 1 has died"),
        crew(1, unknown, together=False) as ready,
    ):
        pytest.fail(f"{ready} should not have started")


def test_processes_that_share_weights_by_mistake_are_noticed() -> None:
    with pytest.raises(AssertionError, match="without a group share weights"):
        data_parallel._check(seconds(1.0, 1.0), seconds(1.0, 1.0))


def test_efficiency_is_that_of_the_median_round_and_bytes_those_of_a_ring() -> None:
    assert FIGURES.efficiencies == [0.5, 0.8, 1.0]
    assert FIGURES.efficiency == pytest.approx(0.8)
    assert FIGURES.cpu_efficiency == pytest.approx(0.8)
    assert FIGURES.ring_bytes == 100_000_000
    assert replace(FIGURES, size=4).ring_bytes == 150_000_000


def test_rows_and_table_come_from_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = replace(FIGURES, size=1, together=FIGURES.alone, exchange=[])
    crowd = replace(FIGURES, size=4096)
    monkeypatch.setattr(data_parallel, "_figures", lambda: (TINY, [alone, FIGURES, crowd]))
    monkeypatch.setattr(data_parallel, "PUBLISHED", ())
    rows = data_parallel.run()
    assert [row.name for row in rows] == ["iteration of 2 processes", "iteration of 4096 processes"]
    assert rows[0].ratio == pytest.approx(0.5)  # of the best rounds
    assert " cores" in rows[1].note
    lines = data_parallel.table().splitlines()
    assert "| 2 | 1.00 | 1000 | 2000 | 80% (50% to 100%) | 80% | 20% | 400 | 100 | 100 |" in lines
    assert any(line.startswith("| 1 | 1.00 | 1000 | 1000 | - | - | - | - |") for line in lines)


def test_bytes_of_a_published_network_are_those_of_the_parameters_that_train() -> None:
    lines = data_parallel.published_gradients().splitlines()[2:]
    assert len(lines) == len(data_parallel.PUBLISHED)
    mada = next(line for line in lines if "mada_v3plus" in line).split(" | ")
    parameters = int(mada[2].replace(",", ""))
    with torch.device("meta"):
        network = build(NetworkSpec("mada_v3plus", "resnet101", CLASSES, "cityscapes19"))
    assert parameters == sum(p.numel() for p in network.parameters())  # its BatchNorm trains
    assert float(mada[3]) == pytest.approx(parameters * 4e-6, abs=0.5)
    assert float(mada[4]) == pytest.approx(parameters * 7e-6, abs=0.5)
