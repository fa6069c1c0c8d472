"""SMA's difficulty: what a few random patches attend to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from curriculum import Batch, Curriculum, DifficultyEstimator, Noise, Pool, Ramp, SampledAttention
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch


class TestSampledAttention(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return SampledAttention()


class TestSampledAttentionOfManyPatches(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return SampledAttention(masked_per_query=1.0)


class Remembers(TinyTeacher):
    """Remembers which patches were drawn."""

    queries_NQ: Tensor

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        self.queries_NQ = queries_NQ
        return super().sampled_attention(images_NCHW, queries_NQ)


def drawn(batch: Batch, *, num_masked: int, step: int = 0, masked_per_query: float = 3.0) -> Tensor:
    teacher = Remembers()
    noise = Noise.for_batch(seed=0, step=step, batch_size=len(batch))
    SampledAttention(masked_per_query=masked_per_query)(batch, teacher, num_masked=num_masked, noise=noise)
    return teacher.queries_NQ


@pytest.mark.parametrize(
    ("num_masked", "masked_per_query", "expected"),
    [(12, 3.0, 4), (11, 3.0, 4), (10, 3.0, 3), (12, 1.0, 12), (1, 4.0, 1)],
)
def test_as_many_patches_are_drawn_as_published(num_masked: int, masked_per_query: float, expected: int) -> None:
    """round(ratio * L / masked_per_query), of which there is at least one, and no patch twice."""
    queries_NQ = drawn(tiny_batch(), num_masked=num_masked, masked_per_query=masked_per_query)
    assert queries_NQ.shape == (4, expected)
    assert all(len(set(row)) == expected and 0 <= min(row) <= max(row) < 16 for row in queries_NQ.tolist())


def test_scores_are_the_summed_rows_of_the_drawn_patches() -> None:
    """Against every row of the attention map, in plain loops."""
    batch, teacher = tiny_batch(grid=(2, 5)), Remembers()
    noise = Noise.for_batch(seed=0, step=3, batch_size=4)
    scores_NL = SampledAttention()(batch, teacher, num_masked=7, noise=noise)
    for image, features_LD in enumerate(teacher.features(batch.images).tolist()):
        expected = [0.0] * 10
        for query in teacher.queries_NQ[image].tolist():
            products = [sum(a * b for a, b in zip(features_LD[query], key, strict=True)) for key in features_LD]
            powers = [math.exp(product - max(products)) for product in products]
            expected = [score + power / sum(powers) for score, power in zip(expected, powers, strict=True)]
        assert scores_NL[image].tolist() == pytest.approx(expected, rel=1e-4)


def test_every_patch_is_drawn_equally_often_and_anew() -> None:
    """4 of 16 patches in 4000 images: 1000 each, with a standard deviation of 27."""
    batch = tiny_batch(num_images=4000, channels=1)
    first_NQ, second_NQ = (drawn(batch, num_masked=12, step=step) for step in range(2))
    for queries_NQ in (first_NQ, second_NQ):
        counts_L = queries_NQ.flatten().bincount(minlength=16)
        assert 870 < int(counts_L.min()) <= int(counts_L.max()) < 1130
    # Two independent draws share 4 * 4 / 16 = 1 patch on average.
    shared_N = (first_NQ.unsqueeze(2) == second_NQ.unsqueeze(1)).sum(dim=(1, 2)).float()
    assert float(shared_N.mean()) == pytest.approx(1.0, abs=0.05)


def test_at_the_end_the_most_attended_patches_are_masked() -> None:
    """The whole rule of SMA: the pool has shrunk to what is masked, and other patches are masked in every step."""
    curriculum = Curriculum(
        scheduler=Ramp(end=1.0, shape="cosine"), difficulty=SampledAttention(), sampler=Pool(), mask_ratio=0.5
    )
    batch, masks = tiny_batch(num_images=32), []
    for step in range(2):
        noise = Noise.for_batch(seed=0, step=step, batch_size=32)
        masks.append(curriculum.draw(batch, TinyTeacher(), 1.0, noise).to_bool())
        assert curriculum.scores is not None
        assert torch.equal(masks[-1], curriculum.scores >= curriculum.scores.sort(dim=1).values[:, 8:9])
    assert not torch.equal(*masks)


def test_a_patch_masks_at_most_itself() -> None:
    with pytest.raises(ValueError, match=r"SampledAttention.masked_per_query = 0.5 must be at least 1"):
        SampledAttention(masked_per_query=0.5)
