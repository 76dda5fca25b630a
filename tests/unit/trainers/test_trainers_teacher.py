"""The teacher follows the student's weights."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from trainers.teacher import Teacher


def student_at(value: float) -> nn.BatchNorm2d:
    student = nn.BatchNorm2d(2).double()
    nn.init.constant_(student.weight, value)
    return student


def follow(teacher: Teacher, student: nn.BatchNorm2d, values: Sequence[float]) -> list[float]:
    weights = []
    for value in values:
        nn.init.constant_(student.weight, value)
        teacher.update(student)
        weights.append(teacher.network.weight[0].item())
    return weights


def test_it_begins_as_a_copy_and_the_first_update_meets_the_student_half_way() -> None:
    student = student_at(1.0)
    teacher = Teacher(student, decay=0.99)
    assert teacher.network.weight.tolist() == [1.0, 1.0]
    assert follow(teacher, student, [7.0]) == [4.0]


def test_average_ramps_up_to_the_decay() -> None:
    student, expected, weight = student_at(1.0), [], 1.0
    values = [3.0, -1.0, 4.0, 1.0, 5.0, 9.0]
    for update, value in enumerate(values, 1):
        keep = min(1 - 1 / (update + 1), 0.7)
        weight = keep * weight + (1 - keep) * value
        expected.append(weight)
    assert follow(Teacher(student, decay=0.7), student, values) == pytest.approx(expected, rel=1e-14)


def test_before_the_decay_is_reached_it_is_the_plain_mean_of_all_the_students() -> None:
    student = student_at(0.0)
    assert follow(Teacher(student, decay=0.999), student, [1.0, 2.0, 6.0])[-1] == pytest.approx(9 / 4)


def test_a_small_decay_holds_from_the_first_update() -> None:
    student = student_at(0.0)
    assert follow(Teacher(student, decay=0.2), student, [1.0]) == pytest.approx([0.8])


def test_a_ramp_goes_on_where_a_snapshot_left_it() -> None:
    student = student_at(0.0)
    teacher = Teacher(student, decay=0.999)
    teacher.updates = 3
    assert follow(teacher, student, [1.0]) == pytest.approx([1 / 5])
    assert teacher.updates == 4


def test_student_is_not_touched_and_the_teacher_asks_for_no_gradient() -> None:
    student = student_at(1.0)
    teacher = Teacher(student, decay=0.5)
    follow(teacher, student, [2.0, 4.0])
    assert student.weight.tolist() == [4.0, 4.0]
    assert student.weight.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


@pytest.mark.parametrize(("options", "expected"), [({}, 5.0), ({"copy_buffers": False}, 0.0)])
def test_buffers_are_the_students_unless_they_shall_stay(options: dict[str, bool], expected: float) -> None:
    student = student_at(1.0)
    teacher = Teacher(student, decay=0.5, **options)
    student.running_mean.fill_(5.0)
    for _ in range(2):
        teacher.update(student)
    assert teacher.network.running_mean.tolist() == [expected] * 2
    assert torch.equal(student.running_mean, torch.full((2,), 5.0, dtype=torch.float64))


def test_statistics_that_the_teacher_gathers_itself_are_left_alone() -> None:
    student = student_at(1.0)
    teacher = Teacher(student, decay=0.5, copy_buffers=False)
    teacher.network(torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    gathered = {name: value.clone() for name, value in teacher.network.named_buffers()}
    teacher.update(student)
    assert gathered["num_batches_tracked"].item() == 1
    assert all(torch.equal(value, gathered[name]) for name, value in teacher.network.named_buffers())
