"""Where random numbers come from: data by (seed, stream, draw), weights by seed, dropout by (seed, rank)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def _hashed(seed: int, stream: str, number: int) -> int:
    """A 128-bit integer that differs for every (seed, stream, number)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{number}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


def generator(seed: int, stream: str, number: int) -> np.random.Generator:
    """The generator of one data draw: independent of rank, worker and everything drawn before.

    Args:
        seed: the seed of the run.
        stream: what the draws are for ("source", "target/order", ...); streams do not influence each other.
        number: the draw in its stream.
    """
    return np.random.default_rng(_hashed(seed, stream, number))


def seed_everything(seed: int) -> None:
    """Seeds the global generators alike on all ranks, so that networks built next have equal weights."""
    random.seed(seed)
    np.random.seed(_hashed(seed, "numpy", 0) % 2**32)  # noqa: NPY002  libraries may still draw from it
    torch.manual_seed(_torch_seed(seed, "weights", 0))


def seed_dropout(seed: int, rank: int) -> None:
    """Gives each rank its own torch generators, for dropout; call it after the networks are built."""
    torch.manual_seed(_torch_seed(seed, "dropout", rank))


def rng_state() -> dict[str, Tensor]:
    """State of this process's torch generators: "cpu", and "cuda" (current device) once CUDA is in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Restores what `rng_state` returned; a CUDA state is left out on a process without CUDA."""
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _torch_seed(seed: int, stream: str, number: int) -> int:
    """A seed in [0, 2**63), the range that every torch generator takes."""
    return _hashed(seed, stream, number) % 2**63
