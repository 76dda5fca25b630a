"""Networks from files: our snapshots and run folders, and published checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from networks.factory import build, complete
from networks.normalization import frozen_layers
from networks.published import Which, identify, layout_of, unwrapped
from networks.segmentation import SegmentationNetwork
from networks.spec import NetworkSpec, OptionValue
from networks.weights import check_finite, expected_shapes, load_exactly
from utils import snapshots
from utils.errors import UserError, reason

FREE_OPTIONS = frozenset(
    {"drop_rate", "drop_path_rate", "inner_drop_rate", "output_stride"}
)  # may change between a file and the network it starts


@dataclass(slots=True)
class LoadedNetwork:
    """A network (in training mode, on the CPU) and what its file says about it.

    iteration: of the file, None where it does not tell. evaluation: what the snapshot remembers about its
    scores; of a published file the protocol of the published numbers, {} where that depends on the
    target. source: "segadapt" or the name of the published layout.
    """

    network: SegmentationNetwork
    spec: NetworkSpec
    iteration: int | None
    evaluation: dict[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class _Content:
    file: Path
    spec: NetworkSpec
    state: Mapping[str, Tensor]
    iteration: int | None
    evaluation: dict[str, Any]
    source: str


def load_network(
    path: Path | str,
    *,
    weights: Which = "student",
    num_classes_expected: int | None = None,
    class_space: str | None = None,
    spec_overrides: Mapping[str, OptionValue] | None = None,
) -> LoadedNetwork:
    """The network of a snapshot, a run folder (its `last`) or a published checkpoint.

    Args:
        weights: which of the file's networks; published checkpoints other than DAFormer's and DIDA's hold a
            student only.
        num_classes_expected: what the caller's class space needs.
        class_space: meaning of a published file's outputs where their number alone does not tell.
        spec_overrides: options that replace the stored ones without touching the weights, such as drop_rate.

    Raises:
        UserError: no such file, damaged, an unknown layout, another class count, no teacher, a partial match,
            values that are not finite.
    """
    content = _read(Path(path), weights, class_space)
    found = content.spec.num_classes
    if num_classes_expected is not None and found != num_classes_expected:
        raise UserError(
            f"{content.file} has {found} classes ({content.spec.class_space}), but {num_classes_expected} "
            "are needed here"
        )
    network = build(replace(content.spec, options={**content.spec.options, **(spec_overrides or {})}))
    _fill(network, content)
    return LoadedNetwork(network, network.spec, content.iteration, content.evaluation, content.source)


def load_weights(network: SegmentationNetwork, path: Path | str, *, weights: Which = "student") -> str:
    """Fills a whole network from a file as `load_network` reads; says what was loaded.

    Drop rates and output stride are the network's own; everything else must be as the file was trained.

    Raises:
        UserError: as `load_network`, or the file holds another architecture, backbone, class space or option.
    """
    content = _read(Path(path), weights, None)
    there, here = complete(content.spec), network.spec
    for name in ("architecture", "backbone", "num_classes", "class_space"):
        if getattr(there, name) != getattr(here, name):
            where = _differing_shape(network, content.state) if name == "num_classes" else ""
            raise UserError(
                f"{content.file} holds a network with {name} {getattr(there, name)}, this run builds one "
                f"with {getattr(here, name)}{where}; give the options that it was trained with"
            )
    for name, value in there.options.items():
        if name not in FREE_OPTIONS and value != here.options[name]:
            raise UserError(
                f"{content.file} was trained with {name} {value}, this run builds {here.options[name]}; give "
                "the options that it was trained with"
            )
    _fill(network, content)
    at = "" if content.iteration is None else f", iteration {content.iteration}"
    return f"network: {weights} weights of {content.file} ({content.source}{at})"


def _read(path: Path, weights: Which, class_space: str | None) -> _Content:
    file = snapshots.resolve(path)
    content = snapshots.read(file)
    if snapshots.is_snapshot(content):
        return _read_snapshot(file, content, weights, class_space)
    return _read_published(file, content, weights, class_space)


def _read_snapshot(
    file: Path, content: Mapping[str, Any], weights: Which, class_space: str | None
) -> _Content:
    state = content.get("weights" if weights == "student" else "teacher")
    if not isinstance(state, Mapping):
        other = "; it was trained without one: use its student" if weights == "teacher" else ""
        raise UserError(f"{file} holds no {weights} weights{other}")
    try:
        spec = NetworkSpec.from_dict(content["network"])
        evaluation = dict(content.get("evaluation") or {})
        with torch.device("meta"):  # values of any kind may be in a file that is not ours
            build(spec)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{file} describes no network of this program ({reason(error)}); give another file"
        ) from error
    if class_space not in (None, spec.class_space):
        raise UserError(f"{file} was trained on class space {spec.class_space}, not on {class_space}")
    return _Content(file, spec, snapshots.clean_keys(state), content.get("iteration"), evaluation, "segadapt")


def _read_published(
    file: Path, content: Mapping[str, Any], weights: Which, class_space: str | None
) -> _Content:
    opts = file.with_name("opts.yaml")
    spec, state = identify(content, file, weights=weights, opts_path=opts, class_space=class_space)
    layout = layout_of(unwrapped(content))
    assert layout is not None, "identify() refuses unknown layouts"
    evaluation = {"protocol": layout.protocol} if layout.protocol else {}
    return _Content(file, spec, state, _published_iteration(file, content), evaluation, layout.name)


def _published_iteration(file: Path, content: Mapping[str, Any]) -> int | None:
    meta = content.get("meta")
    named = content.get("iteration", content.get("iter"))  # RIPU and DWACA; MADA
    stored = meta.get("iter") if isinstance(meta, Mapping) else named
    if isinstance(stored, int):
        return stored
    number = re.search(r"_(?:iter)?(\d+)$", file.stem)  # GTA5_25000.pth, model_iter040000.pth
    return int(number[1]) if number else None


def _differing_shape(network: SegmentationNetwork, state: Mapping[str, Tensor]) -> str:
    """The first entry of a file that this network has in another shape, in brackets; empty without one."""
    for name, shape in expected_shapes(network).items():
        if name in state and state[name].shape != shape:
            return f" ({name}: {tuple(state[name].shape)} instead of {shape})"
    return ""


def _fill(network: SegmentationNetwork, content: _Content) -> None:
    spec = network.spec
    what = (
        f"{content.file} does not fit {spec.architecture} on {spec.backbone} with {spec.num_classes} classes"
    )
    load_exactly(network, content.state, what)
    check_finite(network.state_dict(), content.file)
    for name, layer in frozen_layers(network).items():
        broken = int(layer.beyond().sum())
        if broken:
            raise UserError(
                f"{content.file}: running_var of {name} is 0 or no number in {broken} channels, and frozen "
                "normalisation divides by its root without an epsilon; use another checkpoint"
            )
