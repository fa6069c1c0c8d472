"""What several tests of samplers share: many masks at once, and how they are held against a rule read out."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from curriculum.noise import Noise
from curriculum.samplers import (
    Sampler,
)
from curriculum.testing import SamplerConformance

NAN = math.nan
GRID = (14, 14)


class Conformance(SamplerConformance):
    """On fewer cases: there are many policies."""

    grids = ((4, 4), (3, 7), (14, 14))
    mask_ratios = (0.5, 0.9)
    alphas = (0.0, 0.5, 1.0)


def noise_of(count: int, seed: int = 12) -> Noise:
    return Noise.for_batch(seed=seed, step=34, batch_size=count)


def masks(
    sampler: Sampler,
    scores: list[float] | Tensor | None,
    *,
    alpha: float,
    num_masked: int,
    grid: tuple[int, int],
    count: int = 20_000,
) -> Tensor:
    """Boolean [N, L]."""
    if isinstance(scores, list):
        scores = torch.tensor(scores).expand(count, len(scores))
    return sampler(scores, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise_of(count)).to_bool()


def same_distribution(ours_NL: Tensor, read: list[tuple[int, ...]]) -> float:
    """p-value of the chi-square test that masks and those of a direct reading come from one distribution."""
    codes = (ours_NL.long() << torch.arange(ours_NL.shape[1])).sum(dim=1).tolist()
    others = [sum(1 << patch for patch in mask) for mask in read]
    seen = sorted({*codes, *others})
    table = [[sample.count(code) for code in seen] for sample in (codes, others)]
    common = [column for column in zip(*table, strict=True) if sum(column) >= 20]
    rare = [sum(column) for column in zip(*[c for c in zip(*table, strict=True) if sum(c) < 20], strict=True)]
    columns = [*common, *([tuple(rare)] if rare and sum(rare) else [])]
    return float(stats.chi2_contingency(list(zip(*columns, strict=True))).pvalue)
