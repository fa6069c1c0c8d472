"""Power, least detectable effects and needed seeds against numbers from other sources."""

from __future__ import annotations

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from made_results import results

from hpm.errors import UserError
from studies.analysis.comparison import compare
from studies.analysis.power import (
    blocked_design,
    interval_of_deviation,
    least_detectable,
    power_of,
    seeds_needed,
)
from studies.analysis.seeds import plan_seeds


def test_power_from_published_tables() -> None:
    """Cohen (1988): a two-sided one-sample t-test at 0.05 takes 34 pairs for 80 % power at d = 0.5, 199 at 0.2."""
    for effect, pairs in ((0.5, 34), (0.2, 199), (0.8, 15)):
        assert power_of(effect, 1.0, pairs, pairs - 1, 0.05) >= 0.8 > power_of(effect, 1.0, pairs - 1, pairs - 2, 0.05)
        assert seeds_needed(effect, 1.0, variants=2, level=0.05, power=0.8, blocked=False) == pairs


@given(st.floats(0, 5), st.integers(3, 40), st.floats(0.001, 0.1))
def test_power_is_scipys(effect: float, pairs: int, level: float) -> None:
    critical = scipy.stats.t.isf(level / 2, pairs - 1)
    law = scipy.stats.nct(pairs - 1, effect * math.sqrt(pairs))
    expected = law.sf(critical) + law.cdf(-critical)
    if math.isfinite(expected):
        assert power_of(effect, 1.0, pairs, pairs - 1, level) == pytest.approx(expected, abs=1e-6)


def test_without_an_effect_power_is_the_level() -> None:
    assert power_of(0.0, 2.0, 5, 4, 0.01) == pytest.approx(0.01)
    assert power_of(1e6, 2.0, 5, 4, 0.01) == 1.0


@given(st.floats(0.01, 100), st.integers(3, 50), st.floats(0.0005, 0.05))
def test_the_least_detectable_effect_has_its_power(variance: float, pairs: int, level: float) -> None:
    least = least_detectable(variance, pairs, pairs - 1, level)
    assert power_of(least, variance, pairs, pairs - 1, level) == pytest.approx(0.8, abs=1e-4)
    assert least_detectable(4 * variance, pairs, pairs - 1, level) == pytest.approx(2 * least, rel=1e-5)
    assert least_detectable(variance, pairs + 1, pairs, level) < least
    assert least_detectable(variance, pairs, pairs - 1, level / 2) > least


@given(st.floats(0.1, 3), st.integers(2, 12), st.booleans())
def test_needed_seeds_are_the_fewest(effect: float, variants: int, blocked: bool) -> None:
    level = 0.05 / max(1, variants - 1)
    seeds = seeds_needed(effect, 1.0, variants=variants, level=level, power=0.8, blocked=blocked)

    def power(count: int) -> float:
        spread, freedom = blocked_design(1.0, count, variants) if blocked else (1.0, count - 1)
        return power_of(effect, spread, count, freedom, level)

    assert seeds is not None
    assert power(seeds) >= 0.8
    assert seeds == 3 or power(seeds - 1) < 0.8
    assert seeds_needed(1e-9, 1.0, variants=variants, level=level, power=0.8, blocked=blocked) is None


def test_the_floor_of_a_variance_by_numbers() -> None:
    """E[max(chi^2 / f, 1)] by integration, f = 8, of five seeds and more than two variants."""
    law = scipy.stats.chi2(8)
    mean = law.expect(lambda x: max(x / 8, 1.0))
    assert blocked_design(1.0, 5, 6) == (pytest.approx(2 * mean, rel=1e-4), 8)
    assert blocked_design(1.0, 5, 2) == (2.0, 4)


def test_interval_of_a_deviation_by_hand() -> None:
    """Four degrees of freedom: chi-squared's quantiles are 0.4844 and 11.1433."""
    assert interval_of_deviation(1.0, 4) == pytest.approx((math.sqrt(4 / 11.1433), math.sqrt(4 / 0.4844)), rel=1e-4)


VALUES = {"a": [0.700, 0.721, 0.709], "b": [0.711, 0.713, 0.724], "c": [0.690, 0.712, 0.715]}


def test_a_plan_from_a_finished_study() -> None:
    made = compare([run for name, own in VALUES.items() for run in results(name, own)], "low_shot/pretrained")
    plan = plan_seeds(made, effect=1.0, power=0.8, variants=None)
    assert (plan.variants, plan.level) == (3, 0.025)
    blocked, paired = plan.needs
    (group,) = made.groups
    assert blocked.deviation == pytest.approx(math.sqrt(2 * group.pooled_variance))
    assert paired.deviation == pytest.approx(math.sqrt(group.paired_variance))
    for need in plan.needs:
        assert need.interval[0] < need.deviation < need.interval[1]
        assert need.seeds_of_interval[0] <= need.seeds <= need.seeds_of_interval[1]
    more = plan_seeds(made, effect=1.0, power=0.8, variants=20)
    assert (more.variants, more.level) == (20, pytest.approx(0.05 / 19))
    assert more.needs[0].seeds > blocked.seeds
    # The effect is in percent points here.
    assert blocked.seeds == seeds_needed(0.01, group.pooled_variance, variants=3, level=0.025, power=0.8, blocked=True)


def test_two_seeds_tell_no_spread() -> None:
    made = compare(results("a", [0.7, 0.8]) + results("b", [0.75, 0.7]), "low_shot/pretrained")
    with pytest.raises(UserError, match="s cannot tell how much low_shot/pretrained scatters: no variant shares 3"):
        plan_seeds(made, effect=1.0, power=0.8, variants=None)
