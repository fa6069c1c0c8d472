"""Controls: position alone, what is beyond position and edges, and the scores of other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
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
    Mixture,
    Noise,
    ObjectShare,
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

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
        rank_NL = edges_NL.argsort(dim=1).argsort(dim=1) / (batch.num_patches - 1)
        return (
            2 * rank_NL
            + torch.arange(batch.num_patches) / batch.num_patches
            + Random()(batch, None, num_masked=num_masked, noise=noise)
        )


class Random(DifficultyEstimator):
    """Noise."""

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        return noise.fold(Stream.CUSTOM, 1).uniform(batch.num_patches)


def prepared(estimator: DifficultyEstimator) -> Residual:
    residual = Residual(estimator=estimator, momentum=0.9)
    residual.prepare(training_context())
    return residual


def test_what_edges_say_is_taken_out() -> None:
    residual = prepared(Mixture(estimators=[EdgeDensity()]))
    assert float(score(residual, tiny_batch(num_images=6)).abs().max()) < 1e-5


def learned(residual: Residual, batch: Batch, *, steps: int) -> None:
    """Losses that rise from position to position, but for noise."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        loss_NL = torch.arange(16) / 4 + torch.rand(len(batch), 16, generator=generator)
        train(residual, batch, step=step, loss_NL=loss_NL)


def test_position_and_edges_are_taken_out_by_least_squares_in_every_image() -> None:
    """Against numpy, on ranks that are computed here."""
    hidden = Hidden()
    residual = prepared(hidden)
    batch = tiny_batch(num_images=32)
    learned(residual, batch, steps=5)
    noise = Noise.for_batch(seed=3, step=5, batch_size=len(batch))
    given_NL = hidden(batch, None, num_masked=12, noise=noise)
    edges_NL = EdgeDensity()(batch, None, num_masked=12, noise=noise)
    assert residual.module is not None
    position = PositionLoss(momentum=0.9)
    position.module = residual.module.get_submodule("positions")
    position_L = score(position, batch, step=5)[0].double().numpy()
    left_NL = score(residual, batch, step=5)
    for given, edges, left in zip(given_NL, edges_NL, left_NL.double().numpy(), strict=True):
        ranks, edge_ranks = (x.argsort().argsort().double().numpy() / 15 for x in (given, edges))
        free = np.stack([np.ones(16), position_L, edge_ranks], axis=1)
        expected = ranks - free @ np.linalg.lstsq(free, ranks, rcond=None)[0]
        assert left == pytest.approx(expected, abs=1e-5)
        assert abs(np.corrcoef(left, edge_ranks)[0, 1]) < 1e-3
        assert abs(np.corrcoef(left, position_L)[0, 1]) < 1e-3


def test_what_position_says_is_taken_out_once_losses_were_measured() -> None:
    residual = prepared(Given([float(patch) for patch in range(16)]))
    batch = tiny_batch(num_images=64)
    first_NL = score(residual, batch)
    learned(residual, batch, steps=5)
    later_NL = score(residual, batch, step=5)
    assert float(first_NL.abs().mean()) > 0.2
    assert float(later_NL.abs().mean()) < 0.03


def test_what_is_its_own_is_left() -> None:
    """A score that has nothing to do with either is all but left as it was."""
    residual = prepared(Random())
    batch = tiny_batch(num_images=128)
    learned(residual, batch, steps=5)
    noise = Noise.for_batch(seed=3, step=5, batch_size=len(batch))
    assert _correlation(score(residual, batch, step=5), Random()(batch, None, num_masked=12, noise=noise)) > 0.85


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


def test_a_step_may_be_divided_into_micro_batches() -> None:
    """A second micro-batch is scored as the first, whatever that one taught, and both count as one batch does."""
    whole, halves = prepared(Hidden()), prepared(Hidden())
    batch = tiny_batch(num_images=8)
    for step in range(3):
        loss_NL = torch.arange(16).expand(8, -1) + step * torch.eye(16)[:8]
        expected_NL = train(whole, batch, step=step, loss_NL=loss_NL)
        for _ in range(2):  # the same images twice, so that sums and counts are twice those of one batch
            assert torch.allclose(train(halves, batch, step=step, loss_NL=loss_NL), expected_NL, atol=1e-6)


def test_what_is_kept_survives_a_checkpoint() -> None:
    first, second = prepared(Hidden()), prepared(Hidden())
    batch = tiny_batch(num_images=8)
    learned(first, batch, steps=2)
    assert first.module is not None
    assert second.module is not None
    second.module.load_state_dict(first.module.state_dict())
    assert torch.equal(score(first, batch, step=2), score(second, batch, step=2))
    assert torch.equal(score(first, batch, step=1), score(second, batch, step=1))  # as in the step that was the last
    for estimator in (first, second):
        train(estimator, batch, step=2)
    assert torch.equal(score(first, batch, step=3), score(second, batch, step=3))


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_a_momentum_that_cannot_be_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"Residual\.momentum"):
        Residual(estimator=LossMemory(), momentum=momentum)
    with pytest.raises(ValueError, match=r"PositionLoss\.momentum"):
        PositionLoss(momentum=momentum)


@pytest.mark.parametrize("estimator", [PositionLoss(), EdgeDensity(), Uniform()], ids=lambda one: type(one).__name__)
def test_of_what_is_to_be_had_for_free_nothing_is_left(estimator: DifficultyEstimator) -> None:
    with pytest.raises(ValueError, match=f"of {type(estimator).__name__} nothing is left"):
        Residual(estimator=estimator)


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


class TestObjectShare(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return ObjectShare()


def test_the_object_is_asked_of_the_run() -> None:
    batch = tiny_batch(num_images=4)
    estimator, shares_NL = ObjectShare(), torch.rand(4, 16)
    assert estimator.needs_objects
    assert Shuffled(estimator=estimator).needs_objects
    assert not Shuffled(estimator=EdgeDensity()).needs_objects
    assert bool(score(estimator, batch).isnan().all())
    with pytest.raises(ValueError, match=r"ObjectShare needs TrainingContext\.object_shares"):
        estimator.prepare(training_context())
    estimator.prepare(training_context(object_shares=lambda _: shares_NL))
    assert torch.equal(score(estimator, batch), shares_NL)
    assert bool(score(estimator, Batch(batch.images, batch.patch_size)).isnan().all())  # images of no run


def test_shuffled_scores_are_those_of_the_next_image() -> None:
    batch = tiny_batch(num_images=4)
    own_NL, others_NL = score(EdgeDensity(), batch), score(Shuffled(estimator=EdgeDensity()), batch)
    assert torch.equal(others_NL, own_NL[[1, 2, 3, 0]])


def test_shuffled_scores_of_an_image_with_several_masks_are_those_of_another() -> None:
    """The next in the batch, for every row."""
    batch = replace(tiny_batch(num_images=6), indices=torch.tensor([7, 7, 150, 150, 20, 20]))
    own_NL, others_NL = score(EdgeDensity(), batch), score(Shuffled(estimator=EdgeDensity()), batch)
    assert torch.equal(others_NL, own_NL[[2, 2, 4, 4, 0, 0]])
    alone = replace(batch, indices=torch.full((6,), 7))
    assert bool(score(Shuffled(estimator=EdgeDensity()), alone).isnan().all())


def test_a_batch_of_one_image_has_no_other() -> None:
    """Lest the control become the estimator itself."""
    assert bool(score(Shuffled(estimator=EdgeDensity()), tiny_batch(num_images=1)).isnan().all())


def test_shuffled_memories_remember_the_right_image() -> None:
    shuffled, plain = Shuffled(estimator=LossMemory()), LossMemory()
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [0.0, 0.0, 40.0, 40.0])
    for estimator in (shuffled, plain):
        estimator.prepare(training_context())
        train(estimator, batch, loss_NL=torch.arange(48.0).view(3, 16).sin())
    scores_NL = score(plain, batch).nan_to_num(99.0)
    assert torch.equal(score(shuffled, batch).nan_to_num(99.0), scores_NL[[1, 2, 0]])
