"""Intervals cover what they should, and tests find nothing where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from studies.analysis.statistics import Difference, estimate, holm, paired

DRAWS, SEEDS = 1000, 5


def draws(seed: int, *, effect: float, variants: int = 1) -> list[tuple[dict[int, float], list[dict[int, float]]]]:
    """Baselines and variants whose seeds share most of their luck, as runs of one seed do."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        luck = generator.normal(0, 1, SEEDS)
        baseline = dict(enumerate(luck + generator.normal(0, 0.5, SEEDS)))
        others = [dict(enumerate(luck + generator.normal(0, 0.5, SEEDS) + effect)) for _ in range(variants)]
        found.append((baseline, others))
    return found


def test_without_an_effect_the_false_positive_rate_is_nominal() -> None:
    rejected = sum(paired(other, baseline).p < 0.05 for baseline, (other,) in draws(0, effect=0.0))
    # A binomial of 1,000 draws at 5 % lies in 37 to 64 with 95 % probability.
    assert 37 <= rejected <= 64


def test_with_five_variants_the_chance_of_any_false_positive_is_nominal() -> None:
    rejected = 0
    for baseline, others in draws(1, effect=0.0, variants=5):
        corrected = holm({str(number): paired(other, baseline) for number, other in enumerate(others)})
        rejected += any(found.significant for found in corrected.values())
    assert 20 <= rejected <= 64  # Holm's bound is 5 %; variants that share a baseline are correlated, so less


def test_with_a_known_effect_the_interval_covers_it() -> None:
    covered = 0
    for baseline, (other,) in draws(2, effect=0.7):
        found = paired(other, baseline).estimate
        covered += found.low <= 0.7 <= found.high
    assert 936 <= covered <= 963


def test_pairing_finds_what_luck_would_hide() -> None:
    baseline, other = {0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.5, 1: 5.6, 2: 9.4}
    assert paired(other, baseline).p < 0.05
    assert scipy.stats.ttest_ind(list(other.values()), list(baseline.values())).pvalue > 0.8


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=2, max_size=8))
def test_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    found = paired(dict(enumerate(a)), dict(enumerate(b)))
    if np.std(a - b) > 1e-6:
        reference = scipy.stats.ttest_rel(a, b)
        assert found.p == pytest.approx(reference.pvalue, abs=1e-9)
        interval = reference.confidence_interval(0.95)
        assert (found.estimate.low, found.estimate.high) == pytest.approx((interval.low, interval.high), abs=1e-6)
        assert found.effect == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1), rel=1e-6)


def test_holm_by_hand() -> None:
    def found(p: float | None) -> Difference:
        return Difference(estimate([0.0, 1.0]), p, None, None)

    corrected = holm({"a": found(0.01), "b": found(0.04), "c": found(0.03), "d": found(None), "e": None})
    assert [None if d is None else d.corrected for d in corrected.values()] == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
        None,
        None,
    ]
    assert [d.significant for d in corrected.values() if d is not None] == [True, False, False, False]


def test_only_shared_seeds_are_paired() -> None:
    found = paired({0: 1.0, 1: 2.0, 7: 100.0}, {0: 0.5, 1: 1.0, 3: -100.0})
    assert (found.estimate.mean, found.estimate.count) == (0.75, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_few_values() -> None:
    alone = estimate([0.7])
    assert (alone.mean, alone.half) == (0.7, math.inf)
    single = paired({0: 1.0}, {0: 0.5})
    assert (single.p, single.effect, single.significant) == (None, None, False)
    assert paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).p == 1.0
    assert paired({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}).p == 0.0
