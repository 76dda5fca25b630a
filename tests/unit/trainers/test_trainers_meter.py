"""The meter averages scalars between two readings."""

from __future__ import annotations

import pytest
import torch

from trainers.meter import Meter


def test_mean_since_the_last_reading() -> None:
    meter = Meter()
    for value in (1.0, 2.0, 6.0):
        meter.add({"loss": torch.tensor(value)})
    assert meter.read() == {"loss": 3.0}
    meter.add({"loss": torch.tensor(5.0)})
    assert meter.read() == {"loss": 5.0}
    assert meter.read() == {}


def test_term_behind_a_gate_is_averaged_over_the_iterations_that_had_it() -> None:
    meter = Meter()
    meter.add({"seg": torch.tensor(1.0)})
    meter.add({"seg": torch.tensor(3.0), "kl": torch.tensor(10.0)})
    assert meter.read() == {"seg": 2.0, "kl": 10.0}


def test_added_tensors_are_not_changed_and_may_change() -> None:
    meter, value = Meter(), torch.tensor(1.0)
    meter.add({"loss": value})
    value.fill_(100.0)
    meter.add({"loss": torch.tensor(3.0)})
    assert value == 100.0
    assert meter.read() == {"loss": 2.0}


def test_means_of_half_precision_terms_are_taken_in_double() -> None:
    meter = Meter()
    meter.add({"a": torch.tensor(0.5, dtype=torch.bfloat16), "b": torch.tensor(1e-12, dtype=torch.float64)})
    assert meter.read() == {"a": 0.5, "b": pytest.approx(1e-12, rel=1e-15)}


def test_seconds_count_from_the_last_call() -> None:
    meter = Meter()
    first = meter.seconds()
    assert first >= 0
    assert meter.seconds() >= 0
