"""The teacher follows the student as in the reference (ema_sequence.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases
from torch import nn

from trainers.teacher import Teacher

ARCHIVE = "ema_sequence.npz"
ATOL = 1e-6
CASES = matching_cases("dida", ARCHIVE, r"(.+)_iters")


class Weights(nn.Module):
    """A student that is nothing but its weights."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.from_numpy(values.copy()))


def teacher_at(iteration: int, student: Weights, decay: float) -> Teacher:
    """A teacher before its update at the beginning of a 1-based iteration of the reference."""
    teacher = Teacher(student, decay=decay)
    teacher.updates = iteration - 1
    return teacher


@pytest.mark.parametrize("case", CASES)
def test_the_teacher_has_the_weights_of_the_reference(case: str) -> None:
    golden = {
        field: load_npz("dida", ARCHIVE)[f"{case}_{field}"] for field in ("iters", "student", "teacher")
    }
    decay = float(load_npz("dida", ARCHIVE)[f"{case}_alpha"])
    teacher = None
    for iteration, values, expected in zip(*golden.values(), strict=True):
        student = Weights(values)
        if iteration == 0:
            teacher = Teacher(student, decay=decay)
        else:
            teacher.updates = int(iteration) - 1  # the reference's iterations may skip some
            teacher.update(student)
        np.testing.assert_allclose(teacher.network.values.numpy(), expected, rtol=0, atol=ATOL)


@pytest.mark.parametrize("case", CASES)
def test_the_decay_is_that_of_the_reference(case: str) -> None:
    golden = load_npz("dida", ARCHIVE)
    used = []
    for iteration in golden[f"{case}_iters"].tolist():
        teacher = teacher_at(iteration, Weights(np.ones(1)), float(golden[f"{case}_alpha"]))
        if iteration == 0:  # the copy made at the start keeps nothing of an older teacher
            used.append(0.0)
            continue
        teacher.update(Weights(np.zeros(1)))  # leaves what the teacher keeps of itself
        used.append(teacher.network.values.item())
    np.testing.assert_allclose(used, golden[f"{case}_alpha_used"], rtol=0, atol=1e-12)
