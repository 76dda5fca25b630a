"""From a network description to a network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from networks.daformer import DAFormer, DAFormerOptions
from networks.deeplab import DeepLabSummed, DeepLabTwoHead, DeepLabV3Plus
from networks.heads import DecoderOptions, HeadOptions
from networks.mada import MULTI_GRID, MadaOptions, MadaV3Plus
from networks.mit import MIT_VARIANTS, mix_transformer
from networks.mobilenet import mobilenet_v2
from networks.normalization import freeze_normalization
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
    "deeplab_v2": RESIDUAL_BACKBONES,
    "deeplab_v3plus": RESIDUAL_BACKBONES,
    "daformer": tuple(MIT_VARIANTS),
    # Its input is RGB / 255, and the Caffe weights of the one left out are for BGR.
    "mada_v3plus": tuple(name for name in RESIDUAL_BACKBONES if name != "resnet101_caffe"),
}
NORM_STYLES = {
    "deeplab_two_head": ("bn", "in", "gn"),  # of the heads
    "deeplab_v2": ("frozen", "bn"),  # of the whole network
    "deeplab_v3plus": ("frozen", "bn"),
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
    "deeplab_v2": {"norm_style": "frozen", "dilations": [6, 12, 18, 24], "output_stride": 8},
    "deeplab_v3plus": {
        "norm_style": "frozen",
        "drop_rate": 0.1,
        "head_channels": 512,
        "low_channels": 48,
        "dilations": [6, 12, 18],
        "output_stride": 8,
    },
    "daformer": {
        "drop_rate": 0.1,
        "drop_path_rate": 0.1,
        "head_channels": 256,
        "dilations": [6, 12, 18],
    },
    "mada_v3plus": {
        "drop_rate": 0.1,
        "inner_drop_rate": 0.5,
        "head_channels": 256,
        "low_channels": 48,
        "dilations": [6, 12, 18],
        "output_stride": 16,
    },
}
# Name of the summed head among the network's children, which is that of the released files.
_SUMMED_HEADS = {"deeplab_oracle": "layer5", "deeplab_vgg": "classifier", "deeplab_v2": "classifier"}


def build(spec: NetworkSpec) -> SegmentationNetwork:
    """The network of this description, with fresh weights (torch's global generator) and all options.

    Raises:
        UserError: unknown architecture, backbone or option, or an option value that cannot be built.
    """
    spec = complete(spec)
    network = _with_batch_norm(spec)
    if spec.options.get("norm_style") == "frozen":
        freeze_normalization(network)
    return network


def _with_batch_norm(spec: NetworkSpec) -> SegmentationNetwork:
    """The network of a complete spec before its normalisation is frozen."""
    options = dict(spec.options)
    backbone = _backbone(spec)
    options.pop("output_stride", None)
    if spec.architecture == "deeplab_two_head":
        return DeepLabTwoHead(spec, backbone, HeadOptions(**options))
    if spec.architecture == "deeplab_v3plus":
        options.pop("norm_style")
        return DeepLabV3Plus(spec, backbone, DecoderOptions(**options))
    if spec.architecture == "daformer":
        options.pop("drop_path_rate")
        return DAFormer(spec, backbone, DAFormerOptions(**options))
    if spec.architecture == "mada_v3plus":
        return MadaV3Plus(spec, backbone, MadaOptions(**options))
    return DeepLabSummed(
        spec,
        backbone,
        head_name=_SUMMED_HEADS[spec.architecture],
        dilations=options["dilations"],
        summed_branches=options.get("summed_branches", len(options["dilations"])),
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
    _check_norm_style(spec.architecture, options)
    _check_values(options)
    return replace(spec, options=options)


def _check_norm_style(architecture: str, options: Mapping[str, Any]) -> None:
    if architecture not in NORM_STYLES:
        return
    if options["norm_style"] == "ln":
        raise UserError(
            "norm style ln normalises over the image width and fails unless width equals channels, in the "
            "original as well; use gn, in or bn"
        )
    _check_known(f"norm style of {architecture}", options["norm_style"], NORM_STYLES[architecture])


def _check_values(options: Mapping[str, Any]) -> None:
    if options.get("output_stride", 8) not in (8, 16):
        raise UserError(f"output stride {options['output_stride']} is not built; use 8 or 16")
    for name in ("drop_rate", "drop_path_rate", "inner_drop_rate"):
        if not 0 <= options.get(name, 0.0) < 1:
            raise UserError(f"{name.replace('_', ' ')} {options[name]} must be at least 0 and below 1")
    if min(options["dilations"], default=0) < 1:
        raise UserError(f"dilations {options['dilations']} must be one or more positive numbers")
    if not 1 <= options.get("summed_branches", 1) <= len(options["dilations"]):
        raise UserError(
            f"summed branches {options['summed_branches']} must be 1..{len(options['dilations'])}"
        )
    for name in ("head_channels", "bottleneck_channels", "low_channels"):
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
    if spec.backbone in MIT_VARIANTS:
        return mix_transformer(spec.backbone, drop_path_rate=spec.options["drop_path_rate"])
    output_stride = spec.options["output_stride"]
    if spec.backbone == "mobilenet_v2":
        return mobilenet_v2(output_stride=output_stride)
    multi_grid = MULTI_GRID if spec.architecture == "mada_v3plus" else ()
    return resnet(spec.backbone, output_stride=output_stride, multi_grid=multi_grid)
