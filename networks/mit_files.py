"""Files with Mix Transformer weights: which size they hold, and the three ImageNet layouts in our names.

Layouts: NVlabs/SegFormer (raw names, ours but for the prefix), mmsegmentation (`layers.`) and Hugging Face
(`encoder.`). What one layout stacks and another holds apart is cut or joined; linear layers that are 1x1
convolutions there become matrices.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from networks.mit import MIT_VARIANTS

PREFIX = "backbone."  # of all our names
BEGINNINGS = (  # of the first entries of an ImageNet file
    *("patch_embed1.", "backbone.patch_embed1."),
    *("encoder.patch_embeddings.", "segformer.encoder.patch_embeddings."),
    *("layers.0.0.projection.", "backbone.layers.0.0.projection."),
)
_FILE_PREFIX = re.compile(r"^(?:backbone\.|segformer\.encoder\.|encoder\.)")
_CLASSIFIERS = ("head.", "classifier.")  # of ImageNet's classes
_MMSEG_BLOCK = {
    "attn.attn.out_proj": "attn.proj",
    "ffn.layers.0": "mlp.fc1",
    "ffn.layers.1": "mlp.dwconv.dwconv",
    "ffn.layers.4": "mlp.fc2",
}
_HUGGING_FACE_BLOCK = {
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "attention.self.query": "attn.q",
    "attention.self.key": "attn.key",  # joined with the next
    "attention.self.value": "attn.value",
    "attention.self.sr": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}


def backbone_in(entries: Mapping[str, Any]) -> str | None:
    """The Mix Transformer in MIT_VARIANTS whose widths and depths these entries (our names) have, if any."""
    widths = tuple(_rows(entries, f"{PREFIX}patch_embed{stage}.proj.weight") for stage in range(1, 5))
    depths = tuple(_block_count(entries, f"{PREFIX}block{stage}.") for stage in range(1, 5))
    fitting = (name for name, v in MIT_VARIANTS.items() if (v.widths, v.depths) == (widths, depths))
    return next(fitting, None)


def from_imagenet(state: Mapping[str, Any]) -> dict[str, Any]:
    """Backbone entries by our names of an ImageNet file in any of the three layouts, without its classifier.

    What has no counterpart keeps its name, so that a check of the names reports it.
    """
    plain = {
        _FILE_PREFIX.sub("", name): value
        for name, value in state.items()
        if not name.startswith(_CLASSIFIERS)
    }
    if any(name.startswith("layers.") for name in plain):
        plain = _from_mmseg(plain)
    elif any(name.startswith("patch_embeddings.") for name in plain):
        plain = _from_hugging_face(plain)
    return {PREFIX + name: value for name, value in plain.items()}


def _from_mmseg(state: Mapping[str, Any]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in state.items():
        ours = _mmseg_name(name)
        stacked = re.fullmatch(r"(.+\.attn\.)attn\.in_proj_(weight|bias)", ours)
        if stacked is not None and isinstance(value, Tensor) and value.ndim and len(value) % 3 == 0:
            block, kind = stacked.groups()
            sizes = [len(value) // 3, 2 * len(value) // 3]
            entries[f"{block}q.{kind}"], entries[f"{block}kv.{kind}"] = value.split(sizes)
        elif ours.endswith(("mlp.fc1.weight", "mlp.fc2.weight")) and isinstance(value, Tensor):
            entries[ours] = value[:, :, 0, 0] if value.shape[2:] == (1, 1) else value
        else:
            entries[ours] = value
    return entries


def _mmseg_name(name: str) -> str:
    """`layers.2.1.5.norm1.weight` -> `block3.5.norm1.weight`, and so on."""
    match = re.fullmatch(r"layers\.(\d)\.([012])\.(.+)", name)
    if match is None:
        return name
    stage, rest = int(match[1]) + 1, match[3]
    if match[2] == "0":
        return f"patch_embed{stage}.{rest.replace('projection.', 'proj.')}"
    if match[2] == "2":
        return f"norm{stage}.{rest}"
    return f"block{stage}.{_in_block(rest, _MMSEG_BLOCK)}"


def _from_hugging_face(state: Mapping[str, Any]) -> dict[str, Any]:
    entries = {_hugging_face_name(name): value for name, value in state.items()}
    for name in [name for name in entries if ".attn.key." in name]:
        key, value = entries[name], entries.get(name.replace(".key.", ".value."))
        if isinstance(key, Tensor) and isinstance(value, Tensor) and key.shape == value.shape:
            del entries[name], entries[name.replace(".key.", ".value.")]
            entries[name.replace(".key.", ".kv.")] = torch.cat([key, value])
    return entries


def _hugging_face_name(name: str) -> str:
    """`block.2.5.layer_norm_1.weight` -> `block3.5.norm1.weight`, and so on."""
    match = re.fullmatch(r"(patch_embeddings|block|layer_norm)\.(\d)\.(.+)", name)
    if match is None:
        return name
    stage, rest = int(match[2]) + 1, match[3]
    if match[1] == "patch_embeddings":
        return f"patch_embed{stage}.{rest.replace('layer_norm.', 'norm.')}"
    if match[1] == "layer_norm":
        return f"norm{stage}.{rest}"
    return f"block{stage}.{_in_block(rest, _HUGGING_FACE_BLOCK)}"


def _in_block(name: str, table: Mapping[str, str]) -> str:
    """`5.ffn.layers.0.weight` -> `5.mlp.fc1.weight`: what is between block number and entry is looked up."""
    path, dot, entry = name.rpartition(".")
    number, _, module = path.partition(".")
    return f"{number}.{table.get(module, module)}{dot}{entry}"


def _rows(entries: Mapping[str, Any], name: str) -> int | None:
    value = entries.get(name)
    return len(value) if isinstance(value, Tensor) and value.ndim else None


def _block_count(entries: Iterable[str], beginning: str) -> int:
    return len({name.removeprefix(beginning).split(".")[0] for name in entries if name.startswith(beginning)})
