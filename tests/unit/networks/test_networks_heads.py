"""networks.heads"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from networks.heads import HeadOptions, PyramidHead, SqueezeExcitation, group_count


@pytest.mark.parametrize(
    ("channels", "groups"), [(256, 32), (512, 32), (48, 24), (20, 20), (37, 1), (64, 32)]
)
def test_group_count_divides_the_channels(channels: int, groups: int) -> None:
    assert group_count(channels) == groups


def test_head_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    head = PyramidHead(
        64, 19, HeadOptions(norm_style="gn", use_se=True, head_channels=32, bottleneck_channels=64)
    )
    fusion, classifier = head.bottleneck[1], head.head[1]
    assert classifier.bias is None
    assert classifier.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not fusion.bias.any()
    assert fusion.weight.std().item() == pytest.approx((2 / (160 * 9)) ** 0.5, rel=0.05)


def test_squeeze_excitation_scales_channels_by_their_gate() -> None:
    layer = SqueezeExcitation(32)
    nn.init.zeros_(layer.se[2].weight)
    nn.init.zeros_(layer.se[2].bias)
    x = torch.randn(2, 32, 3, 4)
    torch.testing.assert_close(layer(x), 0.5 * x)


def test_instance_norm_is_per_image_in_evaluation_too() -> None:
    head = PyramidHead(8, 3, HeadOptions(norm_style="in", head_channels=8, bottleneck_channels=8)).eval()
    x = torch.randn(2, 8, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(head(x).logits[:1], head(x[:1]).logits)


def test_dropout_removes_whole_channels_before_the_classifier_in_training_only() -> None:
    head = PyramidHead(
        8, 3, HeadOptions(norm_style="gn", head_channels=8, bottleneck_channels=8, drop_rate=0.5)
    )
    x = torch.randn(1, 8, 9, 9)
    assert not torch.equal(head(x).logits, head(x).logits)
    head.eval()
    assert torch.equal(head(x).logits, head(x).logits)
