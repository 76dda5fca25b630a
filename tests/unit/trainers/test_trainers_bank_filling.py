"""Filling an instance bank: order, limits per class, absent classes, stops and failures."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_loaders.samples import Sample, collate
from losses.instance_bank import CITYSCAPES_RARE_FIRST
from tests.toy_bank import SIZE, SPACE, Pooled, Striped
from trainers import bank_filling
from trainers.bank_filling import fill_bank, filling_order, sample_means
from utils import seeding
from utils.class_spaces import class_space
from utils.distributed import World
from utils.errors import UserError

WORLD = World(rank=0, size=1, local_rank=0, device=torch.device("cpu"))


def _fill(samples: Striped, size: int, **options: object) -> tuple[Tensor, Tensor] | None:
    chosen = {"order": (6, 5, 4, 3, 2, 1, 0), "seed": 3, "world": WORLD, "patience": 40, **options}
    return fill_bank(Pooled(), samples, size=size, **chosen)


def test_samples_add_their_classes_in_the_given_order() -> None:
    features, labels = _fill(Striped([1, 4, 6]), 10, order=(4, 6, 1))
    assert labels.tolist() == [4, 6, 1] * 3 + [4]
    assert features.shape == (10, 3)
    assert labels.dtype == torch.int64


def test_entries_are_the_means_of_single_samples_at_label_size() -> None:
    samples, network = Striped([2, 5]), Pooled().eval()
    features, labels = _fill(samples, 4, order=(5, 2))
    for draw in range(2):
        one = samples.sample(0, seeding.generator(3, bank_filling.STREAM, draw))
        with torch.no_grad():
            small = network(one.image[None]).features
        full = F.interpolate(small, size=SIZE, mode="bilinear", align_corners=False)[0]
        expected = torch.stack([full[:, one.label == index].mean(1) for index in (5, 2)])
        torch.testing.assert_close(features[2 * draw : 2 * draw + 2], expected, rtol=1e-5, atol=0)
    assert labels.tolist() == [5, 2, 5, 2]


def test_means_of_a_sample_know_nothing_of_its_neighbours() -> None:
    drawn = [Striped([0, 3]).sample(i, seeding.generator(0, "x", i)) for i in range(3)]
    network = Pooled().eval()
    means, present = sample_means(network, collate(drawn))
    assert present.tolist() == [[index in (0, 3) for index in range(SPACE.num_classes)]] * 3
    for number, one in enumerate(drawn):
        alone, _ = sample_means(network, collate([one]))
        torch.testing.assert_close(means[number], alone[0], rtol=1e-6, atol=0)


def test_no_class_has_more_than_its_share() -> None:
    _, labels = _fill(Striped(range(7), rare=3), 20)
    counts = torch.bincount(labels, minlength=7)
    assert counts.max() == 3  # ceil(20 / 7)
    assert counts[3] >= 2


def test_absent_classes_of_a_known_source_leave_their_share_to_the_others() -> None:
    order = filling_order(SPACE, [9, 0, 5, 0, 1, 0, 0])
    _, labels = _fill(Striped([0, 2, 4]), 10, order=order)
    assert sorted(torch.bincount(labels, minlength=7).tolist()) == [0, 0, 0, 0, 3, 3, 4]


def test_the_limit_becomes_the_share_of_the_classes_seen(caplog: pytest.LogCaptureFixture) -> None:
    _, labels = _fill(Striped([0, 2, 4]), 14)
    assert torch.bincount(labels, minlength=7).tolist() == [4, 0, 5, 0, 5, 0, 0]
    assert "40 samples added nothing at 2 entries a class; going on with 5 a class" in caplog.text


def test_the_limit_is_lifted_when_a_class_is_too_rare_for_its_share(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class OnceRare(Striped):
        """Class 6 is in the first draw only."""

        first = True

        def sample(self, index: int, generator: np.random.Generator) -> Sample:
            one = super().sample(index, generator)
            if not self.first:
                one.label[one.label == 6] = 0
            self.first = False
            return one

    _, labels = _fill(OnceRare([0, 6]), 12)
    assert torch.bincount(labels, minlength=7).tolist() == [11, 0, 0, 0, 0, 0, 1]
    assert "at 6 entries a class; going on with no limit" in caplog.text


def test_the_same_seed_gives_the_same_bank_and_another_one_does_not() -> None:
    first, again, other = (_fill(Striped([0, 1]), 8, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_loading_ahead_in_other_processes_changes_nothing() -> None:
    here, ahead = (_fill(Striped([0, 1]), 8, num_workers=workers) for workers in (0, 1))
    assert torch.equal(here[0], ahead[0])


def test_the_network_keeps_its_mode_and_its_statistics() -> None:
    network = Pooled().train()
    network.norm.eval()
    before = network.norm.running_mean.clone()
    fill_bank(network, Striped([0, 1]), size=4, order=(1, 0), seed=0, world=WORLD)
    assert network.training
    assert not network.norm.training
    assert torch.equal(network.norm.running_mean, before)


def test_a_stop_signal_leaves_without_a_bank() -> None:
    asked = iter([False, True])
    assert _fill(Striped([0]), 20, order=(0, 1), stop=lambda: next(asked)) is None


def test_the_log_says_what_the_bank_holds(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        _fill(Striped([0, 1]), 7, order=(1, 0))
    assert "from 4 samples: 7 entries, 3 to 4 a class; none of living things" in caplog.text
    assert "entries of the bank: drivable 3, non-drivable 4, living things 0" in caplog.text


def test_a_bank_smaller_than_its_classes_is_refused() -> None:
    with pytest.raises(UserError, match="6 entries has no room for 7 classes; use 7"):
        _fill(Striped([0]), 6)


def test_samples_without_labels_do_not_fill_for_ever() -> None:
    with pytest.raises(UserError, match="40 training samples hold no labelled pixel of the 7 classes"):
        _fill(Striped([255]), 10)


def test_features_that_are_not_finite_are_refused() -> None:
    network = Pooled()
    network.norm.running_mean.fill_(torch.nan)
    with pytest.raises(UserError, match="training sample 1 are not finite"):
        fill_bank(network, Striped([0, 1]), size=4, order=(1, 0), seed=0, world=WORLD)


def test_cityscapes_has_the_published_order_without_what_the_source_lacks() -> None:
    space, pixels = class_space("cityscapes19"), [5] * 19
    assert filling_order(space) == CITYSCAPES_RARE_FIRST
    pixels[9] = pixels[14] = pixels[16] = 0
    left = [index for index in CITYSCAPES_RARE_FIRST if index not in (9, 14, 16)]
    assert list(filling_order(space, pixels)) == left


def test_other_class_spaces_are_ordered_by_their_pixels() -> None:
    assert filling_order(SPACE, [9, 0, 5, 7, 1, 2, 3]) == (4, 5, 6, 2, 3, 0)
    assert filling_order(SPACE) == tuple(range(7))
