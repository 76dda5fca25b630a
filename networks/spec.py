"""What a network is (NetworkSpec, stored in every snapshot) and what its forward returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from utils.errors import UserError

OptionValue = int | float | str | bool | list
_FIELDS = ("architecture", "backbone", "num_classes", "class_space", "options")


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything `networks.build` needs; plain values only, so that a snapshot can hold it.

    `options` belong to the architecture and its backbone (`networks.factory` lists them with their defaults).
    """

    architecture: str
    backbone: str
    num_classes: int
    class_space: str
    options: Mapping[str, OptionValue] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The spec as a dictionary of plain values."""
        return {**asdict(self), "options": dict(self.options)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """The spec that `to_dict` wrote.

        Raises:
            UserError: a field is missing or unknown.
        """
        missing = [name for name in _FIELDS if name not in values]
        unknown = [name for name in values if name not in _FIELDS]
        if missing or unknown:
            raise UserError(
                f"this network description lacks {missing} and has unknown fields {unknown}: it was not "
                "written by this version of SegAdapt"
            )
        return cls(**{name: values[name] for name in _FIELDS})


class HeadOutput(NamedTuple):
    """What a head makes of backbone features.

    logits: (N, num_classes, h, w). features: (N, D, h, w) input of the classifier, before its dropout (MADA's
    decoder: after it).
    """

    logits: Tensor
    features: Tensor


@dataclass(slots=True)
class SegmentationOutput:
    """Maps at network stride; callers upsample.

    logits and auxiliary_logits: (N, num_classes, h, w). features: (N, D, h, w) input of the (main) head's
    classifier before its dropout; every network of ours gives them. Those of mada_v3plus are after its
    dropout, as MADA's vectors are made of what the classifier really sees.
    """

    logits: Tensor
    auxiliary_logits: Tensor | None = None
    features: Tensor | None = None
