"""Soft assignments of tokens to prototypes: how logits become distributions that do not collapse.

Shape suffixes: N images, L patches, K prototypes, G groups of patches that are balanced apart, R rows of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_precision


class Assignment(nn.Module, ABC):
    """Turns logits into assignments, and keeps from step to step what that takes.

    The assignments of a step are made of all its images, in every process. Those of any other images, which an
    evaluation asks for, are each image's own, by what the last step has left: they change nothing, and depend on no
    other image. All are float32 or better, and without a graph.
    """

    @abstractmethod
    def forward(self, logits_NLK: Tensor, temperature: float) -> Tensor:
        """[N, L, K]: the assignments of any images, each row a distribution."""

    @abstractmethod
    def learn(self, logits_NLK: Tensor, temperature: float, processes: DistributedContext) -> Tensor:
        """[N, L, K]: the assignments of a step's images. Every process calls this, with as many images."""


class Centering(Assignment):
    """A softmax of the logits less their center, a moving average over steps of their mean (DINO, iBOT).

    A step's assignments are made with the center of those before. Logits that are not finite, whose step is skipped,
    leave it as it is.

    Args:
        prototypes: K.
        momentum: how much of the center stays at each step.
    """

    center: Tensor

    def __init__(self, prototypes: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits_NLK: Tensor, temperature: float) -> Tensor:
        return ((full_precision(logits_NLK) - self.center) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def learn(self, logits_NLK: Tensor, temperature: float, processes: DistributedContext) -> Tensor:
        assigned_NLK = self(logits_NLK, temperature)
        mean_K = processes.sum(full_precision(logits_NLK).mean(dim=(0, 1))) / processes.world_size
        moved_K = self.center.lerp(mean_K.to(self.center.dtype), 1 - self.momentum)
        self.center.copy_(torch.where(mean_K.isfinite().all(), moved_K, self.center))
        return assigned_NLK


class Sinkhorn(Assignment):
    """Sinkhorn and Knopp's balancing: each prototype gets about as many tokens as any other, each token one in all.

    Exponentials of logits over temperature are divided by their sums over the tokens of a prototype, and then over the
    prototypes of a token, a few times. This is done in logarithms, which overflow at no temperature. The logarithms
    that the prototypes were last divided by are kept, by which any other image is assigned.

    Args:
        prototypes: K.
        groups: G, 1 to balance all tokens together, or L to balance those of each position apart (CAPI).
        iterations: how often.
    """

    potentials: Tensor

    def __init__(self, prototypes: int, *, groups: int, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.register_buffer("potentials", torch.zeros(groups, prototypes))

    @torch.no_grad()
    def forward(self, logits_NLK: Tensor, temperature: float) -> Tensor:
        return (full_precision(logits_NLK) / temperature - self.potentials).softmax(dim=-1)

    @torch.no_grad()
    def learn(self, logits_NLK: Tensor, temperature: float, processes: DistributedContext) -> Tensor:
        scores_RGK = (full_precision(logits_NLK) / temperature).reshape(-1, *self.potentials.shape)
        balanced_RGK, potentials_GK = scores_RGK, torch.zeros_like(scores_RGK[0])
        for _ in range(self.iterations):
            potentials_GK = potentials_GK + _log_sum_over_rows(balanced_RGK, processes)
            balanced_RGK = (scores_RGK - potentials_GK).log_softmax(dim=-1)
        self.potentials.copy_(potentials_GK)
        return balanced_RGK.exp().view_as(logits_NLK)


def _log_sum_over_rows(x_RGK: Tensor, processes: DistributedContext) -> Tensor:
    """[G, K]: the logarithm of the sum of exponentials over the rows of all processes."""
    most_GK = processes.max(x_RGK.amax(dim=0))
    return processes.sum((x_RGK - most_GK).exp().sum(dim=0)).log() + most_GK
