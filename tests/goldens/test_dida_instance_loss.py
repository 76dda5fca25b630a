"""The pieces, values and gradients of DIDA's instance loss (instance_loss.npz)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_files import load_npz
from matching_cases import matching_cases
from torch import Tensor

from losses.instance import (
    aggregated_similarity,
    class_sums,
    instance_loss,
    similarities,
    target_factors,
)

ARCHIVE = "instance_loss.npz"
WEIGHT = 0.5  # of the loss in the method; the golden's loss carries it
SMOOTHED = "smoothed_prob_a"  # then a, then the case's number
CASES = matching_cases("dida", ARCHIVE, r"kind_(.+)")


class Case:
    """Arrays of one numbered case as tensors, float64 on request, and its tolerances."""

    def __init__(self, number: str, dtype: torch.dtype = torch.float32) -> None:
        self.archive, self.number, self.dtype = load_npz("dida", ARCHIVE), number, dtype
        self.benign = str(self.archive[f"kind_{number}"]) == "benign"
        self.size = tuple(self["target"].shape[2:])

    def __getitem__(self, name: str) -> Tensor:
        values = torch.from_numpy(self.archive[f"{name}_{self.number}"])
        return values.to(self.dtype) if values.is_floating_point() else values

    def loss(self, *, calibrated: bool = True) -> tuple[Tensor, Tensor]:
        """Ours with the weight, and its gradient."""
        student = self["emb_strong"].clone().requires_grad_()
        loss = WEIGHT * instance_loss(
            student,
            self["emb_weak"],
            self["bank"],
            self["bank_labels"],
            size=self.size,
            class_logits=self["student_logits_mixed"] if calibrated else None,
        )
        loss.backward()
        return loss.detach(), student.grad

    def check(self, ours: Tensor, name: str, *, of_largest: bool = False) -> None:
        """Benign: 1e-5 relative, if asked to the largest value; raw: 1e-4 of the largest value."""
        expected = self[name]
        assert expected.isfinite().all()
        tolerance = 1e-5 if self.benign else 1e-4
        largest = expected.abs().max().item() if of_largest or not self.benign else 0
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("number", CASES)
def test_losses_equal_the_reference(number: str, dtype: torch.dtype) -> None:
    case = Case(number, dtype)
    case.check(case.loss()[0], "loss")
    case.check(case.loss(calibrated=False)[0], "loss_uncalibrated")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("number", CASES)
def test_gradients_equal_the_reference(number: str, dtype: torch.dtype) -> None:
    """Relative to the largest: the reference, in float32 itself, is up to 1e-6 of that from float64."""
    case = Case(number, dtype)
    case.check(case.loss()[1], "grad_emb_strong", of_largest=True)


@pytest.mark.parametrize("number", CASES)
def test_the_fused_target_equals_the_reference(number: str) -> None:
    case = Case(number)
    labels = case["bank_labels"]
    similarity = similarities(case["emb_weak"].flatten(2), case["bank"]).mT  # (N, K, P)
    case.check(similarity.unflatten(2, case.size), "sim_weak")
    scores = case["student_logits_mixed"].flatten(2)
    sums = class_sums(case["bank"], labels, scores.shape[1])
    factors = target_factors(similarities(case["emb_weak"].flatten(2), sums).mT, scores)
    case.check((similarity * factors[:, labels]).unflatten(2, case.size), "target")


@pytest.mark.parametrize("side", ["sim_strong", "sim_weak_uncalibrated"])
@pytest.mark.parametrize("number", CASES)
def test_shares_equal_the_reference(number: str, side: str) -> None:
    case = Case(number)
    features = case["emb_strong" if side == "sim_strong" else "emb_weak"].flatten(2)
    similarity = similarities(features, case["bank"]).mT
    total = similarities(features, case["bank"].sum(0, keepdim=True)).mT
    factor = target_factors(total, torch.ones_like(total))
    case.check((similarity * factor).unflatten(2, case.size), side)


@pytest.mark.parametrize("number", CASES)
def test_aggregated_and_smoothed_probabilities_equal_the_reference(number: str) -> None:
    case = Case(number)
    probability = case["teacher_logits"].softmax(1)
    bonus = aggregated_similarity(
        case["emb_weak"],
        case["bank"],
        case["bank_labels"],
        num_classes=probability.shape[1],
        size=case.size,
    )
    case.check(probability + bonus, "aggregated")
    names = [name.removesuffix(f"_{number}") for name in case.archive if name.endswith(f"_{number}")]
    smoothed = [name for name in names if name.startswith(SMOOTHED)]
    assert smoothed
    for name in smoothed:
        case.check(probability + (1 - float(name.removeprefix(SMOOTHED))) * bonus, name)


def test_a_zero_embedding_is_nan_in_the_reference_and_costs_nothing_here() -> None:
    archive = load_npz("dida", ARCHIVE)
    share = archive["zero_embedding_sim"]  # (N, K, H, W); the pixels that are not NaN have equal shares
    assert np.isnan(archive["zero_embedding_loss"])
    void = torch.from_numpy(np.isnan(share).any(1))
    entries = share.shape[1]
    np.testing.assert_allclose(share.max(1)[~void.numpy()], 1 / entries, rtol=1e-6)
    student = torch.ones(len(share), 4, *share.shape[2:]).masked_fill(void[:, None], 0).requires_grad_()
    loss = instance_loss(
        student,
        torch.ones_like(student),
        torch.ones(entries, 4),
        torch.arange(entries),
        size=tuple(share.shape[2:]),
        class_logits=None,
    )
    loss.backward()
    expected = (~void).double().mean() * np.log(entries)  # of -sum t log s with t = s = 1 / K
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-6)
    assert student.grad.isfinite().all()
    assert not student.grad.movedim(1, -1)[void].any()
