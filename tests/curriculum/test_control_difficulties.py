"""Controls: position alone, what is beyond position and edges, and the scores of other images."""

from __future__ import annotations

import pytest
import torch
from estimators import Given, crop, score, train, training_context
from torch import Tensor

from curriculum import (
    Batch,
    DifficultyEstimator,
    EdgeDensity,
    LossMemory,
    Mask,
    Noise,
    PositionLoss,
    Residual,
    Shuffled,
    Stream,
    TrueLoss,
    Uniform,
)
from curriculum.testing import DifficultyConformance, tiny_batch


class TestResidual(DifficultyConformance):
    tolerance = 1e-3

    def build(self) -> DifficultyEstimator:
        return Residual(estimator=TrueLoss())


class TestResidualOfMemory(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Residual(estimator=LossMemory())


class Hidden(DifficultyEstimator):
    """Twice the edges' rank, a preference for the lower rows, and a part of its own that neither knows."""

    def own(self, batch: Batch, noise: Noise) -> Tensor:
        return noise.fold(Stream.CUSTOM, 1).uniform(batch.num_patches)

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
        rank_NL = edges_NL.argsort(dim=1).argsort(dim=1) / (batch.num_patches - 1)
        return 2 * rank_NL + torch.arange(batch.num_patches) / batch.num_patches + self.own(batch, noise)


def prepared(estimator: DifficultyEstimator) -> Residual:
    residual = Residual(estimator=estimator, momentum=0.9)
    residual.prepare(training_context())
    return residual


def test_what_edges_say_is_taken_out() -> None:
    residual = prepared(EdgeDensity())
    assert float(score(residual, tiny_batch(num_images=6)).abs().max()) < 1e-5


def test_what_position_says_is_taken_out_after_a_few_steps() -> None:
    residual = prepared(Given([float(patch) for patch in range(16)]))
    batch = tiny_batch(num_images=64)
    first_NL = score(residual, batch)
    for step in range(3):
        train(residual, batch, step=step)
    later_NL = score(residual, batch, step=3)
    assert float(first_NL.mean(dim=0).abs().max()) > 0.2
    assert float(later_NL.mean(dim=0).abs().max()) < 1e-5


def test_what_is_its_own_is_left() -> None:
    hidden = Hidden()
    residual = prepared(hidden)
    batch = tiny_batch(num_images=128)
    for step in range(20):
        train(residual, batch, step=step)
    noise = Noise.for_batch(seed=3, step=20, batch_size=len(batch))
    own_NL = hidden.own(batch, noise)
    left_NL = score(residual, batch, step=20)
    given_NL = hidden(batch, None, num_masked=12, noise=noise)
    assert _correlation(left_NL, own_NL) > 0.7 > 0.5 > _correlation(given_NL, own_NL)


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_a_step_may_be_divided_into_micro_batches() -> None:
    """A second micro-batch is scored as the first, whatever that one taught, and both count as one batch does."""
    whole, halves = prepared(Hidden()), prepared(Hidden())
    batch = tiny_batch(num_images=8)
    for step in range(3):
        expected_NL = train(whole, batch, step=step)
        for _ in range(2):  # the same images twice, so that sums and counts are twice those of one batch
            assert torch.allclose(train(halves, batch, step=step), expected_NL, atol=1e-6)


def test_what_is_kept_survives_a_checkpoint() -> None:
    first, second = prepared(Hidden()), prepared(Hidden())
    batch = tiny_batch(num_images=8)
    for step in range(2):
        train(first, batch, step=step)
    assert first.module is not None
    assert second.module is not None
    second.module.load_state_dict(first.module.state_dict())
    assert torch.equal(score(first, batch, step=2), score(second, batch, step=2))
    for estimator in (first, second):
        train(estimator, batch, step=2)
    assert torch.equal(score(first, batch, step=3), score(second, batch, step=3))


def test_a_constant_difficulty_leaves_nothing() -> None:
    """But the order of ties, which is random: no position and no image is preferred."""
    residual = prepared(Uniform())
    scores_NL = score(residual, tiny_batch(num_images=64))
    assert abs(float(scores_NL.mean())) < 1e-5
    assert not bool(scores_NL.isnan().any())


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_that_cannot_be_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"Residual\.momentum"):
        Residual(estimator=Uniform(), momentum=momentum)
    with pytest.raises(ValueError, match=r"PositionLoss\.momentum"):
        PositionLoss(momentum=momentum)


class TestPositionLoss(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return PositionLoss()


def test_position_alone_is_the_mean_of_what_was_masked_there() -> None:
    """An independent reading: loops over steps, images and patches."""
    estimator = PositionLoss(momentum=0.5)
    estimator.prepare(training_context())
    batch, generator = tiny_batch(num_images=5), torch.Generator().manual_seed(0)
    sums, counts = [0.0] * 16, [0.0] * 16
    for step in range(4):
        expected = [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]
        assert score(estimator, batch, step=step)[2].tolist() == pytest.approx(expected, abs=1e-5)
        loss_NL = torch.rand(5, 16, generator=generator) * torch.arange(1, 17)
        mask = Mask.from_keys(torch.rand(5, 16, generator=generator), 6)
        train(estimator, batch, step=step, mask=mask, loss_NL=loss_NL)
        sums, counts = [0.5 * total for total in sums], [0.5 * count for count in counts]
        for row, patches in enumerate(mask.masked.tolist()):
            values = [float(loss_NL[row, patch]) for patch in patches]
            mean = sum(values) / 6
            deviation = (sum((value - mean) ** 2 for value in values) / 6) ** 0.5
            for patch, value in zip(patches, values, strict=True):
                sums[patch] += (value - mean) / deviation
                counts[patch] += 1.0


def test_shuffled_scores_are_those_of_the_next_image() -> None:
    batch = tiny_batch(num_images=4)
    own_NL, others_NL = score(EdgeDensity(), batch), score(Shuffled(estimator=EdgeDensity()), batch)
    assert torch.equal(others_NL, own_NL[[1, 2, 3, 0]])


def test_shuffled_memories_remember_the_right_image() -> None:
    shuffled, plain = Shuffled(estimator=LossMemory()), LossMemory()
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [0.0, 0.0, 40.0, 40.0])
    for estimator in (shuffled, plain):
        estimator.prepare(training_context())
        train(estimator, batch, loss_NL=torch.arange(48.0).view(3, 16).sin())
    scores_NL = score(plain, batch).nan_to_num(99.0)
    assert torch.equal(score(shuffled, batch).nan_to_num(99.0), scores_NL[[1, 2, 0]])
