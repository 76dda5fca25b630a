"""DIDA's instance loss with gradient: all K similarity maps at full size against ours.

The plain way needs 1.5 GiB at 2 x 256 x 256 and 300 entries: a CPU measures it there, a GPU at 2 x 512 x 512.
For larger sizes its time is scaled with the number of pixels and entries, on which it depends linearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from losses.instance import instance_loss

IMAGES, CHANNELS, CLASSES, STRIDE = 2, 256, 19, 4
Size = tuple[int, int]  # entries of the bank, side of the image
SIZES = ((300, 256), (300, 512), (500, 1024))


@dataclass(frozen=True, slots=True)
class Inputs:
    """Features as a ReLU gives them, a bank and logits of one size."""

    student: Tensor
    teacher: Tensor
    bank: Tensor
    labels: Tensor
    logits: Tensor
    side: int

    def ours(self) -> float:
        loss = instance_loss(
            self.student,
            self.teacher,
            self.bank,
            self.labels,
            size=(self.side, self.side),
            class_logits=self.logits,
        )
        return self._with_gradient(loss)

    def plain(self) -> float:
        student, teacher, scores = (self._resized(x) for x in (self.student, self.teacher, self.logits))
        target = torch.einsum("kd,ndhw->nkhw", self.bank, teacher) * scores[:, self.labels]
        target = target / target.sum(1, keepdim=True)
        share = torch.einsum("kd,ndhw->nkhw", self.bank, student)
        share = share / share.sum(1, keepdim=True)
        return self._with_gradient(-(target * torch.log(share + 1e-10)).sum(1).mean())

    def _resized(self, x: Tensor) -> Tensor:
        return F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)

    def _with_gradient(self, loss: Tensor) -> float:
        torch.autograd.grad(loss, self.student)
        return float(loss.detach())  # read back, so that a GPU's work is timed


def run() -> list[Result]:
    """On the CPU, and on the GPU where there is one."""
    results = _on_device("cpu", *SIZES, aim="aim 4x")
    if torch.cuda.is_available():
        results += _on_device("cuda", *SIZES[1:], aim="aim 10x")
    return results


def _on_device(device: str, measured: Size, *larger: Size, aim: str) -> list[Result]:
    """Both ways at the first size, ours alone at the others."""
    inputs = _drawn(*measured, device)
    torch.testing.assert_close(inputs.ours(), inputs.plain(), rtol=1e-5, atol=0)
    peaks = f"{_peak(inputs.ours, device):.0f} MiB against {_peak(inputs.plain, device):.0f}"
    note = f"{IMAGES} images, with gradient; {aim}; peak {peaks}"
    result = compare(_name(*measured, device), inputs.plain, inputs.ours, repeats=3, note=note)
    return [result, *(_scaled(result, measured, size, device) for size in larger)]


def _scaled(measured: Result, size: Size, larger: Size, device: str) -> Result:
    """Ours measured at the larger size, beside the plain time at the other for as many pixels and entries."""
    inputs = _drawn(*larger, device)
    ours = compare("", lambda: None, inputs.ours, repeats=1)
    plain_s = measured.plain_s * (larger[0] / size[0]) * (larger[1] / size[1]) ** 2
    scaled = f"plain: {size[0]} entries, {size[1]}x{size[1]} measured, scaled"
    note = f"{scaled}; peak {_peak(inputs.ours, device):.0f} MiB, aim under 1024"
    return Result(_name(*larger, device), plain_s, ours.fast_s, note)


def _name(entries: int, side: int, device: str) -> str:
    return f"instance loss, {entries} entries, {side}x{side}, {device}"


def _peak(call: Callable[[], object], device: str) -> float:
    """MiB that a call needs at most beyond what is held before."""
    if device == "cpu":
        return peak_mib(call)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _drawn(entries: int, side: int, device: str) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    low = side // STRIDE

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    labels = torch.randint(0, CLASSES, (entries,), generator=generator)
    tensors = (
        drawn(IMAGES, CHANNELS, low, low).relu(),
        drawn(IMAGES, CHANNELS, low, low).relu(),
        drawn(entries, CHANNELS).relu(),
        labels,
        drawn(IMAGES, CLASSES, low, low).abs(),  # of one sign, so that both ways can agree to 1e-5
    )
    student, *others = (tensor.to(device) for tensor in tensors)
    return Inputs(student.requires_grad_(), *others, side)
