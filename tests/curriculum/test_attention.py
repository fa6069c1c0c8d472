"""The teacher's attention as a difficulty, of AttMask and of AMT; AMT's masks, against a direct reading of its rule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from curricula import noise_for
from estimators import training_context
from scipy import stats
from torch import Tensor

from curriculum import Attention, Batch, Cached, Constant, Curriculum, DifficultyEstimator, Weighted
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch


class TestAttention(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Attention()


class TestNormalizedAttention(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Attention(normalize=True)


@dataclass
class Told:
    """A teacher whose attention was said before."""

    attention_NHL: Tensor

    def attention(self, images_NCHW: Tensor) -> Tensor:
        return self.attention_NHL[: len(images_NCHW)]


def maps(images: int, heads: int, patches: int, seed: int = 0) -> Tensor:
    """Attention of heads that differ in how many patches they attend to, without the class token's share."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.linspace(0.2, 4, heads).view(1, heads, 1)
    return 0.9 * (torch.randn(images, heads, patches, generator=generator) * sharpness).softmax(dim=-1)


def amt_map(attention_HL: np.ndarray) -> np.ndarray:
    """AMT's weights of one image: every head from 0 to 1, then the mean."""
    scaled = [(head - head.min()) / (head - head.min()).max() for head in attention_HL]
    return sum(scaled) / len(scaled)


def test_attention_is_the_mean_over_heads() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    scores_NL = Attention()(batch, teacher, num_masked=12, noise=noise_for(batch))
    assert teacher.calls == list(Attention.needs) == ["attention"]
    attention_NHL = TinyTeacher().attention(batch.images).numpy()
    np.testing.assert_allclose(scores_NL.numpy(), attention_NHL.mean(axis=1), rtol=1e-6)


def test_normalized_attention_is_that_of_amt() -> None:
    batch, attention_NHL = Batch(torch.zeros(20, 1, 14, 14), 1), maps(20, 12, 196)
    scores_NL = Attention(normalize=True)(batch, Told(attention_NHL), num_masked=88, noise=noise_for(batch))
    read = np.stack([amt_map(attention_HL) for attention_HL in attention_NHL.double().numpy()])
    np.testing.assert_allclose(scores_NL.numpy(), read, rtol=1e-4, atol=1e-6)
    raw_NL = Attention()(batch, Told(attention_NHL), num_masked=88, noise=noise_for(batch))
    order = [scores.argsort(dim=1) for scores in (scores_NL, raw_NL)]
    assert not torch.equal(*order), "sharp heads decide without the normalization"


def test_a_head_that_attends_to_all_patches_alike_says_nothing() -> None:
    batch, attention_NHL = Batch(torch.zeros(3, 1, 4, 4), 1), maps(3, 2, 16)
    attention_NHL[:, 0] = 1 / 16
    scores_NL = Attention(normalize=True)(batch, Told(attention_NHL), num_masked=8, noise=noise_for(batch))
    assert scores_NL.amin(dim=1).tolist() == [0.0] * 3
    assert scores_NL.amax(dim=1).tolist() == [0.5] * 3


def amt(estimator: DifficultyEstimator | None = None) -> Curriculum:
    return Curriculum(
        scheduler=Constant(value=1.0),
        difficulty=estimator or Attention(normalize=True),
        sampler=Weighted(weights="proportional"),
        mask_ratio=0.45,
        rounding="masked",
        throw_ratio=0.4,
    )


def test_amt_masks_throws_and_sees_as_many_as_published() -> None:
    batch = Batch(torch.zeros(2, 1, 14, 14), 1)
    mask = amt().draw(batch, Told(maps(2, 12, 196)), 0.5, noise_for(batch))
    assert mask.thrown is not None
    assert (mask.num_masked, mask.thrown.shape[1], mask.num_visible) == (88, 78, 30)


def test_amt_draws_masked_then_thrown_patches_by_weight() -> None:
    """One after the other, without replacement, by the weights of the maps: int(2.7) masked, int(2.4) thrown of 6."""
    attention_NHL = maps(1, 3, 6, seed=3)
    weights, rng = amt_map(attention_NHL[0].double().numpy()), np.random.default_rng(0)
    assert weights.min() > 0.01, "numpy refuses a weight of 0"
    read = []
    for _ in range(20_000):
        order = rng.choice(6, 6, replace=False, p=weights / weights.sum())
        read.append((frozenset(order[:2].tolist()), frozenset(order[2:4].tolist())))
    batch = Batch(torch.zeros(20_000, 1, 2, 3), 1)
    mask = amt().draw(batch, Told(attention_NHL.expand(20_000, -1, -1)), 0.5, noise_for(batch))
    assert mask.thrown is not None
    ours = [(frozenset(m), frozenset(t)) for m, t in zip(mask.masked.tolist(), mask.thrown.tolist(), strict=True)]
    kinds = [kind for kind in set(read) | set(ours) if read.count(kind) + ours.count(kind) >= 20]
    assert len(kinds) > 20
    assert stats.chi2_contingency([[found.count(kind) for kind in kinds] for found in (ours, read)]).pvalue > 1e-3


@pytest.mark.parametrize("epoch", [0, 40, 41, 42, 80, 81, 82, 121, 161])
def test_amt_uses_maps_from_its_forty_second_epoch_on(epoch: int) -> None:
    """AMT makes maps at the end of epoch 40, 80, ..., counted from 0, and masks by them from the next one on."""
    estimator = Cached(estimator=Attention(normalize=True), every=40, start=41)
    estimator.prepare(training_context(steps_per_epoch=5))
    for step in (5 * epoch, 5 * epoch + 4):
        assert estimator.asks(step, 5) == (epoch in (41, 81, 121, 161))
    if epoch <= 40:
        batch = tiny_batch()
        mask = amt(estimator).draw(batch, TinyTeacher(), 0.5, noise_for(batch, step=5 * epoch))
        scores_NL = estimator(batch, None, num_masked=7, noise=noise_for(batch, step=5 * epoch))
        assert bool(scores_NL.isnan().all()), "nothing is scored before"
        assert mask.num_masked == 7
