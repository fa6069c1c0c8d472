"""SMA, StructMAE, AMT, AdaMAE and AttMask-Hint, each against a direct reading of its rule."""

from __future__ import annotations

import math
import random

import pytest
import torch
from draws import GRID, NAN, Conformance, masks, noise_of, same_distribution
from scipy import stats

from curriculum.keys import ranks
from curriculum.samplers import (
    Bonus,
    Hint,
    Pool,
    Sampler,
    Weighted,
    hardest,
)
from curriculum.schedulers import Ramp
from curriculum.streams import Stream


class TestPool(Conformance):
    def build(self) -> Sampler:
        return Pool()


class TestBonus(Conformance):
    def build(self) -> Sampler:
        return Bonus()


class TestWeighted(Conformance):
    def build(self) -> Sampler:
        return Weighted()


class TestWeightedProportional(Conformance):
    def build(self) -> Sampler:
        return Weighted(weights="proportional", temperature=0.5)


class TestHint(Conformance):
    def build(self) -> Sampler:
        return Hint(hint=0.1, among=0.3)


def test_ranks_are_places_among_the_scored() -> None:
    scores_NL = torch.tensor([[3.0, NAN, -1.0, 7.0], [NAN, NAN, 2.0, NAN], [NAN] * 4])
    found = ranks(scores_NL, noise_of(3).bits(4)).tolist()
    assert found[0][0] == 0.5 and found[0][2] == 0 and found[0][3] == 1 and math.isnan(found[0][1])  # noqa: PT018
    assert found[1][2] == 0.5
    assert all(math.isnan(value) for value in found[2])


@pytest.mark.parametrize(("alpha", "pool"), [(0.0, 196), (0.5, 172), (0.99, 148), (1.0, 147)])
def test_a_pool_masks_the_hardest_alone(alpha: float, pool: int) -> None:
    scores_NL = noise_of(50).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Pool(), scores_NL, alpha=alpha, num_masked=147, grid=GRID, count=50)
    easy_NL = ~hardest(scores_NL, pool, noise_of(50))
    assert not bool((mask_NL & easy_NL).any())


def test_a_pool_is_drawn_from_uniformly() -> None:
    mask_NL = masks(Pool(), [0.1, 0.5, 0.2, 0.9, 0.8, 0.3], alpha=0.5, num_masked=2, grid=(1, 6))
    # Six patches, pool of 6 - int(4 * 0.5) = 4, the hardest: all six pairs of them as often.
    generator = random.Random(0)
    read = [tuple(generator.sample([1, 3, 4, 5], 2)) for _ in range(20_000)]
    assert same_distribution(mask_NL, read) > 1e-3


def test_the_cosine_pool_begins_with_all_and_ends_with_the_mask() -> None:
    ramp = Ramp(shape="cosine", start=0.0, end=1.0)
    sizes = [196 - int(49 * ramp(step / 10)) for step in range(11)]
    assert sizes[0] == 196 and sizes[-1] == 147 and sizes == sorted(sizes, reverse=True)  # noqa: PT018


def test_unscored_patches_stay_in_the_pool() -> None:
    scores_NL = noise_of(4000).fold(Stream.CUSTOM).uniform(16).masked_fill(torch.arange(16) < 8, NAN)
    mask_NL = masks(Pool(), scores_NL, alpha=1.0, num_masked=12, grid=(4, 4), count=4000)
    assert bool(mask_NL[:, :8].all(dim=0).logical_not().any()) or bool(mask_NL[:, :8].all())
    # The pool is what is left of the 16 without the 4 easiest scored ones: all of it is masked.
    assert torch.equal(mask_NL, ~hardest(-scores_NL, 4, noise_of(4000)))


def test_a_bonus_lifts_the_hardest() -> None:
    """Against the rule read out: noise + alpha on the M hardest, the highest sums are masked."""
    scores = [0.1, 0.5, 0.2, 0.9, 0.8, 0.3]
    generator = random.Random(1)
    for alpha in (0.0, 0.3, 1.0):
        read = []
        for _ in range(20_000):
            keys = [generator.random() + alpha * (place in (1, 3, 4)) for place in range(6)]
            read.append(tuple(sorted(range(6), key=keys.__getitem__)[-3:]))
        assert same_distribution(masks(Bonus(), scores, alpha=alpha, num_masked=3, grid=(1, 6)), read) > 1e-3


@pytest.mark.parametrize("weights", ["softmax", "proportional"])
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_weighted_draws_one_after_the_other(weights: str, alpha: float, temperature: float) -> None:
    scores = [0.1, 0.5, 2.0, 0.9, 1.4]
    power = alpha / temperature
    share = [math.exp(s * power) if weights == "softmax" else s**power for s in scores]
    generator, read = random.Random(2), []
    for _ in range(20_000):
        left = list(range(5))
        for _ in range(2):
            left.remove(generator.choices(left, [share[patch] for patch in left])[0])
        read.append(tuple(patch for patch in range(5) if patch not in left))
    sampler = Weighted(weights=weights, temperature=temperature)
    assert same_distribution(masks(sampler, scores, alpha=alpha, num_masked=2, grid=(1, 5)), read) > 1e-3


def test_a_temperature_may_be_scheduled() -> None:
    sampler = Weighted(temperature=Ramp(start=2.0, end=0.5))
    assert sampler.at(0.0).temperature == 2.0
    assert sampler.at(1.0).temperature == 0.5
    assert isinstance(sampler.temperature, Ramp)
    assert list(sampler.schedulers()) == ["temperature"]
    with pytest.raises(ValueError, match=r"Weighted\.temperature .* must be positive"):
        Weighted(temperature=Ramp(start=1.0, end=0.0))


def test_the_visible_may_be_drawn() -> None:
    """AdaMAE: patches are shown one after the other, by weights; polarity has turned the scores round."""
    scores = [0.1, 0.5, 2.0, 0.9, 1.4]
    generator, read = random.Random(4), []
    for _ in range(20_000):
        left = list(range(5))
        for _ in range(2):
            left.remove(generator.choices(left, [math.exp(scores[patch]) for patch in left])[0])
        read.append(tuple(left))
    negated = [-score for score in scores]
    mask_NL = masks(Weighted(draw="visible"), negated, alpha=1.0, num_masked=3, grid=(1, 5))
    assert same_distribution(mask_NL, read) > 1e-3
    with pytest.raises(ValueError, match=r"Weighted\.draw = 'seen' is unknown"):
        Weighted(draw="seen")


def test_a_hint_is_revealed_from_the_very_hardest() -> None:
    """AttMask's setting: L = 196, 10 % the hardest, of which s = 5 % of L stay visible."""
    scores_NL = noise_of(400).fold(Stream.CUSTOM).uniform(196)
    mask_NL = masks(Hint(), scores_NL, alpha=1.0, num_masked=98, grid=GRID, count=400)
    top_NL = hardest(scores_NL, 19, noise_of(400))
    assert (top_NL & ~mask_NL).sum(dim=1).tolist() == [9] * 400  # int(196 * 0.05)
    assert (hardest(scores_NL, 98 + 9, noise_of(400)) & mask_NL).sum(dim=1).tolist() == [98] * 400
    shown_L = (top_NL & ~mask_NL).double().sum(dim=0)
    assert stats.chisquare(shown_L.numpy()).pvalue > 1e-3
