"""Squares of an image are blanked as a whole, from the image's own generator."""

from __future__ import annotations

import pytest
import torch

from data_loaders.patch_mask import patch_mask


def test_squares_stay_or_go_as_a_whole() -> None:
    mask = patch_mask((96, 160), block=32, ratio=0.5, seed=0, draws=[0, 1], device="cpu")
    assert (mask.shape, mask.dtype) == ((2, 1, 96, 160), torch.bool)
    cells = mask.view(2, 3, 32, 5, 32)
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))
    assert 0 < cells[:, :, 0, :, 0].sum() < cells[:, :, 0, :, 0].numel()


def test_squares_at_the_border_are_cut() -> None:
    mask = patch_mask((70, 45), block=32, ratio=0.5, seed=0, draws=range(20), device="cpu")
    assert mask.shape == (20, 1, 70, 45)
    corner = mask[:, 0, 64:, 32:]  # 6 x 13 pixels of the last square
    assert torch.equal(corner, corner[:, :1, :1].expand_as(corner))
    assert not torch.equal(corner[:, 0, 0], mask[:, 0, 63, 31])  # another square
    whole = patch_mask((96, 64), block=32, ratio=0.5, seed=0, draws=range(20), device="cpu")
    assert torch.equal(mask, whole[:, :, :70, :45])


def test_an_image_smaller_than_a_square_is_one_square() -> None:
    masks = patch_mask((5, 7), ratio=0.5, seed=0, draws=range(30), device="cpu")
    assert set(masks.float().mean(dim=(1, 2, 3)).tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 1.0), (0.7, 0.3), (1.0, 0.0)])
def test_the_ratio_is_what_is_blanked(ratio: float, share: float) -> None:
    masks = patch_mask((64, 64), block=2, ratio=ratio, seed=0, draws=range(4), device="cpu")
    assert masks.float().mean().item() == pytest.approx(share, abs=0.03 if 0 < ratio < 1 else 0)


def test_an_image_has_its_mask_in_any_batch() -> None:
    together = patch_mask((64, 64), block=8, seed=1, draws=[4, 5, 6, 7], device="cpu")
    apart = [patch_mask((64, 64), block=8, seed=1, draws=draws, device="cpu") for draws in ([4, 5], [6, 7])]
    assert torch.equal(together, torch.cat(apart))
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together, patch_mask((64, 64), block=8, seed=2, draws=[4, 5, 6, 7], device="cpu"))


def test_the_mask_is_made_on_its_device() -> None:
    mask = patch_mask((70, 45), seed=0, draws=[0, 1], device="meta")
    assert mask.is_meta
    assert mask.shape == (2, 1, 70, 45)
