"""Difficulty estimators made of others, of features, of pixels, cached and trained."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from curriculum import (
    ADIOS,
    CLMAE,
    AdaMAE,
    Attention,
    Bandit,
    Batch,
    Cached,
    Constant,
    Curriculum,
    DifficultyEstimator,
    Disagreement,
    EdgeDensity,
    FeatureNorm,
    HardestFirst,
    LossSpread,
    Mask,
    Mixture,
    Noise,
    Parts,
    PixelEntropy,
    PixelVariance,
    PredictedLoss,
    Quotas,
    Ramp,
    Random,
    Sampler,
    Smoothed,
    Stepped,
    Stream,
    Switched,
    TrainingContext,
    TrueLoss,
    Uniform,
    Weighted,
)
from curriculum.testing import DifficultyConformance, TinyTeacher, tiny_batch

CPU = torch.device("cpu")


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


class TestMixture(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Mixture(estimators=[PredictedLoss(), TrueLoss(probes=1), EdgeDensity()], weights=[1.0, 2.0, 0.5])


class TestSmoothed(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Smoothed(estimator=TrueLoss(probes=1))


class TestCachedUnprepared(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Cached(estimator=Attention())


class TestAdaMAE(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return AdaMAE(width=32)


class TestADIOS(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return ADIOS(width=32)


class TestCLMAE(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return CLMAE(width=32)


def score(estimator: DifficultyEstimator, batch: Batch, *, step: int = 0, num_masked: int = 12) -> Tensor:
    noise = Noise.for_batch(seed=3, step=step, batch_size=len(batch))
    return estimator(batch, TinyTeacher(), num_masked=num_masked, noise=noise)


def training_context(**changes: object) -> TrainingContext:
    given = TrainingContext(
        num_images=200, steps_per_epoch=5, in_chans=3, patch_size=4, grid=(4, 4), device=CPU, seed=0
    )
    return replace(given, **changes)  # type: ignore[arg-type]


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


class Given(DifficultyEstimator):
    """Scores that were said before."""

    def __init__(self, scores: list[float]) -> None:
        self.given = scores

    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> Tensor:
        return torch.tensor(self.given).expand(len(batch), -1)


def test_a_mixture_weighs_ranks() -> None:
    first, second = Given([0.0, 10.0, 5.0, math.nan]), Given([1e6, 0.0, math.nan, 5.0])
    batch = tiny_batch(grid=(2, 2))
    found = score(Mixture(estimators=[first, second], weights=[3.0, 1.0]), batch)[0].tolist()
    assert found == pytest.approx([(3 * 0 + 1) / 4, (3 * 1 + 0) / 4, 0.5, 0.5])
    nobody = score(Mixture(estimators=[Given([math.nan, 1.0, 2.0, 3.0])]), batch)[0]
    assert bool(nobody[0].isnan())


def test_smoothing_spreads_and_skips_what_is_not_scored() -> None:
    batch = tiny_batch(grid=(3, 3))
    point = [0.0] * 9
    point[4] = 1.0
    found = score(Smoothed(estimator=Given(point), sigma=1.0), batch)[0].view(3, 3)
    assert float(found[1, 1]) > float(found[0, 1]) > float(found[0, 0]) > 0
    constant = score(Smoothed(estimator=Given([2.0] * 8 + [math.nan])), batch)[0]
    assert constant.tolist() == pytest.approx([2.0] * 9)


def test_a_switch_asks_the_one_that_its_scheduler_names() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    switch = Switched(estimators=[PredictedLoss(), Attention()], scheduler=Ramp(start=0.0, end=1.0))
    assert switch.needs == ("predicted_loss", "attention")
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=switch, sampler=HardestFirst())
    for progress in (0.0, 1.0):
        curriculum.draw(batch, teacher, progress, Noise.for_batch(seed=0, step=0, batch_size=4))
    assert teacher.calls == ["predicted_loss", "attention"]
    with pytest.raises(ValueError, match=r"Switched\.scheduler gives 2.0, which is the place of none of 2"):
        Switched(estimators=[PredictedLoss(), Attention()], scheduler=Constant(value=2.0))


def test_schedulers_within_learn_and_are_kept() -> None:
    def build() -> Curriculum:
        switch = Switched(estimators=[Uniform(), EdgeDensity()], scheduler=Bandit(values=[0.0, 1.0]))
        return Curriculum(scheduler=Constant(value=1.0), difficulty=switch, sampler=HardestFirst())

    first, second = build(), build()
    assert list(first.schedulers()) == ["scheduler", "difficulty.scheduler"]
    for loss in (1.0, 0.8, 0.7, 0.3):
        first.observe({"reconstruction_loss": loss})
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict() != build().state_dict()


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mixture(estimators=[]),
        lambda: Mixture(estimators=[Uniform()], weights=[0.0]),
        lambda: Mixture(estimators=[Uniform()], weights=[1.0, 1.0]),
        lambda: Smoothed(estimator=Uniform(), sigma=0),
        lambda: Mixture(estimators=[AdaMAE()]),
        lambda: Smoothed(estimator=Cached(estimator=Uniform())),
        lambda: Cached(estimator=Uniform(), every=0),
        lambda: Cached(estimator=Uniform(), period="day"),
        lambda: Cached(estimator=Uniform(), start=-1),
        lambda: AdaMAE(width=50),
        lambda: AdaMAE(lr=0.0),
        lambda: ADIOS(masks=1),
        lambda: CLMAE(factor=Ramp(start=2.0, end=0.0)),
        lambda: LossSpread(probes=1),
        lambda: PixelEntropy(bins=1),
        lambda: Parts(parts=0),
        lambda: Mixture(estimators=["Uniform"]),  # type: ignore[list-item]
    ],
)
def test_bad_values_are_named(build) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"Mixture|Smoothed|Cached|AdaMAE|ADIOS|CLMAE|LossSpread|PixelEntropy|Parts"):
        build()


# Cached.


def crop(batch: Batch, indices: list[int], box: list[float], *, flip: bool = False) -> Batch:
    count = len(indices)
    return replace(
        batch,
        indices=torch.tensor(indices),
        boxes=torch.tensor([box]).expand(count, 4),
        flips=torch.full((count,), flip),
    )


def cached(**changes: object) -> Cached:
    estimator = Cached(estimator=EdgeDensity(), **{"every": 2, "period": "epoch", **changes})  # type: ignore[arg-type]
    estimator.prepare(training_context())
    return estimator


def test_a_cache_asks_in_its_epochs_alone() -> None:
    assert [cached().asks(step) for step in (0, 4, 5, 9, 10)] == [True, True, False, False, True]
    assert [cached(start=1).asks(step) for step in (0, 4, 5, 9, 10)] == [False, False, True, True, False]
    assert [cached(period="step", every=3).asks(step) for step in range(5)] == [True, False, False, True, False]


def test_the_same_crop_has_the_same_scores_later() -> None:
    estimator, batch = cached(), tiny_batch(num_images=3)
    seen = crop(batch, [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    scores = score(estimator, seen, step=0)
    other = crop(replace(batch, images=batch.images * 0), [20, 7, 150], [3.0, 5.0, 40.0, 30.0])
    later = score(estimator, other, step=5)
    assert torch.allclose(later, scores[[2, 0, 1]], rtol=2e-3)
    never = score(estimator, crop(batch, [1, 2, 7], [3.0, 5.0, 40.0, 30.0]), step=6)
    assert bool(never[:2].isnan().all()) and not bool(never[2].isnan().any())  # noqa: PT018


def test_scores_move_with_crop_and_flip() -> None:
    """A ramp from left to right over an image of 40 x 40 pixels."""
    estimator = Cached(estimator=Given([(patch % 4) / 4 + 0.25 for patch in range(16)]), every=2)
    estimator.prepare(training_context())
    batch = tiny_batch(num_images=2)
    score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0]), step=0)
    right_half = score(estimator, crop(batch, [0, 1], [20.0, 0.0, 20.0, 40.0]), step=5)[0].view(4, 4)
    assert right_half[0].tolist() == pytest.approx([0.75, 0.75, 1.0, 1.0], abs=1e-3)
    mirrored = score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0], flip=True), step=5)[0].view(4, 4)
    assert mirrored[0].tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-3)
    beyond = score(estimator, crop(batch, [0, 1], [20.0, 0.0, 40.0, 40.0]), step=5)[0].view(4, 4)
    assert beyond[0, :2].tolist() == pytest.approx([0.75, 1.0], abs=1e-3)
    assert bool(beyond[:, 2:].isnan().all())
    score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0], flip=True), step=10)  # the mirror image is scored
    upright = score(estimator, crop(batch, [0, 1], [0.0, 0.0, 40.0, 40.0]), step=15)[0].view(4, 4)
    assert upright[0].tolist() == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=1e-3)


def test_what_is_cached_survives_a_checkpoint() -> None:
    first, second = cached(), cached()
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    score(first, batch, step=0)
    assert first.module is not None and second.module is not None  # noqa: PT018
    second.module.load_state_dict(first.module.state_dict())
    assert torch.equal(score(first, batch, step=5), score(second, batch, step=5))


# Trained maskers.


def learn(difficulty: AdaMAE | ADIOS | CLMAE, *, polarity: str, progress: float = 1.0, steps: int = 150) -> Tensor:
    """Mean score [L] of each position after training where the right half of every image is lost badly."""
    sampler = Weighted(draw="visible" if polarity == "easiest" else "masked")
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=sampler, polarity=polarity)
    curriculum.prepare(training_context())
    assert difficulty.module is not None
    optimizer = torch.optim.AdamW(difficulty.module.parameters(), lr=3e-3)
    bad_L = torch.arange(16).remainder(4).ge(2).float() * 2 + 0.5
    for step in range(steps):
        batch = tiny_batch(num_images=16, seed=step % 4)
        noise = Noise.for_batch(seed=1, step=step, batch_size=16)
        mask = curriculum.draw(batch, None, progress, noise)
        curriculum.masker_loss(batch, mask, mask.gather_masked(bad_L.expand(16, 16)), progress, noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = tiny_batch(num_images=16, seed=9)
    noise = Noise.for_batch(seed=1, step=0, batch_size=16)
    return difficulty(batch, None, num_masked=12, noise=noise).mean(dim=0).view(4, 4)


def test_adamae_shows_what_is_reconstructed_badly() -> None:
    scores = learn(AdaMAE(width=32), polarity="easiest")
    assert float(scores[:, 2:].mean()) > float(scores[:, :2].mean()) + 1  # more likely to be seen


def test_adios_hides_what_is_reconstructed_badly() -> None:
    scores = learn(ADIOS(width=32, masks=2), polarity="hardest")
    assert float(scores[:, 2:].mean()) > 0
    network = ADIOS(width=32, masks=3)
    network.prepare(training_context())
    batch = tiny_batch()
    soft = network.soft(network.outputs_of(batch))
    assert torch.allclose(soft.sum(dim=2), torch.ones(4, 16))


def test_adios_penalizes_empty_masks() -> None:
    network = ADIOS(width=32, masks=2, penalty=1.0)
    network.prepare(training_context())
    assert network.module is not None
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    mask = Mask.from_keys(noise.bits(16), 12)
    even = network.loss(batch, mask, torch.zeros(4, 12), noise).detach()
    with torch.no_grad():
        network.module.head.bias.copy_(torch.tensor([4.0, -4.0]))
    assert float(network.loss(batch, mask, torch.zeros(4, 12), noise).detach()) > float(even) + 5
    assert float(even) == pytest.approx(1 / math.sin(math.pi / 2), abs=0.1)


def test_clmae_turns_from_partner_to_adversary() -> None:
    partner, adversary = (
        learn(CLMAE(width=32, factor=Ramp(start=1.0, end=-1.0)), polarity="hardest", progress=progress)
        for progress in (0.0, 1.0)
    )
    assert float(partner[:, 2:].mean()) < float(partner[:, :2].mean()) - 0.2
    assert float(adversary[:, 2:].mean()) > float(adversary[:, :2].mean()) + 0.2


@pytest.mark.parametrize("difficulty", [AdaMAE(width=32), ADIOS(width=32), CLMAE(width=32)])
def test_a_masker_loss_reaches_its_network_alone(difficulty: AdaMAE | ADIOS | CLMAE) -> None:
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=Weighted())
    curriculum.prepare(training_context())
    assert difficulty.module is not None
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    true_NM = torch.rand(4, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = curriculum.draw(batch, None, 1.0, noise)
    curriculum.masker_loss(batch, mask, true_NM, 1.0, noise).backward()
    assert true_NM.grad is None
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in difficulty.module.parameters())


def test_a_network_starts_from_the_seed() -> None:
    weights = []
    for seed in (0, 0, 1):
        difficulty = AdaMAE(width=32)
        state = torch.random.get_rng_state()
        difficulty.prepare(training_context(seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert difficulty.module is not None
        weights.append(difficulty.module.head.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# The curriculum's own scalars.


def test_polarity_masks_the_easiest() -> None:
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    hard, easy = (
        Curriculum(
            scheduler=Constant(value=1.0),
            difficulty=EdgeDensity(),
            sampler=HardestFirst(),
            mask_ratio=0.5,
            polarity=polarity,
        )
        .draw(batch, None, 0.0, noise)
        .to_bool()
        for polarity in ("hardest", "easiest")
    )
    assert torch.equal(hard, ~easy)


def test_the_mask_ratio_may_move() -> None:
    curriculum = Curriculum(
        scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=Ramp(start=0.5, end=0.9)
    )
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    assert [curriculum.draw(batch, None, progress, noise).num_masked for progress in (0.0, 0.5, 1.0)] == [8, 12, 15]
    assert curriculum.count_masked(16) == 15
    with pytest.raises(ValueError, match=r"Curriculum\.mask_ratio = 0.0 must lie strictly between"):
        Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=Ramp(start=0.0, end=0.9))


def test_some_patches_may_be_thrown_away() -> None:
    def build(ratio: float) -> Curriculum:
        return Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), throw_ratio=ratio)

    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    mask = build(0.125).draw(batch, None, 0.0, noise)
    assert mask.thrown is not None
    assert (mask.num_visible, mask.num_masked, mask.thrown.shape[1]) == (2, 12, 2)
    assert torch.equal(mask.masked, build(0.0).draw(batch, None, 0.0, noise).masked)
    with pytest.raises(ValueError, match=r"Curriculum\.throw_ratio = 0.25 must be at least 0 and leave something"):
        build(0.25)
    with pytest.raises(ValueError, match="leaves none of 5 patches visible"):
        build(0.24).check(None, 5)
    with pytest.raises(ValueError, match=r"Curriculum\.polarity = 'hard' is unknown"):
        Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), polarity="hard")


@pytest.mark.parametrize(
    ("difficulty", "sampler"),
    [
        (Parts(), Quotas()),
        (EdgeDensity(), Weighted(weights="proportional")),
        (ADIOS(), HardestFirst()),
        (CLMAE(), HardestFirst()),
    ],
)
def test_what_cannot_be_turned_round_is_refused(difficulty: DifficultyEstimator, sampler: Sampler) -> None:
    with pytest.raises(ValueError, match=r"Curriculum\.polarity = 'easiest' turns the scores round, and"):
        Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=sampler, polarity="easiest")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Quotas\.parts = 3 must be at least Parts\.parts = 6"):
        Curriculum(scheduler=Constant(), difficulty=Parts(), sampler=Quotas(parts=3)).check(TinyTeacher(), 16)
    with pytest.raises(ValueError, match=r"score_every = 2, but Cached has to follow every step"):
        Curriculum(scheduler=Constant(), difficulty=Cached(estimator=Uniform()), sampler=HardestFirst(), score_every=2)
    with pytest.raises(ValueError, match="AdaMAE has no network yet"):
        score(AdaMAE(), tiny_batch())


def test_a_cache_keeps_scale_and_small_numbers() -> None:
    estimator = Cached(estimator=Given([0.0, 1.0, 2.0, 3.0, 4.0, 5.0] + [-7.5] * 10), every=2)
    estimator.prepare(training_context())
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    assert torch.equal(score(estimator, batch, step=0), score(estimator, batch, step=5))


def test_a_scheduler_in_two_places_observes_once() -> None:
    bandit = Bandit(values=[0.5, 0.7])
    shared = Curriculum(scheduler=bandit, difficulty=Uniform(), sampler=HardestFirst(), mask_ratio=bandit)
    alone = Bandit(values=[0.5, 0.7])
    for loss in (1.0, 0.5, 0.4):
        shared.observe({"reconstruction_loss": loss})
        alone.observe({"reconstruction_loss": loss})
    assert bandit.state_dict() == alone.state_dict()


def test_a_stepped_scheduler_uses_every_value() -> None:
    stepped = Stepped(scheduler=Ramp(start=0.0, end=1.0), steps=4)
    assert [stepped((epoch + 1) / 4) for epoch in range(4)] == [0.125, 0.375, 0.625, 0.875]
    assert stepped(0.0) == 0.125
