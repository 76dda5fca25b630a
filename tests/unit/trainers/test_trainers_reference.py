from __future__ import annotations

import pytest
import torch

from tests.toy_self_trainers import NETWORKS, drawn_batches, drawn_streams, make_trainer, small_network
from tests.toy_training import copied_state
from trainers.reference import BackboneReference
from utils.errors import UserError

IMAGES = drawn_batches()["source"].image


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_are_the_last_stage_in_evaluation_mode(kind: str) -> None:
    options = {"drop_path_rate": 0.5} if kind == "mit" else {}
    network = small_network(kind, **options).train()
    reference = BackboneReference(network).train()
    features = reference.features(IMAGES)
    assert not features.requires_grad
    assert torch.equal(features, network.eval().encode(IMAGES)[-1].detach())


def test_heads_are_not_kept() -> None:
    network = small_network()
    names = set(BackboneReference(network).network.state_dict())
    assert names == {name for name in network.state_dict() if network.is_backbone(name)}
    assert any(not network.is_backbone(name) for name in network.state_dict())


def test_it_is_no_part_of_the_training() -> None:
    reference = BackboneReference(small_network())
    assert list(reference.parameters()) == []
    assert set(reference.state_dict()) == {"digest"}


def test_training_changes_neither_weights_nor_statistics() -> None:
    network = small_network()
    trainer = make_trainer(network=network, reference=BackboneReference(network))
    before = {name: value.clone() for name, value in trainer.reference.network.state_dict().items()}
    start = copied_state(network)
    for iteration in range(2):
        trainer.run_iteration(iteration, [drawn_batches(first=2 * iteration)])
    assert not torch.equal(copied_state(network)["conv1.weight"], start["conv1.weight"])
    assert not torch.equal(copied_state(network)["bn1.running_mean"], start["bn1.running_mean"])
    for name, value in trainer.reference.network.state_dict().items():
        assert torch.equal(value, before[name]), name
        assert torch.equal(value, start[name]), name


@pytest.mark.parametrize("changed", ["conv1.weight", "bn1.running_var"])
def test_continued_run_needs_the_same_weights(changed: str) -> None:
    state = make_trainer(streams=drawn_streams()).state()
    make_trainer(streams=drawn_streams()).load_state(state)
    other = small_network()
    other.state_dict()[changed][0] += 1
    with pytest.raises(UserError, match="--backbone-weights holds other weights") as caught:
        make_trainer(reference=BackboneReference(other), streams=drawn_streams()).load_state(state)
    assert "\n" not in str(caught.value)


def test_heads_do_not_count_in_the_comparison() -> None:
    other = small_network()
    other.state_dict()["classifier.decoder.3.bias"].add_(1)
    BackboneReference(other).load_state_dict(BackboneReference(small_network()).state_dict())
