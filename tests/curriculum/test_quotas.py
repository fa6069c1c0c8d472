"""SemMAE's quotas of parts."""

from __future__ import annotations

import pytest
import torch
from draws import Conformance, masks
from scipy import stats
from torch import Tensor

from curriculum import Batch, DifficultyEstimator, Noise, Quotas, Random, Sampler, Uniform


class TestQuotas(Conformance):
    def build(self) -> Sampler:
        return Quotas(parts=3)


def test_quotas_take_the_same_share_of_every_part() -> None:
    parts = torch.tensor([0.0] * 8 + [1.0] * 16 + [2.0] * 40).expand(300, 64)
    mask_NL = masks(Quotas(parts=3), parts, alpha=0.0, num_masked=48, grid=(8, 8), count=300)
    counts = torch.stack([mask_NL[:, :8].sum(1), mask_NL[:, 8:24].sum(1), mask_NL[:, 24:].sum(1)])
    assert bool(((counts - torch.tensor([[6], [12], [30]])).abs() <= 1).all())


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
    Quotas(parts=1).check_difficulty(Uniform())
    Random().check_difficulty(Halves())
    with pytest.raises(ValueError, match=r"Quotas\.parts = 1 must be at least Halves\.parts = 2"):
        Quotas(parts=1).check_difficulty(Halves())


def test_within_a_part_every_patch_is_masked_as_often() -> None:
    parts = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]).expand(6000, 12)
    mask_NL = masks(Quotas(parts=2), parts, alpha=0.5, num_masked=6, grid=(3, 4), count=6000).double().sum(dim=0)
    for part in (0.0, 1.0):
        assert stats.chisquare(mask_NL[parts[0] == part].numpy()).pvalue > 1e-3
