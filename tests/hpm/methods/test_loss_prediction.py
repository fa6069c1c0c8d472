"""Losses against direct readings of their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hpm.methods.loss_prediction import (
    AbsoluteLoss,
    ContrastiveLoss,
    ListwiseLoss,
    PredictionLoss,
    RelativeLoss,
    ranking_accuracy,
)

LOSSES = [RelativeLoss(), AbsoluteLoss(), ListwiseLoss(), ContrastiveLoss()]


def draw(seed: int, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predicted, true = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    return predicted, (true * 2).round() if ties else true


def relative_by_pairs(predicted_NM: Tensor, true_NM: Tensor) -> float:
    """Binary cross-entropy over all ordered pairs with t_i != t_j, pair by pair."""
    terms = []
    for p_M, t_M in zip(predicted_NM.tolist(), true_NM.tolist(), strict=True):
        for i in range(len(p_M)):
            for j in range(len(p_M)):
                if t_M[i] != t_M[j]:
                    q = 1 / (1 + math.exp(p_M[j] - p_M[i]))
                    terms.append(-math.log(q) if t_M[i] > t_M[j] else -math.log(1 - q))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("ties", [False, True])
def test_relative_loss(ties: bool) -> None:
    predicted, true = draw(0, ties=ties)
    total, count = RelativeLoss()(predicted, true)
    assert (total / count).item() == pytest.approx(relative_by_pairs(predicted, true), rel=1e-12)


def test_relative_loss_of_equal_losses_counts_no_pair() -> None:
    total, count = RelativeLoss()(torch.randn(2, 4), torch.ones(2, 4))
    assert total == 0
    assert count == 0


def test_absolute_loss() -> None:
    predicted, true = draw(1)
    standardized = torch.stack([(t - t.mean()) / (t.var() + 1e-6).sqrt() for t in true])
    total, count = AbsoluteLoss()(predicted, true)
    torch.testing.assert_close(total / count, ((predicted - standardized) ** 2).mean())


def test_listwise_loss() -> None:
    """Drawing the true order one after the other, each among those that are left."""
    predicted, true = draw(5)
    terms = []
    for p_M, t_M in zip(predicted.tolist(), true.tolist(), strict=True):
        left = sorted(range(len(p_M)), key=t_M.__getitem__, reverse=True)
        while len(left) > 1:
            terms.append(math.log(sum(math.exp(p_M[j]) for j in left)) - p_M[left[0]])
            left.pop(0)
    total, count = ListwiseLoss()(predicted, true)
    assert (total / count).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_contrastive_loss() -> None:
    predicted, true = draw(6)
    terms = []
    for p_M, t_M in zip(predicted.tolist(), true.tolist(), strict=True):
        order = sorted(range(len(p_M)), key=t_M.__getitem__, reverse=True)
        for i in order[:2]:  # int(7 * 0.3)
            scores = [math.exp(p_M[j] / 0.5) for j in [i, *order[2:]]]
            terms.append(-math.log(scores[0] / sum(scores)))
    total, count = ContrastiveLoss(hard=0.3, temperature=0.5)(predicted, true)
    assert (total / count).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)
    for bad in ({"hard": 0.0}, {"hard": 1.0}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=r"ContrastiveLoss\."):
            ContrastiveLoss(**bad)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_split_batch_has_the_same_loss(loss: PredictionLoss) -> None:
    predicted, true = draw(2, ties=True)
    parts = [loss(p, t) for p, t in zip(predicted.split([1, 4]), true.split([1, 4]), strict=True)]
    total, count = loss(predicted, true)
    torch.testing.assert_close(sum(t for t, _ in parts) / sum(c for _, c in parts), total / count)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_true_loss_is_a_target(loss: PredictionLoss) -> None:
    predicted, true = (x.requires_grad_() for x in draw(3))
    loss(predicted, true)[0].backward()
    assert true.grad is None
    assert predicted.grad is not None


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_against_finite_differences(loss: PredictionLoss) -> None:
    predicted, true = draw(4)
    assert torch.autograd.gradcheck(lambda p: loss(p, true)[0], predicted.requires_grad_())


@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0, 1e4])
def test_relative_loss_is_a_softplus_of_each_pair(spread: float) -> None:
    """Value and gradient of the plain formula in float32: of equal predictions, and of those that exp overflows for."""
    predicted, true = (x.float() for x in draw(5, ties=True))
    mine, plain = ((predicted * spread).requires_grad_() for _ in range(2))
    RelativeLoss()(mine, true)[0].backward()
    pairs = torch.nn.functional.softplus(plain.unsqueeze(1) - plain.unsqueeze(2))
    expected = (pairs * (true.unsqueeze(2) > true.unsqueeze(1))).sum()
    expected.backward()
    torch.testing.assert_close(RelativeLoss()(mine, true)[0], expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(mine.grad, plain.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stable_in_low_precision(dtype: torch.dtype) -> None:
    """Scores far apart neither overflow nor vanish, and true losses that bf16 would tie stay apart."""
    predicted = torch.tensor([[300.0, -300.0, 0.0]]).to(dtype).requires_grad_()
    true = torch.tensor([[1.0, 1.0001, 2.0]])
    total, count = RelativeLoss()(predicted, true)
    assert count == 3
    # t: 1.0001 > 1 with p -300 < 300 costs 600; 2 > 1 with 0 < 300 costs 300; 2 > 1.0001 with 0 > -300 nothing.
    assert total.item() == pytest.approx(900)
    total.backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_ranking_accuracy() -> None:
    true = torch.tensor([[1.0, 2.0, 3.0]])
    assert ranking_accuracy(true, true) == 1
    assert ranking_accuracy(-true, true) == 0
    assert ranking_accuracy(torch.tensor([[1.0, 3.0, 2.0]]), true) == pytest.approx(2 / 3)
