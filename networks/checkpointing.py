"""Activation checkpointing that leaves BatchNorm's running statistics as the plain forward leaves them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recomputed_in_backward(modules: Sequence[nn.Module], *inputs: Tensor) -> Any:
    """Runs `modules` one after the other, keeping only the inputs; the backward pass runs them once more.

    The first module takes all inputs, every other one the output of the one before.

    The second run writes its running statistics into copies, so each forward counts once.
    """

    def run(*values: Tensor) -> Any:
        return run_in_turn(modules, *values)

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _copied_buffers(modules)

    if torch.compiler.is_compiling():  # the compiler recomputes a graph without side effects
        return checkpoint(run, *inputs, use_reentrant=False)
    return checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts)


def run_in_turn(modules: Sequence[nn.Module], *inputs: Tensor) -> Any:
    """Output of the last module: the first takes all inputs, every other one what the one before gives."""
    first, *others = modules
    x = first(*inputs)
    for module in others:
        x = module(x)
    return x


@contextmanager
def _copied_buffers(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Within the context the modules' buffers are copies; what is written to them is dropped at its end."""
    kept = [
        (module, name, buffer)
        for root in modules
        for module in root.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        for module, name, buffer in kept:
            setattr(module, name, buffer.clone())
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)
