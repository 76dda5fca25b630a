"""Inference protocols: at which sizes a network sees an image, and how the passes become one label map."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from data_loaders.aspect_crops import fitted_size
from utils.errors import UserError

Size = tuple[int, int]  # width, height
Slices = tuple[slice, slice]  # rows, columns
Upsampled = Literal["probabilities", "logits", "logits_twice"]

COMMON = "common"  # one column for all methods: a single scale, no flip
# Of --aug-test, with flip. The base size comes first, as uncertainty maps are made from the first pass.
AUG_TEST_SCALES = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75)
# Fields that came later: written only where they differ from their default, so that manifests and run
# folders of older versions, which are compared with new ones, stay valid.
_LATER_FIELDS = ("align_corners", "fitted", "window", "stride")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How one image becomes probabilities, and how absent classes count in the mean.

    Every pass takes the logits auxiliary_weight * auxiliary + main and makes probabilities of them at the
    output size (bilinear upsampling), mirrored back where it is flipped; passes are summed.

    Attributes:
        base_size: (W, H) that scale 1 stands for; None: the image's own size.
        fitted: images keep their proportions and fit inside the base size, as in self-training; else they are
            stretched to it.
        scales: one pass (with `flip` two) for each.
        output_size: (W, H) of the label map; None: that of the truth, or of the image where there is none.
        resampling: filter of the input resize, as in `data_loaders.transforms`.
        upsampled: "probabilities": softmax at network stride, then upsampling; "logits": the other way round;
            "logits_twice": as "logits", but to the size of the network's input first, then to the output's.
        align_corners: of all upsampling, as torch's `interpolate`.
        window: (W, H) of the pieces of an input that the network sees one at a time; None: all at once. A
            pass's logits are then those of its windows, each upsampled to the window's size, averaged where
            windows overlap. An input that no window is smaller than is seen at once.
        stride: (W, H) from one window to the next; at most `window`, and given with it.
        absent: whether a class in neither truth nor prediction is left out of the mean or counts as 0.
    """

    name: str
    base_size: Size | None = None
    fitted: bool = False
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    auxiliary_weight: float = 0.5
    output_size: Size | None = None
    resampling: str = "pillow_bicubic"
    upsampled: Upsampled = "probabilities"
    align_corners: bool = True
    window: Size | None = None
    stride: Size | None = None
    absent: Literal["nan", "zero"] = "nan"

    def __post_init__(self) -> None:
        assert (self.window is None) == (self.stride is None), "window and stride come together"

    @property
    def passes(self) -> int:
        """Number of probability maps in the sum: the largest possible confidence."""
        return len(self.scales) * (2 if self.flip else 1)

    def input_sizes(self, image_size: Size, *, keep_aspect: bool = False) -> list[Size]:
        """(W, H) of the network's inputs, one per scale, for an image of `image_size` (W, H).

        Args:
            image_size: of the image.
            keep_aspect: where images are stretched: the base size gives the number of pixels, the image its
                own proportions.
        """
        width, height = self.base_size or image_size
        if self.fitted:
            limits = [(int(width * scale), int(height * scale)) for scale in self.scales]
            return [fitted_size(image_size, limit) for limit in limits]
        if keep_aspect:
            factor = math.sqrt(width * height / (image_size[0] * image_size[1]))
            width, height = (max(1, round(factor * length)) for length in image_size)
        return [(round(width * scale), round(height * scale)) for scale in self.scales]

    def windows(self, input_size: Size) -> list[Slices]:
        """Rows and columns of the windows of an input of (W, H), row by row; at the border shifted inside.

        Empty where the network sees the input at once.

        Source: the inference of the framework that DAFormer and DIDA were released for.
        """
        if self.window is None or self.stride is None:
            return []
        columns, rows = (
            _window_slices(length, window, stride)
            for length, window, stride in zip(input_size, self.window, self.stride, strict=True)
        )
        return [(row, column) for row in rows for column in columns] if len(rows) * len(columns) > 1 else []

    def with_aug_test(self) -> Protocol:
        """The same protocol at six scales with flip, whatever scales and flip it has; probabilities averaged.

        Source: DAFormer and DIDA as released; no published number uses it.
        """
        return dataclasses.replace(self, scales=AUG_TEST_SCALES, flip=True)

    def with_window(self, window: Size | None, stride: Size | None) -> Protocol:
        """The same protocol seen through windows of (W, H), None: as large as before, every `stride` pixels.

        Without a stride they move by two thirds of their size.

        Raises:
            UserError: a stride but no window, or one that leaves gaps.
        """
        window = window or self.window
        if window is None:
            raise UserError(
                f"--stride {_text(stride)} is the step of a window, but protocol {self.name} has none; "
                "add --window W,H"
            )
        width, height = stride or (max(1, 2 * length // 3) for length in window)
        if width > window[0] or height > window[1]:
            raise UserError(
                f"--stride {_text(stride)} leaves gaps between windows of {_text(window)}; give at most "
                f"--stride {_text(window)}"
            )
        return dataclasses.replace(self, window=window, stride=(width, height))

    def describe(self) -> str:
        """One phrase for tables and logs: name, sizes, flip, windows."""
        base = _text(self.base_size, "x") or "image size"
        scales = "" if self.scales == (1.0,) else " x " + "+".join(f"{scale:g}" for scale in self.scales)
        flip = ", flip" if self.flip else ""
        window, stride = _text(self.window, "x"), _text(self.stride, "x")
        windows = f", windows {window} every {stride}" if window else ""
        aug_test = " aug-test" if self.scales == AUG_TEST_SCALES and self.flip else ""
        return f"{self.name}{aug_test} ({base}{scales}{flip}{windows})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for snapshots, manifests and JSON."""
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            if field.name in _LATER_FIELDS and values[field.name] == field.default:
                del values[field.name]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Protocol:
        """The inverse of `to_dict`; a field that an older version did not write has its default."""
        return cls(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        )


def _window_slices(length: int, window: int, stride: int) -> list[slice]:
    """Windows along one axis; one that is larger than the axis is all of it."""
    count = max(length - window + stride - 1, 0) // stride + 1
    starts = [max(min(number * stride, length - window), 0) for number in range(count)]
    return [slice(start, min(start + window, length)) for start in starts]


def _text(size: Size | None, between: str = ",") -> str:
    return between.join(map(str, size or ()))


_RIPU: dict[str, Any] = {"flip": True, "upsampled": "logits", "absent": "zero"}
_DAFORMER: dict[str, Any] = {
    "fitted": True,
    "resampling": "opencv_bilinear",
    "upsampled": "logits_twice",
    "align_corners": False,
}
_MADA: dict[str, Any] = {"resampling": "pillow_bilinear", "upsampled": "logits"}
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
        # DAFormer and DIDA: a single pass of the whole image, logits resized in two steps.
        Protocol(name="daformer-cityscapes", base_size=(1024, 512), **_DAFORMER),
        Protocol(name="daformer", **_DAFORMER),
        # MADA: a single pass at the full size of Cityscapes.
        Protocol(name="mada-cityscapes", base_size=(2048, 1024), **_MADA),
        Protocol(name="mada", **_MADA),
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

    Only what the two presets differ in is changed: a base size of the user's own stays, and so do other
    scales (--aug-test).
    """
    variant = PROTOCOLS.get(f"{protocol.name}-labels")
    if variant is None:
        return protocol
    preset = PROTOCOLS[protocol.name]
    names = [field.name for field in dataclasses.fields(Protocol)]
    changes = {
        name: getattr(variant, name)
        for name in names
        if getattr(variant, name) != getattr(preset, name) == getattr(protocol, name)
    }
    return dataclasses.replace(protocol, **changes)
