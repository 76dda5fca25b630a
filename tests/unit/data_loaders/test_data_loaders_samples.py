"""Samples and batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data_loaders.samples import Batch, Sample, collate, planar


def sample(value: int, *, labelled: bool = True) -> Sample:
    label = torch.full((4, 6), value, dtype=torch.uint8) if labelled else None
    return Sample(torch.full((3, 4, 6), value, dtype=torch.uint8), label, f"image {value}", (10 + value, 20))


@pytest.mark.parametrize("step", [1, -1])
def test_planar_moves_the_channels_to_the_front(step: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)[:, ::step]
    planes = planar(image)
    assert planes.is_contiguous()
    assert (planes.numpy() == image.transpose(2, 0, 1)).all()


def test_a_batch_keeps_the_order_of_its_samples() -> None:
    batch = collate([sample(2), sample(1)])
    assert batch.image.shape == (2, 3, 4, 6)
    assert batch.label is not None
    assert batch.label[:, 0, 0].tolist() == [2, 1]
    assert batch.names == ("image 2", "image 1")
    assert batch.sizes.tolist() == [[12, 20], [11, 20]]


def test_an_unlabelled_batch_has_no_label_on_any_device() -> None:
    batch = collate([sample(0, labelled=False)]).to("cpu", non_blocking=True)
    assert batch.label is None
    assert len(batch) == 1


def test_labelled_and_unlabelled_samples_do_not_mix() -> None:
    with pytest.raises(AssertionError, match="unlabelled"):
        collate([sample(0), sample(1, labelled=False)])


def test_a_batch_says_which_draws_and_which_part_of_each_image_it_shows() -> None:
    padded = replace(sample(1), content=(3, 5))
    batch = collate([sample(0), padded], draws=[8, 9]).to("cpu")
    assert batch.draws == (8, 9)
    assert batch.content is not None
    assert batch.content.dtype == torch.int64
    assert batch.content.tolist() == [[4, 6], [3, 5]]


def test_without_padding_there_is_no_content_and_draws_may_be_unknown() -> None:
    batch = collate([sample(0), sample(1)])
    assert (batch.draws, batch.content) == ((), None)
    plain = Batch(batch.image, batch.label, batch.names, batch.sizes)
    assert (plain.draws, plain.content) == ((), None)


def test_every_sample_has_its_draw() -> None:
    with pytest.raises(AssertionError, match="one draw number per sample"):
        collate([sample(0), sample(1)], draws=[8])
