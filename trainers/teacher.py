"""A teacher: the exponential moving average of a student's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Teacher:
    """Keeps a copy of a network whose parameters follow the student's.

    The copy is made here. Update k = 1, 2, ..., after the student's k-th step, then makes the parameters
    `a * teacher + (1 - a) * student` with `a = min(1 - 1 / (k + 1), decay)`: until `decay` is reached, that
    is the plain mean of the student's weights at all steps, the initial ones included (Tarvainen & Valpola,
    NeurIPS 2017; the ramp as in DACS and DAFormer's released code).

    Args:
        student: network to copy; the copy never asks for gradients.
        decay: in [0, 1).
        copy_buffers: the student's BatchNorm statistics are copied in every update. Without it updates leave
            the copy's own alone, as in DAFormer's released code, whose teacher gathers them in training mode.

    Attributes:
        network: the teacher.
        updates: number of updates so far; snapshots hold it.
    """

    def __init__(self, student: nn.Module, *, decay: float, copy_buffers: bool = True) -> None:
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.decay = decay
        self.copy_buffers = copy_buffers
        self.updates = 0

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Moves the teacher one step towards the student, without host synchronisation."""
        self.updates += 1
        weight = 1.0 - min(1.0 - 1.0 / (self.updates + 1), self.decay)
        mine, theirs = list(self.network.parameters()), list(student.parameters())
        torch._foreach_lerp_(mine, [parameter.detach() for parameter in theirs], weight)
        if self.copy_buffers:
            for target, source in zip(self.network.buffers(), student.buffers(), strict=True):
                target.copy_(source)
