"""Difficulty estimators that read the teacher's features and losses, or the pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from estimators import score
from scipy import stats
from torch import Tensor

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    Disagreement,
    FeatureNorm,
    LossSpread,
    Mask,
    Noise,
    Parts,
    PixelEntropy,
    PixelVariance,
    Quotas,
    Stream,
)
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch


class TestPixelVariance(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PixelVariance()


class TestPixelEntropy(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PixelEntropy()


class TestFeatureNorm(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return FeatureNorm()


class TestDisagreement(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Disagreement()


class TestParts(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Parts(parts=3)


class TestLossSpread(DifficultyConformance):
    tolerance = 1e-2  # a small difference of large numbers

    def build(self) -> DifficultyEstimator:
        return LossSpread()


def patches(batch: Batch) -> np.ndarray:
    """[N, L, K], luminance."""
    gray = batch.images.mean(dim=1).numpy()
    rows, columns = batch.grid
    return (
        gray.reshape(len(batch), rows, 4, columns, 4).transpose(0, 1, 3, 2, 4).reshape(len(batch), rows * columns, 16)
    )


def test_variance_and_entropy_of_pixels() -> None:
    batch = tiny_batch()
    values = patches(batch)
    assert np.allclose(score(PixelVariance(), batch).numpy(), values.var(axis=2), rtol=1e-4)
    entropies = score(PixelEntropy(bins=8), batch).numpy()
    for image, found in zip(values, entropies, strict=True):
        edges = np.linspace(image.min(), image.max(), 9)
        expected = [stats.entropy(np.histogram(patch, edges)[0], base=2) for patch in image]
        assert np.allclose(found, expected, atol=0.2)  # a pixel may lie on the border of a bin
    flat = Batch(torch.zeros(2, 3, 16, 16), 4)
    assert float(score(PixelEntropy(), flat).abs().max()) == 0


def test_the_spread_of_losses_is_their_standard_deviation() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    noise = Noise.for_batch(seed=3, step=0, batch_size=4)
    found = LossSpread(probes=6)(batch, teacher, num_masked=12, noise=noise)
    losses = torch.full((6, 4, 16), math.nan)
    for probe in range(6):
        mask = Mask.from_keys(noise.fold(Stream.LOSS_SPREAD_PROBE, probe).bits(16), 12)
        losses[probe].scatter_(1, mask.masked, teacher.reconstruction_loss(batch.images, mask))
    expected = np.nanstd(losses.double().numpy(), axis=0, ddof=1)
    assert np.allclose(found.numpy(), expected, rtol=1e-3, atol=1e-5, equal_nan=True)


def test_disagreement_is_zero_with_oneself() -> None:
    class Same(TinyTeacher):
        def student_features(self, images_NCHW: Tensor) -> Tensor:
            return 3 * self.features(images_NCHW)

    batch = tiny_batch()
    noise = Noise.for_batch(seed=3, step=0, batch_size=4)
    assert float(Disagreement()(batch, Same(), num_masked=12, noise=noise).abs().max()) < 1e-5
    assert float(score(Disagreement(), batch).min()) > 0


def test_parts_are_the_clusters_of_features() -> None:
    """Patches of three kinds; every part is of one kind."""

    class Three(TinyTeacher):
        def features(self, images_NCHW: Tensor) -> Tensor:
            kind = torch.arange(16) % 3
            jitter = Noise.for_batch(seed=1, step=0, batch_size=len(images_NCHW)).uniform(16 * 3).view(-1, 16, 3)
            return torch.eye(3)[kind] + 0.2 * jitter

    batch = tiny_batch()
    noise = Noise.for_batch(seed=3, step=0, batch_size=4)
    found = Parts(parts=3)(batch, Three(), num_masked=12, noise=noise).long()
    for row in found.tolist():
        assert [len({row[patch] for patch in range(kind, 16, 3)}) for kind in range(3)] == [1, 1, 1]
        assert set(row) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"Parts\.parts = 20 is more than the 16 patches"):
        Curriculum(scheduler=Constant(), difficulty=Parts(parts=20), sampler=Quotas()).check(TinyTeacher(), 16)
