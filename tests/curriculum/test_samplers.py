from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from curriculum.mask import count_masked
from curriculum.noise import Noise
from curriculum.samplers import HardestFirst, Random, Sampler, count_hard, hardest
from curriculum.streams import Stream
from curriculum.testing import SamplerConformance

NAN, INF = math.nan, math.inf


class TestRandom(SamplerConformance):
    def build(self) -> Sampler:
        return Random()


class TestHardestFirst(SamplerConformance):
    def build(self) -> Sampler:
        return HardestFirst()


@dataclass(frozen=True)
class Draw:
    """The arguments of one draw; L patches in one row."""

    scores_NL: Tensor
    alpha: float
    num_masked: int
    noise: Noise

    @property
    def num_hard(self) -> int:
        return count_hard(self.alpha, self.num_masked)

    def mask(self, sampler: Sampler) -> Tensor:
        grid = (1, self.scores_NL.shape[1])
        mask = sampler(self.scores_NL, alpha=self.alpha, num_masked=self.num_masked, grid=grid, noise=self.noise)
        for index in (mask.visible, mask.masked):
            assert bool((index.diff(dim=1) > 0).all())
        return mask.to_bool()


@st.composite
def large_draws(draw: st.DrawFn) -> Draw:
    """L up to 400, with scores of few or many levels and any share of NaN and infinities."""
    num_patches = draw(st.integers(2, 400))
    ratio = draw(st.floats(0.01, 0.99))
    assume(1 <= int(num_patches * (1 - ratio)) < num_patches)
    noise = Noise.for_batch(seed=draw(st.integers(0, 2**32)), step=draw(st.integers(0, 10**6)), batch_size=3)
    levels = draw(st.sampled_from([1, 2, 5, 50, 2**20]))
    scores_NL = (noise.fold(Stream.CUSTOM).uniform(num_patches) - 0.5).mul(levels).round()
    for number, value in ((2, NAN), (3, INF), (4, -INF)):
        share = draw(st.sampled_from([0.0, 0.0, 0.3, 0.9, 1.0]))
        scores_NL = scores_NL.masked_fill(noise.fold(Stream.CUSTOM, number).uniform(num_patches) < share, value)
    return Draw(scores_NL, draw(st.floats(0, 1)), count_masked(num_patches, ratio), noise)


@st.composite
def small_draws(draw: st.DrawFn) -> Draw:
    """Any float32 whatever, signed zeros and subnormal numbers included."""
    num_patches = draw(st.integers(2, 8))
    number = st.floats(width=32) | st.sampled_from([NAN, INF, -INF, 0.0, -0.0, 1.0])
    scores = draw(st.lists(st.lists(number, min_size=num_patches, max_size=num_patches), min_size=1, max_size=2))
    noise = Noise.for_batch(seed=draw(st.integers(0, 2**32)), step=0, batch_size=len(scores))
    num_masked = draw(st.integers(1, num_patches - 1))
    return Draw(torch.tensor(scores), draw(st.floats(0, 1)), num_masked, noise)


def check_hard_set(draw: Draw, hard_NL: Tensor, priority_NL: Tensor) -> None:
    """As many as asked or as are scored, never NaN, and none left out in favor of one with less priority."""
    for hard_L, priority_L in zip(hard_NL, priority_NL, strict=True):
        scored_L = ~priority_L.isnan()
        assert int(hard_L.sum()) == min(draw.num_hard, int(scored_L.sum()))
        assert not bool((hard_L & ~scored_L).any())
        chosen, left = priority_L[hard_L], priority_L[scored_L & ~hard_L]
        if len(chosen) and len(left):
            assert float(left.max()) <= float(chosen.min())


@settings(deadline=None, derandomize=True, max_examples=200)
@given(draw=large_draws() | small_draws())
def test_hardest_first_masks_the_hardest_and_the_right_number(draw: Draw) -> None:
    mask_NL = draw.mask(HardestFirst())
    assert mask_NL.sum(dim=1).tolist() == [draw.num_masked] * len(mask_NL)
    hard_NL = hardest(draw.scores_NL, draw.num_hard, draw.noise)
    check_hard_set(draw, hard_NL, draw.scores_NL)
    assert bool((mask_NL | ~hard_NL).all())


@settings(deadline=None, derandomize=True, max_examples=100)
@given(draw=large_draws() | small_draws(), other_alpha=st.floats(0, 1))
def test_hard_sets_are_nested_as_alpha_grows(draw: Draw, other_alpha: float) -> None:
    fewer, more = sorted([draw.num_hard, count_hard(other_alpha, draw.num_masked)])
    fewer_NL, more_NL = (hardest(draw.scores_NL, count, draw.noise) for count in (fewer, more))
    assert bool((more_NL | ~fewer_NL).all())


@settings(deadline=None, derandomize=True, max_examples=100)
@given(draw=large_draws())
def test_without_a_hard_patch_the_mask_is_the_random_one(draw: Draw) -> None:
    alpha, sampler = min(draw.alpha, 0.999 / draw.num_masked), HardestFirst()
    assert not sampler.needs_scores(alpha, draw.num_masked)
    draw = Draw(draw.scores_NL, alpha, draw.num_masked, draw.noise)
    assert torch.equal(draw.mask(sampler), draw.mask(Random()))


@settings(deadline=None, derandomize=True, max_examples=50)
@given(draw=large_draws())
def test_random_ignores_scores_and_alpha(draw: Draw) -> None:
    other = Draw(-draw.scores_NL, 1 - draw.alpha, draw.num_masked, draw.noise)
    assert torch.equal(draw.mask(Random()), other.mask(Random()))
    assert not Random().needs_scores(draw.alpha, draw.num_masked)


def test_count_hard_rounds_down() -> None:
    assert [count_hard(alpha, 147) for alpha in (0.0, 0.0067, 0.0069, 0.5, 0.999, 1.0)] == [0, 0, 1, 73, 146, 147]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_of_every_float_type(dtype: torch.dtype) -> None:
    scores_NL = torch.tensor([[0.5, -2.0, NAN, 3.0, -INF, INF, 0.0, -0.25]], dtype=dtype)
    noise = Noise.for_batch(seed=0, step=0, batch_size=1)
    ranked = [5, 3, 0, 6, 7, 1, 4]
    for count in range(9):
        hard = hardest(scores_NL, count, noise)[0].nonzero().flatten().tolist()
        assert hard == sorted(ranked[:count])


def test_zeros_of_both_signs_are_a_tie() -> None:
    noise = Noise.for_batch(seed=0, step=0, batch_size=2000)
    hard_NL = hardest(torch.tensor([[0.0, -0.0]]).expand(2000, 2), 1, noise)
    assert 900 < int(hard_NL[:, 0].sum()) < 1100


def test_at_alpha_one_every_masked_patch_is_a_hardest_one() -> None:
    noise = Noise.for_batch(seed=0, step=0, batch_size=5)
    scores_NL = noise.fold(Stream.CUSTOM).uniform(16)
    mask_NL = Draw(scores_NL, 1.0, 12, noise).mask(HardestFirst())
    assert torch.equal(mask_NL, scores_NL >= scores_NL.sort(dim=1).values[:, 4:5])


def uniformity(outcomes_N: Tensor, expected: int) -> float:
    """p-value of the chi-square test that the `expected` possible outcomes are equally frequent."""
    counts = outcomes_N.unique(return_counts=True)[1]
    assert len(counts) == expected, f"{len(counts)} different outcomes instead of {expected}"
    return float(stats.chisquare(counts.numpy()).pvalue)


def code(sets_NL: Tensor) -> Tensor:
    """One integer for each set of patches."""
    return (sets_NL.long() << torch.arange(sets_NL.shape[1])).sum(dim=1)


def draws_of(scores: list[float], alpha: float, num_masked: int, count: int = 20_000) -> Draw:
    noise = Noise.for_batch(seed=12, step=34, batch_size=count)
    return Draw(torch.tensor(scores).expand(count, len(scores)), alpha, num_masked, noise)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_a_constant_score_gives_every_mask_equally_often(alpha: float) -> None:
    """All 70 sets of 4 out of 8 patches: more than equal frequencies of patches and of pairs."""
    mask_NL = draws_of([0.7] * 8, alpha, 4).mask(HardestFirst())
    assert uniformity(code(mask_NL), math.comb(8, 4)) > 1e-3


def test_unscored_patches_give_every_mask_equally_often() -> None:
    mask_NL = draws_of([NAN] * 8, 0.5, 4).mask(HardestFirst())
    assert uniformity(code(mask_NL), math.comb(8, 4)) > 1e-3


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_constant_score_masks_patches_and_pairs_as_random_does(alpha: float) -> None:
    num_patches = 49
    num_masked = 36
    count = 5000
    mask_NL = draws_of([0.0] * num_patches, alpha, num_masked, count).mask(HardestFirst()).double()
    together_LL = mask_NL.T @ mask_NL
    # Patches: where M out of L are drawn, covariances are v = p (1 - p) and, beside the diagonal, -v / (L - 1).
    share = num_masked / num_patches
    variance = count * share * (1 - share)
    patches_L = together_LL.diagonal() - count * share
    statistic = float(patches_L.square().sum()) / (variance * num_patches / (num_patches - 1))
    assert 1e-3 < stats.chi2.sf(statistic, num_patches - 1) < 1 - 1e-3
    # Pairs: what the frequencies of the patches do not explain. By symmetry it has the same variance in each of its
    # L (L - 3) / 2 directions.
    pair = num_masked * (num_masked - 1) / (num_patches * (num_patches - 1))
    pairs_K = torch.tensor([float(together_LL[i, j]) for i, j in itertools.combinations(range(num_patches), 2)])
    explained = (num_masked - 1) ** 2 / (num_patches - 2)
    unexplained = float((pairs_K - count * pair).square().sum() - explained * patches_L.square().sum())
    expected = count * len(pairs_K) * pair * (1 - pair) - explained * variance * num_patches
    directions = num_patches * (num_patches - 3) // 2
    assert 1e-3 < stats.chi2.sf(unexplained / expected * directions, directions) < 1 - 1e-3


def test_the_rest_of_the_mask_is_uniform_over_all_others() -> None:
    """Two hard patches, and any two of the other six."""
    draw = draws_of([0.1, 0.9, 0.3, 0.2, 0.8, 0.4, 0.0, 0.5], 0.5, 4)
    mask_NL = draw.mask(HardestFirst())
    assert bool(mask_NL[:, [1, 4]].all())
    assert uniformity(code(mask_NL), math.comb(6, 2)) > 1e-3


def test_unscored_patches_are_in_the_rest_like_any_other() -> None:
    draw = draws_of([NAN, 0.9, NAN, 0.2, NAN, 0.4, NAN, NAN], 0.5, 4)
    mask_NL = draw.mask(HardestFirst())
    assert bool(mask_NL[:, [1, 5]].all())
    assert uniformity(code(mask_NL), math.comb(6, 2)) > 1e-3


def test_too_few_scored_patches_make_all_of_them_hard() -> None:
    mask_NL = draws_of([NAN, 0.9, NAN, NAN, NAN, NAN], 1.0, 3).mask(HardestFirst())
    assert bool(mask_NL[:, 1].all())
    assert uniformity(code(mask_NL), math.comb(5, 2)) > 1e-3


def test_ties_at_the_boundary_are_broken_uniformly_and_independently_of_the_rest() -> None:
    """The hardest patch and one of three tied ones are hard; the rest is any two of the six others, given that one."""
    draw = draws_of([0.9, 0.5, 0.5, 0.5, 0.1, 0.2, 0.1, 0.1], 0.5, 4)
    mask_NL = draw.mask(HardestFirst())
    hard_NL = hardest(draw.scores_NL, draw.num_hard, draw.noise)
    assert set(code(hard_NL).tolist()) == {1 | 1 << tied for tied in (1, 2, 3)}
    assert uniformity(code(hard_NL), 3) > 1e-3
    joint = code(hard_NL) << 8 | code(mask_NL & ~hard_NL)
    assert uniformity(joint, 3 * math.comb(6, 2)) > 1e-3


def test_random_gives_every_mask_equally_often() -> None:
    mask_NL = draws_of([0.0] * 6, 1.0, 3).mask(Random())
    assert uniformity(code(mask_NL), math.comb(6, 3)) > 1e-3


def test_the_uniformity_test_can_fail() -> None:
    """A mask that prefers its first patches by a fifth is noticed."""
    subsets = list(itertools.combinations(range(6), 3))
    weights = torch.tensor([1.2 if 0 in subset else 1.0 for subset in subsets])
    outcomes = torch.multinomial(weights, 20_000, replacement=True, generator=torch.Generator().manual_seed(0))
    assert uniformity(outcomes, len(subsets)) < 1e-3
