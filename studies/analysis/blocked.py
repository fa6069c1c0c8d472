"""What all variants of a table say together: a randomized complete block design whose blocks are the seeds.

The model is y = variant + seed + error, without interaction. Its residuals tell of the spread of every variant, where
a paired test knows of two. Runs that are missing leave the design incomplete; it is then fitted by least squares over
the seeds that at least two variants share, which for a complete design is the textbook's two-way ANOVA.

**Which variance a contrast has.** Three were simulated (`benchmarks/significance.py`). The pooled residual variance
assumes that all variants scatter alike; where the baseline scatters four times as much as eleven others, a false
positive comes in 27 % of tables of three seeds after Holm's correction. Variances moderated by empirical Bayes (Smyth
2004) need many independent variances to learn their prior from; two to eleven that share a baseline are too few, and
false positives come in 6 to 16 % of tables of three and five seeds, in 8 % of some where all scatter alike. So a
contrast has the pooled variance, unless its own is larger, the sum of both variants' (Rao 1970; Grubbs 1948 for
complete designs): a variant that scatters more than the others is judged by what it does, one that seems to scatter
less by the others. False positives then come in at most 5 % of tables with unequal variances, and with few seeds the
power is above the paired test's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import fdtrc

from studies.analysis.statistics import PValue, equivalence, spread_below_grid, two_sided

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Omnibus:
    """The test that all variants of a group are equal.

    Args:
        f: the F of the two-way ANOVA without interaction.
        between: its degrees of freedom, of the variants.
        within: those of the residuals.
        epsilon: Box's, by which both are multiplied where variances differ: 1 for equal ones.
        p: of F with the corrected degrees of freedom.
        seeds: how many blocks there are.
        missing_runs: how many cells of variants x seeds are empty.
    """

    f: float
    between: int
    within: int
    epsilon: float
    p: float
    seeds: int
    missing_runs: int


@dataclass(frozen=True)
class Contrast:
    """A variant minus its baseline, with the standard error that the whole group gives.

    Args:
        difference: the mean over the seeds that both have.
        error: its standard error.
        freedom: degrees of freedom of the error.
    """

    difference: float
    error: float
    freedom: float

    @property
    def p(self) -> float:
        """Of the two-sided test that there is no difference."""
        return two_sided(self.difference, self.error, self.freedom)

    def p_equivalent(self, margin: float) -> float:
        """Of two one-sided tests that the difference lies within ± margin."""
        return equivalence(self.difference, self.error, self.freedom, margin)


class BlockedFit:
    """Variants and seeds fitted together.

    Args:
        values: of each variant, by seed; at least two variants. Seeds that only one variant has say nothing and are
            left out.

    Attributes:
        variance: the pooled residual variance; NaN where no degree of freedom is left.
        freedom: its degrees of freedom.
        variances: the residual variance of each variant, by its name; NaN where they cannot be told apart.
        seeds: how many seeds are blocks.
    """

    def __init__(self, values: Mapping[str, Mapping[int, float]]) -> None:
        counts: dict[int, int] = {}
        for own in values.values():
            for seed in own:
                counts[seed] = counts.get(seed, 0) + 1
        seeds = sorted(seed for seed, count in counts.items() if count > 1)
        self._names = list(values)
        self._values = {name: {seed: own[seed] for seed in seeds if seed in own} for name, own in values.items()}
        self.seeds = len(seeds)
        cells = [
            (place, seeds.index(seed), own[seed]) for place, own in enumerate(self._values.values()) for seed in own
        ]
        self._variant = np.array([place for place, _, _ in cells])
        self._seed = np.array([place for _, place, _ in cells])
        self._y = np.array([value for _, _, value in cells])
        self._runs = np.bincount(self._variant, minlength=len(values))
        self._basis = self._seeds_within_variants()
        self._residual = self._fit()
        self.freedom = int(len(cells) - np.count_nonzero(self._runs) - self._basis.shape[1])
        squares = float(self._residual @ self._residual)
        self.variance = squares / self.freedom if self.freedom > 0 else math.nan
        self._own = self._own_variances()
        self.variances = dict(zip(self._names, self._own.tolist(), strict=True))

    def _centered(self, columns: _Floats) -> _Floats:
        """Columns [cells, ...] less each variant's mean."""
        sums = np.zeros((len(self._runs), *columns.shape[1:]))
        np.add.at(sums, self._variant, columns)
        means = sums / np.maximum(self._runs, 1).reshape(-1, *[1] * (columns.ndim - 1))
        return columns - means[self._variant]

    def _seeds_within_variants(self) -> _Floats:
        """[cells, rank]: an orthonormal basis of what the seeds explain beside the variants."""
        indicators = np.eye(self.seeds)[self._seed]
        left, singular, _ = np.linalg.svd(self._centered(indicators), full_matrices=False)
        return left[:, singular > 1e-9 * max(1.0, singular.max(initial=0.0))]

    def _fit(self) -> _Floats:
        """The residuals [cells]."""
        centered = self._centered(self._y)
        return centered - self._basis @ (self._basis.T @ centered)

    def _own_variances(self) -> _Floats:
        """[variants]: each one's residual variance by Rao's MINQUE; NaN for all where they cannot be told apart.

        With M the projection to the residuals e, E[e_i^2] is the sum over j of M_ij^2 times cell j's variance. Summed
        over the cells of each variant these are as many linear equations as unknown variances.
        """
        rows = [self._basis[self._variant == variant] for variant in range(len(self._runs))]
        products = np.stack([own.T @ own for own in rows])
        flat = products.reshape(len(self._runs), -1)
        diagonal = np.maximum(self._runs - 1, 0) - 2 * np.trace(products, axis1=1, axis2=2)
        equations = np.diag(diagonal) + flat @ flat.T
        squares = np.bincount(self._variant, self._residual**2, minlength=len(self._runs))
        if not self.freedom or np.linalg.cond(equations) > 1e8:
            return np.full(len(self._runs), math.nan)
        return np.maximum(np.linalg.solve(equations, squares), 0.0)

    def contrast(self, variant: str, baseline: str) -> Contrast:
        """A variant minus a baseline over the seeds that both have, at least two.

        The variance of a pair's difference is twice the pooled one or, where that is larger, the sum of the two
        variants' own. Degrees of freedom are Satterthwaite's: of both own variances in the second case; in the first
        of the pooled one, in whose place a variant's own stands where it is larger. Where two variants are all there
        are, their variances cannot be told apart, and this is the paired t-test.
        """
        own, base = self._values[variant], self._values[baseline]
        pairs = [own[seed] - base[seed] for seed in own if seed in base]
        count, mean = len(pairs), float(np.mean(pairs))
        places = [self._names.index(name) for name in (variant, baseline)]
        parts = [(float(self._own[place]), int(self._runs[place]) - 1) for place in places]
        pooled = (self.variance, self.freedom)
        spread = parts[0][0] + parts[1][0]
        if math.isnan(spread):
            spread = max(float(np.var(pairs, ddof=1)), 2 * self.variance)
            freedom: float = count - 1
        elif spread > 2 * self.variance:
            freedom = _satterthwaite(parts)
        else:
            spread = 2 * self.variance
            freedom = _satterthwaite([max(part, pooled) for part in parts])
        return Contrast(mean, math.sqrt(spread / count), min(freedom, self.freedom))

    def missing(self, grid: float) -> str:
        """Why the contrasts allow no p-value; "" where they do.

        Args:
            grid: the steps in which the metric moves.
        """
        if self.freedom < 2:
            return "too few runs"
        return "spread below grid" if spread_below_grid(math.sqrt(2 * self.variance), grid) else ""

    def p_values(self, variant: str, baseline: str, grid: float, margin: float | None) -> tuple[PValue, PValue | None]:
        """Of a contrast: that there is no difference, and that it lies within ± margin (None without a margin)."""
        if missing := self.missing(grid):
            none = PValue(None, missing=missing)
            return none, None if margin is None else none
        contrast = self.contrast(variant, baseline)
        return PValue(contrast.p), None if margin is None else PValue(contrast.p_equivalent(margin))

    def omnibus(self, grid: float) -> Omnibus | None:
        """The test that all variants are equal; None where the spread allows none.

        F is the two-way ANOVA's without interaction. Unequal variances make it find too much, so its degrees of freedom
        are multiplied by Box's epsilon (1954), with each variant's own variance in the place of the true one. In
        simulations p is below 0.05 by chance in 2 to 4 % of tables of equal variances, and still in 5 to 8 % of those
        in which one variant's standard deviation is four times the others'.
        """
        if self.missing(grid):
            return None
        by_seed = np.bincount(self._seed, self._y, minlength=self.seeds) / np.bincount(self._seed, minlength=self.seeds)
        without = self._y - by_seed[self._seed]
        variants = int(np.count_nonzero(self._runs))
        between = variants + self._basis.shape[1] - self.seeds
        f = float((without @ without - self._residual @ self._residual) / between / self.variance)
        epsilon = self._epsilon()
        return Omnibus(
            f=f,
            between=between,
            within=self.freedom,
            epsilon=epsilon,
            p=float(fdtrc(epsilon * between, epsilon * self.freedom, max(f, 0.0))),
            seeds=self.seeds,
            missing_runs=variants * self.seeds - len(self._y),
        )

    def _epsilon(self) -> float:
        """Box's: (tr S)^2 / ((k - 1) tr S^2), S the covariance of the k variants less their mean."""
        count = len(self._own)
        if np.isnan(self._own).any() or not self._own.any():
            return 1.0
        total, squares = float(self._own.sum()), float((self._own**2).sum())
        trace, trace_of_square = total * (count - 1) / count, squares * (1 - 2 / count) + (total / count) ** 2
        return min(1.0, max(1 / (count - 1), trace**2 / ((count - 1) * trace_of_square)))


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Degrees of freedom of a sum of variances, given each with its own degrees of freedom."""
    return sum(part for part, _ in parts) ** 2 / sum(part**2 / freedom for part, freedom in parts)
