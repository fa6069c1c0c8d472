"""The two-way layout of variants and seeds against formulas written otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.analysis.blocked import BlockedFit
from studies.analysis.statistics import paired

# Four variants by five seeds.
TABLE = np.array(
    [[9.1, 7.4, 8.8, 8.2, 9.9], [8.0, 7.9, 8.1, 7.6, 8.8], [9.9, 8.1, 9.4, 9.0, 9.8], [7.2, 6.0, 9.6, 7.1, 8.1]]
)


def by_seed(values: np.ndarray) -> dict[str, dict[int, float]]:
    return {
        str(place): {seed: value for seed, value in enumerate(own) if not math.isnan(value)}
        for place, own in enumerate(values.tolist())
    }


def anova(values: np.ndarray) -> tuple[float, float, int]:
    """F of the variants, residual mean square and its degrees of freedom, by sums of squares of a complete table."""
    count, seeds = values.shape
    grand = values.mean()
    of_variants = seeds * ((values.mean(axis=1) - grand) ** 2).sum()
    of_seeds = count * ((values.mean(axis=0) - grand) ** 2).sum()
    freedom = (count - 1) * (seeds - 1)
    error = (((values - grand) ** 2).sum() - of_variants - of_seeds) / freedom
    return of_variants / (count - 1) / error, error, freedom


def least_squares(values: np.ndarray) -> tuple[float, float, int, int]:
    """F, residual mean square and both degrees of freedom of any table, from two regressions on dummy variables."""
    variants, seeds = np.nonzero(~np.isnan(values))
    y = values[variants, seeds]
    blocks, full = np.eye(values.shape[1])[seeds], np.eye(values.shape[0])[variants]
    full = np.hstack([blocks, full])

    def residual(design: np.ndarray) -> tuple[float, int]:
        return float(((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2).sum()), np.linalg.matrix_rank(
            design
        )

    (without, rank_without), (left, rank) = residual(blocks), residual(full)
    freedom, between = len(y) - rank, rank - rank_without
    return (without - left) / between / (left / freedom), left / freedom, between, freedom


def test_a_complete_table_is_the_textbooks() -> None:
    fit = BlockedFit(by_seed(TABLE))
    f, error, freedom = anova(TABLE)
    test = fit.omnibus(0.0)
    assert (fit.variance, fit.freedom, fit.seeds) == (pytest.approx(error), freedom, 5)
    assert (test.f, test.between, test.within, test.missing_runs) == (pytest.approx(f), 3, 12, 0)
    assert test.p == pytest.approx(scipy.stats.f.sf(f, 3 * test.epsilon, 12 * test.epsilon))


def test_an_incomplete_table_is_least_squares() -> None:
    values = TABLE.copy()
    values[1, 0] = values[2, 3] = values[3, 4] = math.nan
    f, error, between, freedom = least_squares(values)
    fit = BlockedFit(by_seed(values))
    test = fit.omnibus(0.0)
    assert (fit.variance, fit.freedom) == (pytest.approx(error), freedom)
    assert (test.f, test.between, test.missing_runs) == (pytest.approx(f), between, 3)
    assert anova(TABLE)[0] == pytest.approx(least_squares(TABLE)[0])


def test_a_seed_that_one_variant_has_alone_says_nothing() -> None:
    more = by_seed(TABLE)
    more["0"][17] = 1000.0
    fit, before = BlockedFit(more), BlockedFit(by_seed(TABLE))
    assert (fit.variance, fit.freedom, fit.seeds) == (pytest.approx(before.variance), before.freedom, before.seeds)


def test_own_variances_of_a_complete_table_are_grubbs() -> None:
    """Of three instruments: half of (s_12^2 + s_13^2 - s_23^2), s of their differences."""
    values = TABLE[:3]

    def s2(a: int, b: int) -> float:
        return float((values[a] - values[b]).var(ddof=1))

    grubbs = [(s2(0, 1) + s2(0, 2) - s2(1, 2)) / 2, (s2(0, 1) + s2(1, 2) - s2(0, 2)) / 2]
    grubbs.append((s2(0, 2) + s2(1, 2) - s2(0, 1)) / 2)
    found = BlockedFit(by_seed(values)).variances
    assert list(found.values()) == pytest.approx([max(0.0, value) for value in grubbs])


@pytest.mark.parametrize("holes", [[], [(1, 0), (2, 3), (3, 4)]])
def test_own_variances_have_no_bias(holes: list[tuple[int, int]]) -> None:
    """A mean over tables of the truth; variances so near that none is floored at 0 often."""
    generator, truth = np.random.default_rng(0), np.array([2.0, 4.0, 5.0, 3.0])
    found = []
    for _ in range(1000):
        values = generator.normal(size=(4, 12)) * np.sqrt(truth)[:, None] + generator.normal(size=12)
        for hole in holes:
            values[hole] = math.nan
        found.append(list(BlockedFit(by_seed(values)).variances.values()))
    error = np.std(found, axis=0) / math.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - truth) < 4 * error)


def test_box_epsilon_by_hand() -> None:
    """Of two variances 1 and 3 among three variants, the third 2: S has the eigenvalues of C diag(1, 3, 2) C."""
    fit = BlockedFit(by_seed(TABLE[:3]))
    own = np.array(list(fit.variances.values()))
    centering = np.eye(3) - 1 / 3
    eigenvalues = np.linalg.eigvalsh(centering @ np.diag(own) @ centering)
    expected = eigenvalues.sum() ** 2 / (2 * (eigenvalues**2).sum())
    assert fit.omnibus(0.0).epsilon == pytest.approx(min(1.0, max(0.5, expected)))


def test_of_two_variants_it_is_the_paired_test() -> None:
    two = by_seed(TABLE[:2])
    test = paired(two["1"], two["0"]).paired
    contrast = BlockedFit(two).contrast("1", "0")
    assert contrast.p == pytest.approx(test.value)
    assert contrast.p == pytest.approx(scipy.stats.ttest_rel(TABLE[1], TABLE[0]).pvalue)
    assert BlockedFit(two).omnibus(0.0).p == pytest.approx(test.value)


def test_a_contrast_by_hand() -> None:
    """The pooled variance where the contrast's own is smaller, and its own where that is larger."""
    fit = BlockedFit(by_seed(TABLE))
    own, (_, pooled, freedom) = fit.variances, anova(TABLE)
    for name in ("1", "2", "3"):
        contrast = fit.contrast(name, "0")
        assert contrast.difference == pytest.approx(TABLE[int(name)].mean() - TABLE[0].mean())
        spread = own[name] + own["0"]
        if spread > 2 * pooled:
            of = min(freedom, spread**2 / (own[name] ** 2 / 4 + own["0"] ** 2 / 4))
        else:
            parts = [(value, 4) if value > pooled else (pooled, freedom) for value in (own[name], own["0"])]
            of = min(freedom, (parts[0][0] + parts[1][0]) ** 2 / sum(value**2 / number for value, number in parts))
        t = contrast.difference / math.sqrt(max(spread, 2 * pooled) / 5)
        assert contrast.p == pytest.approx(2 * scipy.stats.t.sf(abs(t), of))
    assert own["3"] + own["0"] > 2 * pooled > own["2"] + own["0"]


def test_equivalence_is_two_one_sided_tests() -> None:
    """With two variants these are scipy's one-sided paired tests against either margin."""
    two = by_seed(TABLE[:2])
    found = BlockedFit(two).contrast("1", "0").p_equivalent(1.5)
    low = scipy.stats.ttest_rel(TABLE[1] + 1.5, TABLE[0], alternative="greater").pvalue
    high = scipy.stats.ttest_rel(TABLE[1] - 1.5, TABLE[0], alternative="less").pvalue
    assert found == pytest.approx(max(low, high))


def test_what_scatters_less_than_its_steps_has_no_p() -> None:
    values = by_seed(np.array([[0.7, 0.71, 0.72], [0.71, 0.72, 0.73], [0.7, 0.71, 0.72]]))
    test, _ = BlockedFit(values).p_values("1", "0", 0.005, None)
    assert (test.value, test.missing) == (None, "spread below grid")
    assert BlockedFit(values).omnibus(0.005) is None


CELLS = st.floats(-100, 100).map(lambda value: round(value, 3))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 5).flatmap(
        lambda seeds: st.lists(st.lists(CELLS, min_size=seeds, max_size=seeds), min_size=3, max_size=5)
    ),
    st.floats(-50, 50),
    st.floats(0.1, 10),
)
def test_what_must_not_matter(rows: list[list[float]], shift: float, scale: float) -> None:
    """What a seed adds to all variants, the unit, and the direction of a contrast change no p-value."""
    values = np.array(rows)
    fit = BlockedFit(by_seed(values))
    if fit.freedom < 2 or not fit.variance > 1e-6:
        return
    before = fit.contrast("1", "0")
    assert 0 <= before.p <= 1
    assert before.error**2 * len(rows[0]) >= 2 * fit.variance * (1 - 1e-9)
    assert 1 - 1e-9 <= before.freedom <= fit.freedom
    assert fit.contrast("0", "1").p == pytest.approx(before.p, rel=1e-6, abs=1e-9)
    moved = BlockedFit(by_seed(scale * (values + shift * np.arange(values.shape[1]))))
    after = moved.contrast("1", "0")
    assert after.difference == pytest.approx(scale * before.difference, rel=1e-6, abs=1e-6)
    # Where both variances are equal up to rounding, either rule for the degrees of freedom may be taken.
    if abs(before.error**2 * len(rows[0]) / (2 * fit.variance) - 1) > 1e-6:
        assert after.p == pytest.approx(before.p, rel=1e-4, abs=1e-6)
