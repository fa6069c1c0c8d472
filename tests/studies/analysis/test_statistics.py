"""Intervals cover what they should, and tests find nothing where there is nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from studies.analysis.statistics import (
    PValue,
    count_tests,
    describe_step,
    equivalence,
    estimate,
    half_interval,
    holm,
    paired,
    two_sided,
)

DRAWS, SEEDS = 1000, 5


def draws(seed: int, *, effect: float, variants: int = 1) -> list[tuple[dict[int, float], list[dict[int, float]]]]:
    """Baselines and variants whose seeds share most of their luck, as runs of one seed do."""
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(DRAWS):
        luck = generator.normal(0, 1, SEEDS)
        baseline = dict(enumerate(luck + generator.normal(0, 0.5, SEEDS)))
        others = [dict(enumerate(luck + generator.normal(0, 0.5, SEEDS) + effect)) for _ in range(variants)]
        drawn.append((baseline, others))
    return drawn


def test_without_an_effect_the_false_positive_rate_is_nominal() -> None:
    rejected = sum(paired(other, baseline).paired.value < 0.05 for baseline, (other,) in draws(0, effect=0.0))
    # A binomial of 1,000 draws at 5 % lies in 37 to 64 with 95 % probability.
    assert 37 <= rejected <= 64


def test_with_five_variants_the_chance_of_any_false_positive_is_nominal() -> None:
    rejected = 0
    for baseline, others in draws(1, effect=0.0, variants=5):
        rejected += any(test.significant for test in holm([paired(other, baseline).paired for other in others]))
    assert 20 <= rejected <= 64  # Holm's bound is 5 %; variants that share a baseline are correlated, so less


def test_with_a_known_effect_the_interval_covers_it() -> None:
    covered = 0
    for baseline, (other,) in draws(2, effect=0.7):
        difference = paired(other, baseline).estimate
        covered += difference.low <= 0.7 <= difference.high
    assert 936 <= covered <= 963


def test_pairing_finds_what_luck_would_hide() -> None:
    baseline, other = {0: 1.0, 1: 5.0, 2: 9.0}, {0: 1.5, 1: 5.6, 2: 9.4}
    assert paired(other, baseline).paired.value < 0.05
    assert scipy.stats.ttest_ind(list(other.values()), list(baseline.values())).pvalue > 0.8


@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(-100, 100)), min_size=3, max_size=8))
def test_agrees_with_scipy(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    difference = paired(dict(enumerate(a)), dict(enumerate(b)))
    if np.std(a - b) > 1e-6:
        reference = scipy.stats.ttest_rel(a, b)
        assert difference.paired.value == pytest.approx(reference.pvalue, abs=1e-9)
        interval = reference.confidence_interval(0.95)
        ends = (difference.estimate.low, difference.estimate.high)
        assert ends == pytest.approx((interval.low, interval.high), abs=1e-6)
        assert difference.effect == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1), rel=1e-6)


ACCURACIES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8)


@given(ACCURACIES)
def test_agrees_with_the_formulas(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    count = len(pairs)
    deviation = np.std(a - b, ddof=1)
    if deviation < 1e-3:
        return
    difference = paired(dict(enumerate(a)), dict(enumerate(b)))
    t = np.mean(a - b) / (deviation / math.sqrt(count))
    assert difference.paired.value == pytest.approx(2 * scipy.special.stdtr(count - 1, -abs(t)), abs=1e-12)
    half = scipy.special.stdtrit(count - 1, 0.975) * deviation / math.sqrt(count)
    assert difference.estimate.half == pytest.approx(half, abs=1e-12)
    assert half_interval(list(a - b)) == pytest.approx(half, abs=1e-12)
    assert difference.estimate.mean == pytest.approx(np.mean(a - b), abs=1e-12)


def test_an_interval_by_hand() -> None:
    """Five values with a mean of 0.71 and a variance of 0.00025; Student's t of four degrees of freedom is 2.776."""
    five = estimate([0.70, 0.72, 0.71, 0.69, 0.73])
    half = 2.7764451051977987 * math.sqrt(0.00025 / 5)
    assert (five.mean, five.half, five.count) == pytest.approx((0.71, half, 5), abs=1e-12)
    assert (five.low, five.high) == pytest.approx((0.71 - half, 0.71 + half), abs=1e-12)


def test_holm_by_hand() -> None:
    tests = [PValue(0.01), PValue(0.04), PValue(0.03), PValue(None, missing="2 pairs", counts=False)]
    corrected = holm(tests)
    assert [test.corrected for test in corrected] == [
        pytest.approx(0.03),
        pytest.approx(0.06),
        pytest.approx(0.06),
        None,
    ]
    assert [test.significant for test in corrected] == [True, False, False, False]
    assert count_tests(tests) == 3
    # One that is withheld for its spread counts as p = 1.
    withheld = holm([*tests, PValue(None, missing="sd < 1/200")])
    assert [test.corrected for test in withheld[:3]] == [pytest.approx(0.04), pytest.approx(0.09), pytest.approx(0.09)]
    assert withheld[4].corrected is None
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_between_raw_and_bonferroni(values: list[float]) -> None:
    corrected = [test.corrected for test in holm([PValue(value) for value in values])]
    for value, own in zip(values, corrected, strict=True):
        assert value <= own <= min(1.0, len(values) * value) + 1e-12
        assert all(other <= own for raw, other in zip(values, corrected, strict=True) if raw < value)


@given(st.floats(-3, 3), st.floats(0.01, 3), st.integers(2, 60), st.floats(0.01, 3))
def test_the_two_tests_of_a_difference_are_scipys(difference: float, error: float, freedom: int, margin: float) -> None:
    t = scipy.stats.t(freedom)
    assert two_sided(difference, error, freedom) == pytest.approx(2 * t.sf(abs(difference) / error), abs=1e-9)
    low, high = t.sf((difference + margin) / error), t.cdf((difference - margin) / error)
    assert equivalence(difference, error, freedom, margin) == pytest.approx(max(low, high), abs=1e-9)


def test_only_shared_seeds_are_paired() -> None:
    difference = paired({0: 1.0, 1: 2.0, 7: 100.0}, {0: 0.5, 1: 1.0, 3: -100.0})
    assert (difference.estimate.mean, difference.estimate.count) == (0.75, 2)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_one_value_has_no_interval() -> None:
    alone = estimate([0.7])
    assert (alone.mean, alone.count, alone.has_interval) == (0.7, 1, False)
    assert all(math.isnan(end) for end in (alone.half, alone.low, alone.high))


def test_values_that_scatter_less_than_their_steps_have_no_interval() -> None:
    assert not estimate([0.7, 0.7]).has_interval
    assert not estimate([0.70, 0.705, 0.70], 1 / 200).has_interval
    assert estimate([0.70, 0.705, 0.71], 1 / 200).has_interval


@pytest.mark.parametrize(
    ("values", "grid", "missing"),
    [
        ({0: 1.0}, 0.0, "1 pair"),
        ({0: 1.0, 1: 2.0}, 0.0, "2 pairs"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, 0.0, "sd < rounding"),
        ({0: 1.5, 1: 1.5, 2: 1.5}, 0.0, "sd < rounding"),
        ({0: 1.005, 1: 1.0, 2: 1.0}, 1 / 200, "sd < 1/200"),
        ({0: 1.005, 1: 1.0, 2: 1.01}, 1 / 200, ""),
        ({0: 1.005, 1: 1.0, 2: 1.0}, 1 / 2000, ""),
    ],
)
def test_when_there_is_no_p(values: dict[int, float], grid: float, missing: str) -> None:
    """Equal differences are no evidence of certainty, and two differences are hardly any of a spread."""
    test = paired(values, dict.fromkeys(range(5), 1.0), grid).paired
    assert (test.missing, test.value is None, test.significant) == (missing, bool(missing), False)


def test_steps_in_words() -> None:
    assert [describe_step(step) for step in (0.0, 1e-7, 1 / 200, 0.3)] == ["rounding", "rounding", "1/200", "0.3"]
