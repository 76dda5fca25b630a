"""Initial weights of a backbone: a file, torchvision's download, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from networks.factory import BACKBONES, build
from networks.mit import MIT_VARIANTS
from networks.mit_files import backbone_in, from_imagenet
from networks.normalization import FrozenAffine, frozen_layers
from networks.published import Layout, layout_of, unwrapped
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec
from networks.weights import COUNTER, check_entries, check_finite, copy_entries, expected_shapes, has_any
from utils import snapshots
from utils.errors import UserError

TORCHVISION_WEIGHTS: Mapping[str, models.WeightsEnum] = {
    "resnet18": models.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": models.ResNet50_Weights.IMAGENET1K_V1,
    "resnet101": models.ResNet101_Weights.IMAGENET1K_V1,
    "mobilenet_v2": models.MobileNet_V2_Weights.IMAGENET1K_V1,
    "vgg16": models.VGG16_Weights.IMAGENET1K_FEATURES,
}
_FITTING_LAYOUT = {
    "resnet101_caffe": "caffe_resnet_init",
    "resnet18": "torchvision_resnet",
    "resnet50": "torchvision_resnet",
    "resnet101": "torchvision_resnet",
    "resnet18_quarter": "torchvision_resnet",
    "mobilenet_v2": "torchvision_mobilenet_v2",
    "vgg16": "torchvision_vgg16",
    **dict.fromkeys(MIT_VARIANTS, "mit"),
}
BATCH_NORM_EPS = 1e-5  # of every pretrained backbone
# Above it a frozen scale amplifies what rounding left of a dead channel, and overflows in half precision.
LARGEST_SCALE = torch.finfo(torch.float16).max
# torchvision's number of the three convolutions after the fourth pool, which DeepLab-VGG16 leaves out -> ours
_VGG_RENUMBERED = {24: 23, 26: 25, 28: 27}


def load_backbone(network: SegmentationNetwork, source: str) -> str:
    """Fills the backbone; says what was loaded. Heads keep their values.

    Frozen normalisation without epsilon takes the statistics of a ResNet as they are, as in the authors'
    released code of RIPU. For MobileNetV2, which they do not have, BatchNorm's epsilon is added to
    running_var, so that the backbone computes what it was trained to. Where running_var is (next to) 0 it
    becomes that epsilon.

    Args:
        source: a file (its keys tell the layout), "torchvision" (downloaded once) or "none".

    Raises:
        UserError: no such file, a file for another backbone, a partial match, a failed download, statistics
            that no BatchNorm can have.
    """
    backbone = network.spec.backbone
    if source == "none":
        return f"backbone {backbone}: random weights (--backbone-weights none)"
    state = _download(backbone) if source == "torchvision" else _read(Path(source))
    layout = layout_of(state)
    if layout is None or layout.name not in _CONVERTERS:
        unknown = f"of an unknown layout (its first entries: {', '.join(list(state)[:3])})"
        is_what = unknown if layout is None else layout.title
        remedy = "; start from it with --restore-from" if layout is not None and not layout.refusal else ""
        raise UserError(f"--backbone-weights {source} is {is_what}, not ImageNet weights{remedy}")
    if layout.name != _FITTING_LAYOUT[backbone]:
        raise UserError(_other_backbone(source, layout, backbone))
    entries = _CONVERTERS[layout.name](state)
    _check_size(entries, layout, source, backbone)
    entries = {f"{network.backbone_prefix}{name}": value for name, value in entries.items()}
    frozen = [layer for name, layer in frozen_layers(network).items() if network.is_backbone(name)]
    if frozen:
        entries = {name: value for name, value in entries.items() if not name.endswith(COUNTER)}
    what = f"--backbone-weights {source} is {layout.title} that does not fit {backbone}"
    check_entries(_backbone_shapes(network), entries, what)
    _check_variances(entries, source)
    copy_entries(network, entries, what)
    check_finite({name: network.state_dict()[name] for name in entries}, f"--backbone-weights {source}")
    raised = _prepare_frozen(frozen, add_epsilon=backbone == "mobilenet_v2")
    note = f"; running_var of {raised} dead channels raised to {BATCH_NORM_EPS:g}" if raised else ""
    return f"backbone {backbone}: {len(entries)} entries of {layout.title} ({source}){note}"


def _check_size(entries: Mapping[str, Any], layout: Layout, source: str, backbone: str) -> None:
    """Names the Mix Transformer of a file where it is another one than the network's."""
    found = backbone_in(entries) if layout.name == "mit" else backbone
    if found not in (None, backbone):
        raise UserError(
            f"--backbone-weights {source} is {layout.title} of {found}, this run builds {backbone}; use "
            f"--backbone {found} or the file of {backbone}"
        )


def _check_variances(entries: Mapping[str, Tensor], source: str) -> None:
    for name, value in entries.items():
        if name.endswith("running_var") and (value < 0).any():
            raise UserError(
                f"--backbone-weights {source} is damaged: {name} holds negative numbers; get it anew"
            )


@torch.no_grad()
def _prepare_frozen(layers: Sequence[FrozenAffine], *, add_epsilon: bool) -> int:
    """Makes BatchNorm's statistics fit layers without epsilon; how many channels had to be repaired."""
    raised = 0
    for layer in layers:
        if add_epsilon:
            layer.running_var += BATCH_NORM_EPS
        dead = layer.beyond(LARGEST_SCALE)
        layer.running_var.masked_fill_(dead, BATCH_NORM_EPS)
        raised += int(dead.sum())
    return raised


def check_backbone_file(path: Path) -> str | None:
    """The backbone whose entries a file of ImageNet weights holds; None for a file of another kind.

    Raises:
        UserError: there is no such file, it cannot be read, or it fits its backbone only in part.
    """
    content = snapshots.read(path)
    state = {} if snapshots.is_snapshot(content) else unwrapped(content)
    layout = layout_of(state)
    if layout is None or layout.name not in _CONVERTERS:
        return None
    entries = _CONVERTERS[layout.name](state)
    candidates = {}
    known = backbone_in(entries)
    for backbone, wanted in _FITTING_LAYOUT.items():
        if wanted == layout.name and known in (None, backbone):
            architecture = next(name for name, usable in BACKBONES.items() if backbone in usable)
            with torch.device("meta"):
                network = build(NetworkSpec(architecture, backbone, 19, "cityscapes19"))
            candidates[backbone] = _backbone_shapes(network)

    def fitting_entries(backbone: str) -> int:
        shapes = candidates[backbone]
        return sum(getattr(value, "shape", None) == shapes.get(name) for name, value in entries.items())

    nearest = max(candidates, key=fitting_entries)
    check_entries(candidates[nearest], entries, f"{path} is {layout.title} that does not fit {nearest}")
    return nearest


def holds_backbone_only(path: Path) -> bool:
    """Whether a file holds ImageNet weights, which the original scripts name by --restore-from too.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    content = snapshots.read(snapshots.resolve(path))
    layout = None if snapshots.is_snapshot(content) else layout_of(unwrapped(content))
    return layout is not None and layout.name in _CONVERTERS


def _backbone_shapes(network: SegmentationNetwork) -> dict[str, tuple[int, ...]]:
    return {name: shape for name, shape in expected_shapes(network).items() if network.is_backbone(name)}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(
            f"--backbone-weights {path} does not exist; `python prepare_data.py weights` says where to get "
            "it, `--backbone-weights none` starts from random weights"
        )
    return unwrapped(snapshots.read(path))


def _download(backbone: str) -> dict[str, Any]:
    if backbone not in TORCHVISION_WEIGHTS:
        raise UserError(
            f"torchvision has no weights for the backbone {backbone}; give a file: --backbone-weights PATH "
            "(`python prepare_data.py weights` says where to get it)"
        )
    weights = TORCHVISION_WEIGHTS[backbone]
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"downloading {weights.url} failed ({error}); fetch it on a machine with network and pass "
            "--backbone-weights PATH"
        ) from error


def _other_backbone(source: str, layout: Layout, backbone: str) -> str:
    fitting = [name for name, wanted in _FITTING_LAYOUT.items() if wanted == layout.name]
    related = {layout.name, _FITTING_LAYOUT[backbone]} <= {"caffe_resnet_init", "torchvision_resnet"}
    difference = "input scaling or stride placement" if related else "kind of backbone"
    return (
        f"--backbone-weights {source} is {layout.title}, made for another {difference} than {backbone}; use "
        f"--backbone {' or '.join(fitting)}"
    )


def _from_caffe(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drops the first component of every name, the old head (`layer5`) and the classifier (`fc`)."""
    short = {name.split(".", 1)[1]: value for name, value in state.items() if "." in name}
    return {name: value for name, value in short.items() if not has_any([name], "layer5", "fc")}


def _from_resnet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def _from_mobilenet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the classifier and the expansion that feeds it."""
    return {
        name: value for name, value in state.items() if not name.startswith(("classifier.", "features.18."))
    }


def _from_vgg(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, value in state.items():
        part, number, *rest = name.split(".")
        if part == "features":
            renamed[".".join([part, str(_VGG_RENUMBERED.get(int(number), int(number))), *rest])] = value
    return renamed


_CONVERTERS: Mapping[str, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "caffe_resnet_init": _from_caffe,
    "torchvision_resnet": _from_resnet,
    "torchvision_mobilenet_v2": _from_mobilenet,
    "torchvision_vgg16": _from_vgg,
    "mit": from_imagenet,
}
