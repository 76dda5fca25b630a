"""From a network description to a network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from networks.deeplab import DeepLabSummed, DeepLabTwoHead
from networks.heads import HeadOptions
from networks.mobilenet import mobilenet_v2
from networks.resnet import VARIANTS, resnet
from networks.segmentation import Backbone, SegmentationNetwork
from networks.spec import NetworkSpec
from networks.vgg import vgg16
from utils.errors import UserError

RESIDUAL_BACKBONES = (*VARIANTS, "mobilenet_v2")
BACKBONES = {
    "deeplab_two_head": RESIDUAL_BACKBONES,
    "deeplab_oracle": RESIDUAL_BACKBONES,
    "deeplab_vgg": ("vgg16",),
}
_SUMMED_OPTIONS = {"dilations": [6, 12, 18, 24], "summed_branches": 2}
DEFAULT_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "deeplab_two_head": {
        "norm_style": "bn",
        "use_se": False,
        "drop_rate": 0.1,
        "head_channels": 256,
        "bottleneck_channels": 512,
        "dilations": [6, 12, 18, 24],
        "output_stride": 8,
    },
    "deeplab_oracle": {**_SUMMED_OPTIONS, "output_stride": 8},
    "deeplab_vgg": _SUMMED_OPTIONS,
}


def build(spec: NetworkSpec) -> SegmentationNetwork:
    """The network of this description, with fresh weights (torch's global generator) and all options.

    Raises:
        UserError: unknown architecture, backbone or option, or an option value that cannot be built.
    """
    spec = complete(spec)
    options = dict(spec.options)
    backbone = _backbone(spec)
    if spec.architecture == "deeplab_two_head":
        options.pop("output_stride")
        return DeepLabTwoHead(spec, backbone, HeadOptions(**options))
    return DeepLabSummed(
        spec,
        backbone,
        head_name="layer5" if spec.architecture == "deeplab_oracle" else "classifier",
        dilations=options["dilations"],
        summed_branches=options["summed_branches"],
    )


def option_names(architecture: str) -> frozenset[str]:
    """The options that this architecture knows.

    Raises:
        UserError: unknown architecture.
    """
    _check_known("network architecture", architecture, DEFAULT_OPTIONS)
    return frozenset(DEFAULT_OPTIONS[architecture])


def complete(spec: NetworkSpec) -> NetworkSpec:
    """The checked spec with the defaults of all options that it does not name.

    Raises:
        UserError: as `build`.
    """
    _check_known("network architecture", spec.architecture, DEFAULT_OPTIONS)
    _check_known(f"backbone of {spec.architecture}", spec.backbone, BACKBONES[spec.architecture])
    defaults = DEFAULT_OPTIONS[spec.architecture]
    for name in spec.options:
        _check_known(f"option of {spec.architecture}", name, defaults)
    options = {**defaults, **spec.options}
    options["dilations"] = [int(dilation) for dilation in options["dilations"]]
    if spec.num_classes < 2:
        raise UserError(f"a network needs at least 2 classes, not {spec.num_classes}")
    _check_values(options)
    return replace(spec, options=options)


def _check_values(options: Mapping[str, Any]) -> None:
    style = options.get("norm_style", "bn")
    if style == "ln":
        raise UserError(
            "norm style ln normalises over the image width and fails unless width equals channels, in the "
            "original as well; use gn, in or bn"
        )
    _check_known("norm style", style, ("bn", "in", "gn"))
    if options.get("output_stride", 8) not in (8, 16):
        raise UserError(f"output stride {options['output_stride']} is not built; use 8 or 16")
    if not 0 <= options.get("drop_rate", 0.0) < 1:
        raise UserError(f"drop rate {options['drop_rate']} must be at least 0 and below 1")
    if min(options["dilations"], default=0) < 1:
        raise UserError(f"dilations {options['dilations']} must be one or more positive numbers")
    if not 1 <= options.get("summed_branches", 1) <= len(options["dilations"]):
        raise UserError(
            f"summed branches {options['summed_branches']} must be 1..{len(options['dilations'])}"
        )
    for name in ("head_channels", "bottleneck_channels"):
        if options.get(name, 1) < 1:
            raise UserError(f"{name} {options[name]} must be positive")


def _check_known(what: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name in known:
        return
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise UserError(f"unknown {what} {name!r}: {hint}known: {', '.join(known)}")


def _backbone(spec: NetworkSpec) -> Backbone:
    if spec.backbone == "vgg16":
        return vgg16()
    output_stride = spec.options["output_stride"]
    if spec.backbone == "mobilenet_v2":
        return mobilenet_v2(output_stride=output_stride)
    return resnet(spec.backbone, output_stride=output_stride)
