"""Losses of loss prediction, in float32 or better whatever the autocast.

A loss over pairs or patches comes as (sum, count), and both add up over processes, so that how many there are changes
nothing. Accumulated micro-batches are averaged with equal weight.

Shape suffixes: N images, M masked patches (i and j two of them), P positives, Q negatives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from curriculum.validation import require_at_least
from hpm.runtime.precision import full_precision


class PredictionLoss(ABC):
    """How the loss predictor learns from the reconstruction's loss.

    Attributes:
        compares_images: whether predictions say which of two images is harder, and not only which of two patches of
            one image: most losses do not change where all predictions of an image do by the same number.
    """

    compares_images: bool = False

    @abstractmethod
    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        """(sum, count); `true_NM` is a target and passes no gradient."""


class RelativeLoss(PredictionLoss):
    """Which of two masked patches is harder? Binary cross-entropy over pairs (HPM, arXiv 2304.05919, eq. 5).

    Over all ordered pairs (i, j) of masked patches of an image with t_i != t_j: the cross-entropy of
    sigmoid(p_i - p_j) against [t_i > t_j]. Pairs (i, j) and (j, i) cost the same, so only those with t_i > t_j are
    summed, softplus(p_j - p_i) each, and counted.
    """

    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        predicted_NM, true_NM = full_precision(predicted_NM), full_precision(true_NM.detach())
        harder_NMM = true_NM.unsqueeze(2) > true_NM.unsqueeze(1)
        return _SoftplusOfPairs.apply(predicted_NM, harder_NMM), harder_NMM.sum()


class _SoftplusOfPairs(torch.autograd.Function):
    """The sum of softplus(p_j - p_i) over the pairs (i, j) that are chosen.

    Computed as max(d, 0) - log(sigmoid(|d|)) with d = p_j - p_i, which overflows nowhere and is right to a float's
    resolution of log 2. Its derivative sigmoid(d) is all that the backward pass keeps. On a CPU that takes 0.4 of the
    time of `F.softplus`, whose log1p is no vectorized kernel.
    """

    @staticmethod
    def forward(ctx: Any, predicted_NM: Tensor, chosen_NMM: Tensor) -> Tensor:
        difference_NMM = predicted_NM.unsqueeze(1) - predicted_NM.unsqueeze(2)
        difference_NMM.masked_fill_(~chosen_NMM, -torch.inf)  # whose softplus and derivative are 0
        ctx.save_for_backward(difference_NMM.sigmoid())
        return difference_NMM.relu().sum() - difference_NMM.abs_().sigmoid_().log_().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (slope_NMM,) = ctx.saved_tensors
        return (slope_NMM.sum(dim=1) - slope_NMM.sum(dim=2)) * gradients[0], None


class AbsoluteLoss(PredictionLoss):
    """Mean squared error to the loss itself, standardized in each image (HPM's ablation).

    Mean and unbiased variance over the image's masked patches, with 1e-6 added to the variance. One patch alone is 0.

    Args:
        standardized: as published, the default. False takes the loss as it is, so that predictions compare images too,
            as `SemiSupervised.difficulty = 'predicted_loss'` needs.
    """

    def __init__(self, *, standardized: bool = True) -> None:
        self.standardized = standardized
        self.compares_images = not standardized

    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        predicted_NM, true_NM = full_precision(predicted_NM), full_precision(true_NM.detach())
        if self.standardized:
            unbiased = min(1, true_NM.shape[1] - 1)
            variance_N1, mean_N1 = torch.var_mean(true_NM, dim=1, keepdim=True, correction=unbiased)
            true_NM = (true_NM - mean_N1) / (variance_N1 + 1e-6).sqrt()
        error_NM = predicted_NM - true_NM
        return error_NM.square().sum(), error_NM.new_full((), error_NM.numel(), dtype=torch.int64)


class ListwiseLoss(PredictionLoss):
    """Minus the log-likelihood of the true order, hardest first, under the Plackett-Luce model: ListMLE.

    Xia et al. 2008, "Listwise Approach to Learning to Rank". With the masked patches of an image in the order of their
    true losses, the sum over all but the last of log(sum of exp(p) over it and all easier ones) - p. One sort instead
    of M^2 pairs. Of patches with equal losses either order is as good as the other; one of them is taken.
    """

    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        predicted_NM, true_NM = full_precision(predicted_NM), full_precision(true_NM.detach())
        easiest_first_NM = predicted_NM.gather(1, true_NM.argsort(dim=1))
        loss_NM = (easiest_first_NM.logcumsumexp(dim=1) - easiest_first_NM)[:, 1:]
        return loss_NM.sum(), loss_NM.new_full((), loss_NM.numel(), dtype=torch.int64)


class ContrastiveLoss(PredictionLoss):
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748): each hard patch is told from all that are not.

    The `int(M * hard)` masked patches of an image with the highest true losses, at least one, are the positives, each
    against all others as negatives: log(exp(p_i / temperature) + sum of exp(p_j / temperature) over the negatives) -
    p_i / temperature, averaged over the positives.

    Args:
        hard: share of the masked patches that are positives.
        temperature: of the predictions; 1e-6 or more, so that logits stay in float32's range.
    """

    def __init__(self, *, hard: float = 0.25, temperature: float = 1.0) -> None:
        if not 0 < hard < 1:
            raise ValueError(f"ContrastiveLoss.hard = {hard} must lie strictly between 0 and 1")
        require_at_least("ContrastiveLoss", 1e-6, temperature=temperature)
        self.hard = float(hard)
        self.temperature = float(temperature)

    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        logits_NM = full_precision(predicted_NM) / self.temperature
        count = max(1, int(logits_NM.shape[1] * self.hard))
        order_NM = full_precision(true_NM.detach()).argsort(dim=1, descending=True)
        sorted_NM = logits_NM.gather(1, order_NM)
        positive_NP, negative_NQ = sorted_NM[:, :count], sorted_NM[:, count:]
        loss_NP = torch.logaddexp(positive_NP, negative_NQ.logsumexp(dim=1, keepdim=True)) - positive_NP
        return loss_NP.sum(), loss_NP.new_full((), loss_NP.numel(), dtype=torch.int64)


@torch.no_grad()
def ranking_accuracy(predicted_NM: Tensor, true_NM: Tensor) -> Tensor:
    """Share of the pairs of masked patches that the prediction orders as the true losses do; 0.5 is chance."""
    harder_NMM = true_NM.unsqueeze(2) > true_NM.unsqueeze(1)
    right_NMM = harder_NMM & (predicted_NM.unsqueeze(2) > predicted_NM.unsqueeze(1))
    return right_NMM.sum() / harder_NMM.sum().clamp(min=1)
