"""SMA, StructMAE, AMT, AdaMAE and AttMask-Hint, each against a direct reading of its rule."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from draws import GRID, NAN, Conformance, masks, noise_of, same_distribution
from scipy import stats

from curriculum.keys import ranks
from curriculum.noise import Noise
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
        return Hint(reveal=(0.3, 0.6), among=0.3)


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


def structmae(scores: list[float], ratio: float, time: float, bonus: float, rng: np.random.Generator) -> list[int]:
    """StructMAE's rule for one graph: the nodes that are masked at a time from 0 to 1."""
    count = len(scores)
    favored = np.argsort(scores)[::-1][: math.ceil(ratio * math.sqrt(time) * count)]
    sums = rng.uniform(size=count)
    sums[favored] += bonus
    visible = np.argsort(sums)[: math.ceil((1 - ratio) * count)]
    return [node for node in range(count) if node not in visible]


@pytest.mark.parametrize(("time", "bonus"), [(0.0, 0.5), (0.1, 0.5), (0.25, 0.85), (0.6, 0.25), (1.0, 0.5), (1.0, 1.0)])
def test_a_bonus_lifts_ever_more_of_the_hardest(time: float, bonus: float) -> None:
    scores, rng = [0.1, 0.5, 0.2, 0.9, 0.8, 0.3], np.random.default_rng(1)
    read = [tuple(structmae(scores, 0.5, time, bonus, rng)) for _ in range(20_000)]
    alpha = Ramp(shape="root", end=1.0)(time)
    mask_NL = masks(Bonus(bonus=bonus), scores, alpha=alpha, num_masked=3, grid=(1, 6))
    assert same_distribution(mask_NL, read) > 1e-3


def test_how_often_structmae_masks_the_hardest_of_an_image() -> None:
    """196 patches at 0.75: how many of the favored are masked, whose number is rounded up."""
    rng, scores = np.random.default_rng(2), noise_of(1).fold(Stream.CUSTOM).uniform(196)[0]
    for time in (0.3, 0.9):
        favored = set(np.argsort(scores.numpy())[::-1][: math.ceil(0.75 * math.sqrt(time) * 196)].tolist())
        read = [len(favored.intersection(structmae(scores.tolist(), 0.75, time, 0.5, rng))) for _ in range(1500)]
        mask_NL = masks(Bonus(), scores.expand(1500, 196), alpha=math.sqrt(time), num_masked=147, grid=GRID, count=1500)
        ours = mask_NL[:, sorted(favored)].sum(dim=1).tolist()
        assert stats.ks_2samp(ours, read).pvalue > 1e-3


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


def at_step(step: int, count: int = 1, first: int = 0) -> Noise:
    return Noise.for_batch(seed=12, step=step, batch_size=count, first=first)


def test_a_hint_is_revealed_from_the_very_hardest() -> None:
    """AttMask's setting: L = 196, the top 10 %, of which a share stays visible, another in each step."""
    seen, shown_L = set(), torch.zeros(196, dtype=torch.float64)
    for step in range(12):
        noise = at_step(step, 400)
        scores_NL = noise.fold(Stream.CUSTOM).uniform(196)
        mask_NL = Hint()(scores_NL, alpha=1.0, num_masked=98, grid=GRID, noise=noise).to_bool()
        top_NL = hardest(scores_NL, 19, noise)
        count = Hint().count_revealed(196, noise)
        assert (top_NL & ~mask_NL).sum(dim=1).tolist() == [count] * 400
        assert (hardest(scores_NL, 98 + count, noise) & mask_NL).sum(dim=1).tolist() == [98] * 400
        shown_L += (top_NL & ~mask_NL).double().sum(dim=0)
        seen.add(count)
    assert len(seen) > 3
    assert stats.chisquare(shown_L.numpy()).pvalue > 1e-3


def test_as_many_are_revealed_as_attmask_reveals() -> None:
    """`int(0.1 * r * 196)`, r uniform between 0.1 and 0.5: 5.4 in the mean; the same in every process."""
    generator = random.Random(5)
    read = [int(0.1 * generator.uniform(0.1, 0.5) * 196) for _ in range(20_000)]
    ours = [Hint().count_revealed(196, at_step(step)) for step in range(20_000)]
    table = [[counts.count(number) for number in range(1, 10)] for counts in (ours, read)]
    assert sum(table[0]) == 20_000
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert sum(ours) / 20_000 == pytest.approx(5.4, abs=0.1)
    assert ours[:50] == [Hint().count_revealed(196, at_step(step, 3, first=64)) for step in range(50)]


def test_any_of_the_very_hardest_may_be_revealed() -> None:
    """Against a reading of the whole rule at a fixed share: of the 4 hardest of 8, int(0.5 * 0.6 * 8) = 2."""
    scores = [0.1, 0.5, 0.2, 0.9, 0.8, 0.3, 0.7, 0.4]
    generator, read = random.Random(6), []
    for _ in range(20_000):
        order = sorted(range(8), key=scores.__getitem__, reverse=True)
        shown = generator.sample(order[:4], 2)
        read.append(tuple([patch for patch in order if patch not in shown][:3]))
    mask_NL = masks(Hint(reveal=(0.6, 0.6), among=0.5), scores, alpha=1.0, num_masked=3, grid=(2, 4))
    assert same_distribution(mask_NL, read) > 1e-3
