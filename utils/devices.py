"""What the launcher asked for and which device this process uses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from utils.errors import UserError

_LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), Path("/dev/nvidia0"))


@dataclass(frozen=True, slots=True)
class Launch:
    """The processes as the launcher started them; `local_size` are those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def read_launch(environment: Mapping[str, str] | None = None) -> Launch:
    """The launch described by RANK, WORLD_SIZE, LOCAL_RANK; one process when none of them is set.

    Raises:
        UserError: some are set and some not, a value is no number or out of range, or the master's address is
            missing.
    """
    environment = os.environ if environment is None else environment
    found = {name: environment[name] for name in _LAUNCH_VARIABLES if environment.get(name)}
    if not found:
        return Launch()
    listing = ", ".join(f"{name}={value}" for name, value in found.items())
    missing = [name for name in _LAUNCH_VARIABLES if name not in found]
    if missing:
        raise UserError(
            f"the environment has {listing} but not {' and '.join(missing)}: start with torchrun, which sets "
            f"all three, or unset {' and '.join(found)} for a single process."
        )
    try:
        rank, size, local_rank = (int(found[name]) for name in _LAUNCH_VARIABLES)
        local_size = int(environment.get("LOCAL_WORLD_SIZE") or local_rank + 1)
    except ValueError:
        raise UserError(f"the environment has {listing}: they must be whole numbers; use torchrun.") from None
    if not (0 <= rank < size and 0 <= local_rank < size):
        raise UserError(f"the environment has {listing}: a rank must be in [0, WORLD_SIZE); use torchrun.")
    absent = [name for name in _ADDRESS_VARIABLES if not environment.get(name)]
    if size > 1 and absent:
        raise UserError(
            f"the environment has {listing} but not {' and '.join(absent)}: start with torchrun, or set them "
            "to the host of rank 0 and a free port there."
        )
    return Launch(rank, size, local_rank, local_size)


def choose_device(name: str, launch: Launch) -> torch.device:
    """The device of this process: its own GPU, or the CPU.

    Args:
        name: "auto", "cpu" or "cuda". "auto" is the CPU only on a machine without a visible NVIDIA GPU.

    Raises:
        UserError: a GPU that is present cannot be used, no GPU for "cuda", or more processes than GPUs.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {name} is unknown: use auto, cpu or cuda.")
    if name == "cpu" or (name == "auto" and not _has_visible_gpu()):
        return torch.device("cpu")
    problem = _cuda_problem()
    if problem:
        raise UserError(
            f"--device {name}: torch {torch.__version__} cannot use the GPU of this machine ({problem}); "
            "fix the driver, install the torch build that fits it, or pass --device cpu."
        )
    gpus = torch.cuda.device_count()
    if max(launch.local_size, launch.local_rank + 1) > gpus:
        raise UserError(
            f"{launch.local_size} processes on this machine but {gpus} visible GPU(s): start with torchrun "
            f"--nproc-per-node {gpus}, or pass --device cpu."
        )
    return torch.device("cuda", launch.local_rank)


def gpu_is_usable() -> bool:
    """Whether this machine shows a GPU and torch can work on it.

    Tried in a process of its own, so that this one holds no memory on the GPU.
    """
    if not _has_visible_gpu():
        return False
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_cuda_problem).result() is None


def _has_visible_gpu() -> bool:
    """Whether this machine has an NVIDIA driver or GPU that CUDA_VISIBLE_DEVICES does not hide on purpose."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "none", "NoDevFiles"):
        return False
    return torch.cuda.is_available() or any(file.exists() for file in _DRIVER_FILES)


def _cuda_problem() -> str | None:
    """Why CUDA does not work in this process, in one line; None when a kernel ran."""
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch has no CUDA"
    try:
        torch.cuda.init()
        torch.ones(1, device="cuda").add_(1).cpu()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())[:200]
    return None
