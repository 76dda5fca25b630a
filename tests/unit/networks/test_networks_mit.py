"""networks.mit"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from networks import NetworkSpec, build
from networks.mit import MIT_VARIANTS, DropPath, ReducedAttention
from networks.segmentation import SegmentationNetwork
from utils.errors import UserError


def network(backbone: str = "mit_b0", **options: float) -> SegmentationNetwork:
    return build(NetworkSpec("daformer", backbone, 3, "any3", {"head_channels": 8, **options}))


@pytest.mark.parametrize("size", [(29, 29), (33, 40), (64, 96), (65, 129)])
def test_maps_are_at_strides_4_to_32_rounded_up(size: tuple[int, int]) -> None:
    with torch.no_grad():
        stages = network().eval().encode(torch.zeros(1, 3, *size, dtype=torch.uint8))
    expected = []
    for width, stride in zip(MIT_VARIANTS["mit_b0"].widths, (4, 8, 16, 32), strict=True):
        expected.append((1, width, *(math.ceil(length / stride) for length in size)))
    assert [tuple(stage.shape) for stage in stages] == expected


def test_an_image_that_is_too_small_is_a_clear_error() -> None:
    with pytest.raises(UserError, match=r"an image of 64x28 pixels is too small .* at least 29x29"):
        network()(torch.zeros(1, 3, 28, 64, dtype=torch.uint8))


def test_attention_is_that_of_its_definition() -> None:
    torch.manual_seed(0)
    layer = ReducedAttention(12, heads=3, reduction=2).double()
    x = torch.randn(2, 5, 7, 12, dtype=torch.float64)  # the last row and column have no square
    squares = layer.norm(layer.sr(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2))
    assert squares.shape == (2, 6, 12)
    key, value = layer.kv(squares).chunk(2, dim=-1)
    query = layer.q(x.flatten(1, 2))
    heads = []
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        scores = query[..., part] @ key[..., part].transpose(1, 2) / 2  # root of 4 channels
        heads.append(scores.softmax(-1) @ value[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, -1)).view(2, 5, 7, 12))


def test_weights_start_as_in_segformer() -> None:
    torch.manual_seed(0)
    backbone = network().backbone
    block = backbone["block3"][0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert block.attn.sr.weight.std().item() == pytest.approx((2 / (4 * 160)) ** 0.5, rel=0.02)
    assert block.mlp.dwconv.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
            assert not layer.bias.any()


def test_epsilons_are_those_of_the_released_code() -> None:
    for name, layer in network().named_modules():
        if isinstance(layer, nn.LayerNorm):
            assert layer.eps == (1e-5 if "patch_embed" in name or "attn" in name else 1e-6), name


@pytest.mark.parametrize("backbone", ["mit_b0", "mit_b2"])
def test_drop_path_rises_linearly_over_all_blocks(backbone: str) -> None:
    with torch.device("meta"):
        layers = [m for m in network(backbone, drop_path_rate=0.3).modules() if isinstance(m, DropPath)]
    assert len(layers) == sum(MIT_VARIANTS[backbone].depths)
    assert [layer.rate for layer in layers] == pytest.approx(torch.linspace(0, 0.3, len(layers)).tolist())


def test_drop_path_removes_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25)
    x = torch.ones(4000, 2, 1, 3)
    dropped = layer(x)
    per_image = dropped.flatten(1)
    assert ((per_image == 0).all(1) | (per_image == 1 / 0.75).all(1)).all()
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    torch.manual_seed(0)
    assert torch.equal(DropPath(0.25)(x), dropped), "draws come from torch's global generator"
    assert layer.eval()(x) is x
    assert DropPath(0.0)(x) is x


def _loss(net: SegmentationNetwork, images: Tensor) -> Tensor:
    torch.manual_seed(1)  # drop path and dropout
    output = net(images)
    return output.logits.square().sum() + output.features.sum()


def test_activation_checkpointing_changes_nothing_and_recomputes_block_by_block() -> None:
    torch.manual_seed(0)
    plain = network(drop_path_rate=0.5, drop_rate=0.5).double()
    checkpointed = copy.deepcopy(plain)
    checkpointed.enable_activation_checkpointing()
    calls: list[int] = []
    checkpointed.backbone["block3"][1].register_forward_pre_hook(lambda *_: calls.append(1))
    images = torch.randint(0, 256, (4, 3, 33, 40), dtype=torch.uint8)
    for net in (plain, checkpointed):
        _loss(net, images).backward()
    assert len(calls) == 2
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in checkpointed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-12, atol=1e-14)
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in checkpointed.named_buffers())


def test_half_precision_stays_near_full_precision() -> None:
    torch.manual_seed(0)
    net = network().eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        full = net(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(images)
    assert half.logits.dtype == torch.bfloat16
    scale = full.features.abs().max().item()
    torch.testing.assert_close(half.features.float(), full.features, rtol=0, atol=0.05 * scale)


def test_a_stage_compiles_to_one_graph_with_the_same_gradients() -> None:
    torch.manual_seed(0)
    backbone = network(drop_path_rate=0.0).backbone
    parts = nn.Sequential(backbone["patch_embed2"], backbone["block2"][0], backbone["norm2"])
    compiled = copy.deepcopy(parts)
    x = torch.randn(2, 32, 17, 21)
    parts(x).square().sum().backward()
    torch.compile(compiled, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for ours, theirs in zip(compiled.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)
