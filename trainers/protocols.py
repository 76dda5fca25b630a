"""Inference protocols: at which sizes a network sees an image, and how the passes become one label map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from utils.errors import UserError

Size = tuple[int, int]  # width, height
Upsampled = Literal["probabilities", "logits"]

COMMON = "common"  # one column for all methods: a single scale, no flip


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one image becomes probabilities, and how absent classes count in the mean.

    Every pass takes the logits auxiliary_weight * auxiliary + main and makes probabilities of them at the
    output size (bilinear upsampling, corners aligned), mirrored back where it is flipped; passes are summed.

    Attributes:
        base_size: (W, H) that scale 1 stands for; None: the image's own size.
        scales: one pass (with `flip` two) for each.
        output_size: (W, H) of the label map; None: that of the truth, or of the image where there is none.
        resampling: filter of the input resize, as in `data_loaders.transforms`.
        upsampled: "probabilities": softmax at network stride, then upsampling; "logits": the other way round.
        absent: whether a class in neither truth nor prediction is left out of the mean or counts as 0.
    """

    name: str
    base_size: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    auxiliary_weight: float = 0.5
    output_size: Size | None = None
    resampling: str = "pillow_bicubic"
    upsampled: Upsampled = "probabilities"
    absent: Literal["nan", "zero"] = "nan"

    @property
    def passes(self) -> int:
        """Number of probability maps in the sum: the largest possible confidence."""
        return len(self.scales) * (2 if self.flip else 1)

    def input_sizes(self, image_size: Size, *, keep_aspect: bool = False) -> list[Size]:
        """(W, H) of the network's inputs, one per scale, for an image of `image_size` (W, H).

        Args:
            image_size: of the image.
            keep_aspect: the base size gives the number of pixels, the image its own proportions.
        """
        width, height = self.base_size or image_size
        if keep_aspect:
            factor = math.sqrt(width * height / (image_size[0] * image_size[1]))
            width, height = (max(1, round(factor * length)) for length in image_size)
        return [(round(width * scale), round(height * scale)) for scale in self.scales]

    def describe(self) -> str:
        """One phrase for tables and logs: name, sizes, flip."""
        base = "image size" if self.base_size is None else "x".join(map(str, self.base_size))
        scales = "" if self.scales == (1.0,) else " x " + "+".join(f"{scale:g}" for scale in self.scales)
        return f"{self.name} ({base}{scales}{', flip' if self.flip else ''})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for snapshots, manifests and JSON."""
        values = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The inverse of `to_dict`; a field that an older version did not write has its default."""
        return cls(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        )


_RIPU: dict[str, Any] = {"flip": True, "upsampled": "logits", "absent": "zero"}
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="mrnet-cityscapes",  # evaluation and pseudo labels alike
            base_size=(1024, 512),
            scales=(1.0, 1.25),
            flip=True,
            output_size=(2048, 1024),
        ),
        Protocol(
            name="mrnet-robotcar",
            base_size=(1280, 960),
            scales=(1.0, 0.8),
            flip=True,
            output_size=(1280, 960),
        ),
        Protocol(
            name="mrnet-robotcar-labels",  # the published pseudo labels look at a larger second size
            base_size=(1280, 960),
            scales=(1.0, 1.25),
            flip=True,
            output_size=(1280, 960),
        ),
        Protocol(name="mrnet-gta5", base_size=(1280, 640), output_size=(1280, 640)),
        Protocol(name="mrnet", scales=(1.0, 1.25), flip=True),
        # RIPU and DWACA: the logits at network stride go straight to the size of the label.
        Protocol(name="ripu-cityscapes", base_size=(1280, 640), **_RIPU),
        Protocol(name="ripu-cityscapes-1024", base_size=(1024, 512), **_RIPU),  # source-free from SYNTHIA
        Protocol(name="ripu", **_RIPU),
        Protocol(name=COMMON),
    )
}

PUBLISHED_FOR_TARGET = {"cityscapes": "mrnet-cityscapes", "robotcar": "mrnet-robotcar"}


def protocol_named(name: str) -> Protocol:
    """The preset of that name.

    Raises:
        UserError: no such preset; names the nearest and lists all.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = get_close_matches(name, PROTOCOLS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"--protocol {name} is not known{hint} (there are: {', '.join(PROTOCOLS)})")


def choose_protocol(
    name: str | None,
    *,
    evaluation: Mapping[str, Any],
    target: str | None = None,
    base_size: Size | None = None,
) -> Protocol:
    """The protocol to use for one snapshot on one target.

    A given name wins, then what the snapshot remembers, then the published one of the target, then "mrnet".
    Where the protocol leaves its base size open, it is `base_size`, else the target input size that the
    snapshot was trained with, else each image's own.

    Args:
        name: of a preset; None: not asked for.
        evaluation: what the snapshot remembers: "protocol" (a name or `Protocol.to_dict()`) and
            "input_size_target" ([W, H]); either may be missing.
        target: name of the data set.
        base_size: (W, H); replaces that of any protocol.
    """
    remembered = evaluation.get("protocol")
    if name is not None:
        protocol = protocol_named(name)
    elif isinstance(remembered, Mapping):
        protocol = Protocol.from_dict(remembered)
    else:
        protocol = protocol_named(remembered or PUBLISHED_FOR_TARGET.get(target or "", "mrnet"))
    if base_size is not None:
        return dataclasses.replace(protocol, base_size=base_size)
    if protocol.base_size is None and evaluation.get("input_size_target"):
        width, height = evaluation["input_size_target"]
        return dataclasses.replace(protocol, base_size=(int(width), int(height)))
    return protocol


def labelling_protocol(protocol: Protocol) -> Protocol:
    """The protocol's variant for pseudo labels where the published one differs, else the protocol itself.

    Only what the two presets differ in is changed: a base size of the user's own stays.
    """
    variant = PROTOCOLS.get(f"{protocol.name}-labels")
    if variant is None:
        return protocol
    preset = PROTOCOLS[protocol.name]
    names = [field.name for field in dataclasses.fields(Protocol)]
    changes = {
        name: getattr(variant, name) for name in names if getattr(variant, name) != getattr(preset, name)
    }
    return dataclasses.replace(protocol, **changes)
