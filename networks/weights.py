"""State dictionaries against the network they are for: everything fits, or an error says what does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError

COUNTER = (
    "num_batches_tracked"  # absent from Caffe files and from very old torch files; training does not need it
)


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Copies every entry into the module (dtypes follow the module).

    Raises:
        UserError: an entry is missing, unknown, of another shape, or no plain tensor; `what` begins the
            message.
    """
    check_entries(expected_shapes(module), state, what)
    copy_entries(module, state, what)


def copy_entries(module: nn.Module, entries: Mapping[str, Tensor], what: str) -> None:
    """Copies entries that fit into the module, which keeps its others.

    Raises:
        UserError: an entry has a shape but no values (torch's meta device) where the module has some.
    """
    own = module.state_dict()
    empty = [name for name, value in entries.items() if value.is_meta and not own[name].is_meta]
    if empty:
        raise UserError(f"{what}: {len(empty)} entries have no values, first {empty[0]}")
    module.load_state_dict({**own, **entries})


def expected_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every state-dict entry."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def check_entries(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], what: str) -> None:
    """Compares names and shapes; only BatchNorm's batch counters may be missing.

    Raises:
        UserError: as `load_exactly`.
    """
    problems = []
    missing = [name for name in expected if name not in found and not name.endswith(COUNTER)]
    unknown = [name for name in found if name not in expected]
    odd = [name for name, value in found.items() if not _is_plain(value)]
    if missing:
        problems.append(f"{len(missing)} entries are missing, first {missing[0]}")
    if unknown:
        problems.append(f"{len(unknown)} are not part of it, first {unknown[0]}")
    if odd:
        problems.append(f"{len(odd)} are no plain tensors, first {odd[0]}")
    differing = [
        name for name in found if name in expected and name not in odd and found[name].shape != expected[name]
    ]
    if differing:
        name = differing[0]
        problems.append(
            f"{len(differing)} have another shape, first {name}: {tuple(found[name].shape)} instead of "
            f"{expected[name]}"
        )
    if problems:
        raise UserError(f"{what}: {'; '.join(problems)}")


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor that is neither sparse nor quantised."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized


def check_finite(state: Mapping[str, Tensor], file: Path | str) -> None:
    """Looks at what a module took from a file: its run may have diverged, a value not fit the module's type.

    Args:
        state: of the module, after the file was loaded; the entries that came from it.
        file: for the message.

    Raises:
        UserError: a value is infinite or no number; names the file and the first such entry.
    """
    present = {name: value for name, value in state.items() if not value.is_meta}
    broken = [name for name, value in present.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{file} holds values that are not finite in {len(broken)} of {len(state)} entries, first "
            f"{broken[0]}: its run has diverged, or the file is damaged; use another one"
        )


def has_any(state: Iterable[str], *beginnings: str) -> bool:
    """Whether any entry name begins so."""
    return any(name.startswith(beginnings) for name in state)
