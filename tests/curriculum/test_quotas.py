"""SemMAE's quotas of parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from draws import Conformance, masks, noise_of, same_distribution
from scipy import stats
from torch import Tensor

from curriculum import (
    Batch,
    Blockwise,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    Noise,
    Quotas,
    Random,
    Sampler,
    Weighted,
)


class TestQuotas(Conformance):
    def build(self) -> Sampler:
        return Quotas(parts=3)


def semmae_quotas(sizes: list[int], ratio: float, weight: float, turn: tuple[int, ...]) -> tuple[int, ...]:
    """SemMAE's rule: how many patches of each part are masked; `weight` is its lambda, `turn` the parts' order."""
    left, whole = ratio * sum(sizes), [0] * len(sizes)
    for part in turn:
        whole[part] = int(min(sizes[part], max(left, 0)))
        left -= sizes[part]
    return tuple(
        int(np.round(weight * np.round(ratio * size) + (1 - weight) * full))
        for size, full in zip(sizes, whole, strict=True)
    )


def semmae(parts: list[int], ratio: float, weight: float, rng: np.random.Generator) -> tuple[int, ...]:
    """The masked patches of one image, brought to the number that the ratio says."""
    kinds = max(parts) + 1
    quotas = semmae_quotas([parts.count(part) for part in range(kinds)], ratio, weight, tuple(rng.permutation(kinds)))
    masked: list[int] = []
    for part, quota in enumerate(quotas):
        masked += rng.choice(np.flatnonzero(np.array(parts) == part), quota, replace=False).tolist()
    wanted = len(parts) - int(len(parts) * (1 - ratio))
    if len(masked) > wanted:
        return tuple(rng.choice(masked, wanted, replace=False))
    others = [patch for patch in range(len(parts)) if patch not in masked]
    return (*masked, *rng.choice(others, wanted - len(masked), replace=False))


@pytest.mark.parametrize("sizes", [[8, 16, 40], [9, 23, 17, 15], [1, 2, 61], [6, 10, 14, 34], [64], [0, 30, 34]])
@pytest.mark.parametrize("alpha", [0.0, 0.2, 0.5, 0.77, 1.0])
def test_quotas_are_those_of_semmae(sizes: list[int], alpha: float) -> None:
    """Each row is what one order of the parts gives, and every order is as likely."""
    orders = list(itertools.permutations(range(len(sizes))))
    read = [semmae_quotas(sizes, 0.75, 1 - alpha, turn) for turn in orders]
    size_NG = torch.tensor(sizes).expand(3000, len(sizes))
    found = Quotas(parts=len(sizes)).quotas(size_NG, alpha=alpha, num_masked=48, noise=noise_of(3000))
    ours = [tuple(row) for row in found.tolist()]
    assert set(ours) == set(read)
    expected = [read.count(row) * 3000 / len(orders) for row in sorted(set(read))]
    if len(expected) > 1:
        assert stats.chisquare([ours.count(row) for row in sorted(set(read))], expected).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("parts", [[0, 1, 0, 0, 1, 2, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]])
def test_masks_are_those_of_semmae(parts: list[int], alpha: float) -> None:
    """Also where the rounded quotas add up to more or less than the mask holds."""
    rng = np.random.default_rng(3)
    read = [semmae(parts, 0.75, 1 - alpha, rng) for _ in range(8000)]
    scores = [float(part) for part in parts]
    mask_NL = masks(Quotas(parts=4), scores, alpha=alpha, num_masked=6, grid=(2, 4), count=8000)
    assert same_distribution(mask_NL, read) > 1e-3
    totals = {sum(semmae_quotas([2, 2, 2, 2], 0.75, 1 - alpha, turn)) for turn in itertools.permutations(range(4))}
    assert alpha in (0.6, 1.0) or totals != {6}


def test_quotas_begin_with_the_same_share_of_every_part() -> None:
    parts = torch.tensor([0.0] * 8 + [1.0] * 16 + [2.0] * 40).expand(300, 64)
    mask_NL = masks(Quotas(parts=3), parts, alpha=0.0, num_masked=48, grid=(8, 8), count=300)
    counts = torch.stack([mask_NL[:, :8].sum(1), mask_NL[:, 8:24].sum(1), mask_NL[:, 24:].sum(1)])
    assert bool((counts == torch.tensor([[6], [12], [30]])).all())


def test_quotas_end_with_whole_parts() -> None:
    parts = torch.arange(64).div(16, rounding_mode="floor").float().expand(300, 64)
    mask_NL = masks(Quotas(parts=4), parts, alpha=1.0, num_masked=32, grid=(8, 8), count=300)
    counts = mask_NL.view(300, 4, 16).sum(dim=2)
    assert set(counts.unique().tolist()) == {0, 16}
    assert stats.chisquare((counts == 16).double().sum(dim=0).numpy()).pvalue > 1e-3


class Halves(DifficultyEstimator):
    """Numbers the upper and the lower half of an image."""

    num_parts = 2

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        return (torch.arange(batch.num_patches) >= batch.num_patches // 2).float().expand(len(batch), -1)


def test_more_parts_than_quotas_are_refused() -> None:
    Quotas(parts=2).check_difficulty(Halves())
    Random().check_difficulty(Halves())
    with pytest.raises(ValueError, match=r"Quotas\.parts = 1 must be at least 2, the parts that Halves numbers"):
        Quotas(parts=1).check_difficulty(Halves())


@pytest.mark.parametrize("sampler", [HardestFirst(), Weighted(), Blockwise()], ids=lambda one: type(one).__name__)
def test_numbers_of_parts_are_no_difficulties_and_difficulties_no_numbers(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=f"{type(sampler).__name__} masks what is hard, and the scores of Halves are"):
        sampler.check_difficulty(Halves())
    with pytest.raises(ValueError, match="Quotas takes the numbers of parts, and the scores of EdgeDensity are diff"):
        Quotas().check_difficulty(EdgeDensity())


def test_within_a_part_every_patch_is_masked_as_often() -> None:
    parts = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]).expand(6000, 12)
    mask_NL = masks(Quotas(parts=2), parts, alpha=0.5, num_masked=6, grid=(3, 4), count=6000).double().sum(dim=0)
    for part in (0.0, 1.0):
        assert stats.chisquare(mask_NL[parts[0] == part].numpy()).pvalue > 1e-3
