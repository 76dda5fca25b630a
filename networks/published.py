"""Published checkpoint layouts, told apart by their keys."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from networks.factory import build
from networks.mit_files import BEGINNINGS, backbone_in
from networks.spec import NetworkSpec
from networks.weights import COUNTER, check_entries, expected_shapes, has_any
from utils.class_spaces import CLASS_SPACES
from utils.errors import UserError
from utils.snapshots import clean_keys

logger = logging.getLogger(__name__)

Names = frozenset[str]
Which = Literal["student", "teacher"]
USUAL_CLASS_SPACE = {19: "cityscapes19", 16: "synthia16", 9: "robotcar9"}  # of the published generators
ORIGINAL_MODELS = {
    "DeepLab": "mrnet",
    "Oracle": "deeplab_oracle",
    "DeeplabVGG": "deeplab_vgg",
}  # opts.yaml: model


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of file: how its entry names look, and what to say where it is no network that we read."""

    name: str
    title: str
    matches: Callable[[Names], bool]
    refusal: str = ""  # empty: identify() reads it
    protocol: str = ""  # preset of the evaluation protocol whose numbers were published; empty: the target's


def _init_refusal(flag_value: str) -> str:
    return f"it holds no classes; pass it as --backbone-weights {flag_value}"


_RIPU_PARTS = ("feature_extractor", "classifier")
_MADA_NETWORK, _MADA_WEIGHTS = (
    "DeepLab",
    "model_state",
)  # class name of the network, and what of it is weights
# The first match counts, so that a file is never taken for one whose names it also contains.
LAYOUTS = (
    Layout(
        "ripu",
        "a RIPU or DWACA checkpoint",
        lambda names: bool(names & {*_RIPU_PARTS, "optimizer_fea", "optimizer_cls"}),
        protocol="ripu-cityscapes",
    ),
    Layout(
        "mada",
        "a MADA checkpoint",
        lambda names: _MADA_NETWORK in names or has_any(names, "aspp.aspp1.", "decoder.last_conv."),
        protocol="mada-cityscapes",
    ),
    Layout(
        "daformer",
        "a DAFormer or DIDA checkpoint",
        lambda names: has_any(names, "model.decode_head.", "ema_model.", "imnet_model.", "decode_head."),
        protocol="daformer-cityscapes",
    ),
    Layout(
        "mit",
        "a Mix Transformer (MiT) ImageNet file",
        lambda names: has_any(names, *BEGINNINGS),
        _init_refusal("PATH with --backbone mit_b0 to mit_b5"),
    ),
    Layout(
        "mrnet_discriminator",
        "an MRNet discriminator (GTA5_..._D1.pth or _D2.pth)",
        lambda names: has_any(names, "cnns."),
        "give the generator's file, the one without _D1 or _D2",
    ),
    Layout(
        "caffe_resnet_init",
        "the Caffe ResNet ImageNet file",
        lambda names: has_any(names, "Scale."),
        _init_refusal("PATH with --backbone resnet101_caffe"),
    ),
    Layout(
        "adaptsegnet",
        "an AdaptSegNet checkpoint",
        lambda names: "layer6.conv2d_list.0.weight" in names,
        "its heads do not fit this network, nor did they fit the original's",
    ),
    Layout("mrnet", "an MRNet generator", lambda names: has_any(names, "layer6.")),
    Layout("deeplab_oracle", "a single-head DeepLab-V2", lambda names: has_any(names, "layer5.conv2d_list.")),
    Layout("deeplab_vgg", "a DeepLab-VGG16", lambda names: has_any(names, "classifier.conv2d_list.")),
    Layout(
        "torchvision_resnet",
        "a ResNet ImageNet file with torchvision's keys",
        lambda names: {"conv1.weight", "bn1.weight"} <= names and has_any(names, "layer4."),
        _init_refusal("PATH with --backbone resnet18, resnet50 or resnet101"),
    ),
    Layout(
        "torchvision_mobilenet_v2",
        "a MobileNetV2 ImageNet file with torchvision's keys",
        lambda names: "features.0.0.weight" in names and has_any(names, "features.17.conv."),
        _init_refusal("PATH with --backbone mobilenet_v2"),
    ),
    Layout(
        "torchvision_vgg16",
        "a VGG-16 ImageNet file with torchvision's keys",
        lambda names: "features.0.weight" in names and has_any(names, "features.28."),
        _init_refusal("PATH with --backbone vgg16"),
    ),
)
_RIPU_HEADS = {  # an entry with one row per class: architecture
    "classifier.conv2d_list.0.weight": "deeplab_v2",
    "classifier.decoder.3.weight": "deeplab_v3plus",
}
_DAFORMER_PARTS = {"student": "model.", "teacher": "ema_model."}  # in a training checkpoint
_SINGLE_HEAD = {  # layout: architecture, backbone, an entry with one row per class
    "deeplab_oracle": ("deeplab_oracle", "resnet101_caffe", "layer5.conv2d_list.0.weight"),
    "deeplab_vgg": ("deeplab_vgg", "vgg16", "classifier.conv2d_list.0.weight"),
}


def identify(
    state_dict: Mapping[str, Any],
    path: Path | None = None,
    *,
    weights: Which = "student",
    opts_path: Path | None = None,
    class_space: str | None = None,
) -> tuple[NetworkSpec, dict[str, Tensor]]:
    """Description and weights (our key names) of a published segmentation network.

    Args:
        state_dict: content of the file, with or without `module.` in front of every name. RIPU's and DWACA's
            hold two state dictionaries, DAFormer's and DIDA's three networks, MADA's one under its class
            name, perhaps beside others (discriminators), which are ignored, as optimisers are.
        path: the file, for messages.
        weights: which network of a DAFormer or DIDA checkpoint; all others hold a student only.
        opts_path: the options file that the MRNet authors' training wrote beside it, if there is one.
        class_space: what the network's outputs mean, where their number alone does not tell.

    Raises:
        UserError: unknown layout, one that is no segmentation network or cannot be read yet, a partial match
            (names the first entries), options that contradict the weights, no teacher where one is asked for.
    """
    what = str(path) if path is not None else "this file"
    names = unwrapped(state_dict)
    layout = layout_of(names)
    if layout is None:
        raise UserError(
            f"{what} has an unknown layout (its first entries: {', '.join(list(names)[:3])}); known are "
            "SegAdapt snapshots and the checkpoints of MRNet / Rectifying, RIPU, DWACA, DAFormer, DIDA and "
            "MADA"
        )
    if layout.refusal:
        raise UserError(f"{what} is {layout.title}: {layout.refusal}")
    if layout.name == "daformer":
        names = _daformer_entries(names, layout, what, weights)
    elif weights != "student":
        raise UserError(f"{what} is {layout.title} and holds no {weights}; use --weights student")
    if layout.name == "ripu":
        names = _ripu_entries(names, layout, what)
    if layout.name == "mada":
        names = _mada_entries(names, layout, what)
    opts = read_opts(opts_path) if opts_path is not None and opts_path.is_file() else {}
    _check_opts(layout, opts, what)
    spec = _spec(layout, names, opts, what, class_space)
    with torch.device("meta"):
        expected = expected_shapes(build(spec))
    check_entries(expected, names, f"{what} looks like {layout.title} with {spec.num_classes} classes, but")
    return spec, names


def layout_of(state: Mapping[str, Any]) -> Layout | None:
    """The first layout that the entry names of an unwrapped state dictionary match."""
    names = frozenset(state)
    return next((layout for layout in LAYOUTS if layout.matches(names)), None)


def unwrapped(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dictionary inside a `state_dict` or `model` wrapper, without `module.` before its names."""
    for wrapper in ("state_dict", "model"):
        inner = content.get(wrapper)
        if isinstance(inner, Mapping):
            content = inner
            break
    return clean_keys({str(name): value for name, value in content.items()})


def read_opts(path: Path) -> dict[str, str | bool]:
    """The flat `key: value` lines of the options file that the MRNet authors' training writes.

    Booleans are read as such, everything else stays text without quotes; nested lines are skipped.
    """
    options: dict[str, str | bool] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = re.match(r"([A-Za-z_]\w*)\s*:\s*(.*?)\s*(?:\s#.*)?$", line)
        if match:
            value = match[2].strip("'\"")
            options[match[1]] = value.lower() == "true" if value.lower() in ("true", "false") else value
    return options


def _check_opts(layout: Layout, opts: Mapping[str, str | bool], what: str) -> None:
    model = opts.get("model")
    if model is not None and ORIGINAL_MODELS.get(str(model)) != layout.name:
        raise UserError(f"{what} is {layout.title}, but opts.yaml beside it says model: {model}")


def _spec(
    layout: Layout, state: Mapping[str, Any], opts: Mapping[str, Any], what: str, class_space: str | None
) -> NetworkSpec:
    if layout.name == "mrnet":
        num_classes = _rows(state, "layer6.head.1.weight", layout, what)
        options = {"norm_style": _norm_style(state, opts, what), "use_se": _use_se(state, opts, what)}
        space = _class_space(num_classes, class_space, what)
        return NetworkSpec("deeplab_two_head", "resnet101_caffe", num_classes, space, options)
    if layout.name == "ripu":
        return _ripu_spec(state, layout, what, class_space)
    if layout.name == "daformer":
        return _daformer_spec(state, layout, what, class_space)
    if layout.name == "mada":
        num_classes = _rows(state, "decoder.last_conv.8.weight", layout, what)
        space = _class_space(num_classes, class_space, what)
        return NetworkSpec("mada_v3plus", "resnet101", num_classes, space)
    architecture, backbone, entry = _SINGLE_HEAD[layout.name]
    num_classes = _rows(state, entry, layout, what)
    return NetworkSpec(architecture, backbone, num_classes, _class_space(num_classes, class_space, what))


def _ripu_entries(content: Mapping[str, Any], layout: Layout, what: str) -> dict[str, Tensor]:
    """Both parts as one state dictionary of ours: the backbone at top level, the head under `classifier.`."""
    parts = {part: content.get(part) for part in _RIPU_PARTS}
    absent = [part for part, entries in parts.items() if not isinstance(entries, Mapping) or not entries]
    if absent:
        raise UserError(
            f"{what} looks like {layout.title}, but has no {' and no '.join(absent)}; give the "
            "model_iter*.pth that holds both"
        )
    features, head = (clean_keys(parts[part]) for part in _RIPU_PARTS)
    foreign = next((name for name in features if not name.startswith("backbone.")), None)
    if foreign is not None:
        raise UserError(
            f"{what} looks like {layout.title}, but its feature_extractor has the entry {foreign}, which is "
            "not below backbone.; networks other than the published ResNet-101 are not known"
        )
    backbone = {name.removeprefix("backbone."): value for name, value in features.items()}
    return backbone | {f"classifier.{name}": value for name, value in head.items()}


def _ripu_spec(state: Mapping[str, Any], layout: Layout, what: str, class_space: str | None) -> NetworkSpec:
    entry = next((name for name in _RIPU_HEADS if name in state), None)
    if entry is None:
        expected = " nor ".join(name.removeprefix("classifier.") for name in _RIPU_HEADS)
        raise UserError(f"{what} looks like {layout.title}, but its classifier has neither {expected}")
    num_classes = _rows(state, entry, layout, what)
    # FREEZE_BN False, which no published setting uses, leaves ordinary BatchNorm with its counters.
    norm_style = "bn" if any(name.endswith(COUNTER) for name in state) else "frozen"
    return NetworkSpec(
        _RIPU_HEADS[entry],
        "resnet101",
        num_classes,
        _class_space(num_classes, class_space, what),
        {"norm_style": norm_style},
    )


def _daformer_entries(
    content: Mapping[str, Any], layout: Layout, what: str, weights: Which
) -> dict[str, Any]:
    """The entries of one network, by the plain segmentor's names, which are ours."""
    prefix = _DAFORMER_PARTS[weights]
    entries = {name.removeprefix(prefix): v for name, v in content.items() if name.startswith(prefix)}
    if entries:
        return entries
    present = [which for which, beginning in _DAFORMER_PARTS.items() if has_any(content, beginning)]
    if not present and not has_any(content, "imnet_model."):
        if weights == "student":
            return dict(content)  # a plain segmentor
        present = ["student"]
    remedy = f"use --weights {present[0]}" if present else "give another checkpoint"
    raise UserError(f"{what} is {layout.title} and holds no {weights} ({prefix}*); {remedy}")


def _daformer_spec(
    state: Mapping[str, Any], layout: Layout, what: str, class_space: str | None
) -> NetworkSpec:
    num_classes = _rows(state, "decode_head.conv_seg.weight", layout, what)
    backbone = backbone_in(state)
    if backbone is None:
        raise UserError(
            f"{what} looks like {layout.title}, but its backbone has the channels and blocks of none of the "
            "Mix Transformers mit_b0 to mit_b5"
        )
    space = _class_space(num_classes, class_space, what)
    return NetworkSpec("daformer", backbone, num_classes, space)


def _mada_entries(content: Mapping[str, Any], layout: Layout, what: str) -> dict[str, Any]:
    """The network's entries, which are named as ours: of a training checkpoint, else the file's own."""
    if _MADA_NETWORK not in content:
        return dict(content)
    part = content[_MADA_NETWORK]
    weights = part.get(_MADA_WEIGHTS) if isinstance(part, Mapping) else None
    if not isinstance(weights, Mapping) or not weights:
        raise UserError(
            f"{what} looks like {layout.title}, but its {_MADA_NETWORK} has no {_MADA_WEIGHTS}; give the "
            "*_best_model.pkl or *_current_model.pkl that the training wrote"
        )
    return clean_keys(weights)


def _rows(state: Mapping[str, Any], name: str, layout: Layout, what: str) -> int:
    if not isinstance(state.get(name), Tensor) or state[name].ndim == 0:
        raise UserError(f"{what} looks like {layout.title}, but its entry {name} is missing")
    return state[name].shape[0]


def _norm_style(state: Mapping[str, Any], opts: Mapping[str, Any], what: str) -> str:
    named = opts.get("norm_style")
    if "layer6.conv2d_list.0.1.running_mean" in state:
        if named not in (None, "bn"):
            raise UserError(f"{what} has BatchNorm in its heads, but opts.yaml says norm_style: {named}")
        return "bn"
    if named is None:
        logger.warning(
            "%s: GroupNorm and InstanceNorm heads have the same entries and there is no opts.yaml beside the "
            "file that tells; taking GroupNorm (gn), which all published models use",
            what,
        )
        return "gn"
    if named not in ("gn", "in"):
        raise UserError(f"{what} has no BatchNorm in its heads, but opts.yaml says norm_style: {named}")
    return named


def _use_se(state: Mapping[str, Any], opts: Mapping[str, Any], what: str) -> bool:
    found = has_any(state, "layer6.bottleneck.0.se.")
    if opts.get("use_se", found) != found:
        raise UserError(f"opts.yaml beside {what} says use_se: {opts['use_se']}, but its weights say {found}")
    return found


def _class_space(num_classes: int, asked: str | None, what: str) -> str:
    if asked is not None:
        known = CLASS_SPACES.get(asked)
        if known is not None and known.num_classes != num_classes:
            raise UserError(
                f"{what} has {num_classes} classes but the class space {asked} has {known.num_classes}"
            )
        return asked
    if num_classes not in USUAL_CLASS_SPACE:
        raise UserError(f"{what} has {num_classes} classes; say what they are with --class-space NAME")
    return USUAL_CLASS_SPACE[num_classes]
