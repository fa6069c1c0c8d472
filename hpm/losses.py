"""Losses of loss prediction, in float32 or better whatever the autocast.

A loss over pairs or patches comes as (sum, count): both add up over processes and accumulated micro-batches, so
that how a batch is split changes nothing.

Shape suffixes: N images, M masked patches (i and j two of them).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor


def full_precision(x: Tensor) -> Tensor:
    """Float32 or better: bf16 ties losses that differ, and its sums lose what they add."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class PredictionLoss(ABC):
    """How the loss predictor learns from the reconstruction's loss."""

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
        pair_NMM = F.softplus(predicted_NM.unsqueeze(1) - predicted_NM.unsqueeze(2))
        return (pair_NMM * harder_NMM).sum(), harder_NMM.sum()


class AbsoluteLoss(PredictionLoss):
    """Mean squared error to the loss itself, standardized in each image (HPM's ablation).

    Mean and unbiased variance over the image's masked patches, with 1e-6 added to the variance.
    """

    def __call__(self, predicted_NM: Tensor, true_NM: Tensor) -> tuple[Tensor, Tensor]:
        predicted_NM, true_NM = full_precision(predicted_NM), full_precision(true_NM.detach())
        variance_N1, mean_N1 = torch.var_mean(true_NM, dim=1, keepdim=True)
        error_NM = predicted_NM - (true_NM - mean_N1) / (variance_N1 + 1e-6).sqrt()
        return error_NM.square().sum(), error_NM.new_full((), error_NM.numel(), dtype=torch.int64)


@torch.no_grad()
def ranking_accuracy(predicted_NM: Tensor, true_NM: Tensor) -> Tensor:
    """Share of the pairs of masked patches that the prediction orders as the true losses do; 0.5 is chance."""
    harder_NMM = true_NM.unsqueeze(2) > true_NM.unsqueeze(1)
    right_NMM = harder_NMM & (predicted_NM.unsqueeze(2) > predicted_NM.unsqueeze(1))
    return right_NMM.sum() / harder_NMM.sum().clamp(min=1)
