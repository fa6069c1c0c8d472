"""Variants that share a baseline are tested together, and together say what could have been found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from studies.analysis.blocked import BlockedFit, Omnibus
from studies.analysis.power import blocked_design, least_detectable
from studies.analysis.statistics import FEWEST_PAIRS, LEVEL, Difference, PValue, missing_for_pairs, paired

_Values = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Group:
    """A baseline and the variants that are compared with it.

    Args:
        baseline: its name.
        variants: those with seeds enough to be tested.
        left_out: those without, which neither the omnibus test nor the spread knows of.
        omnibus: that all are equal; None for a single variant, whose own test says the same, and where the values
            scatter too little.
        pairs: the smallest number of seeds that a tested variant shares with the baseline; 0 where none is tested.
        paired_variance: of the paired differences, mean over the variants.
        pooled_variance: of the residuals.
        freedom: degrees of freedom of the pooled variance.
    """

    baseline: str
    variants: Sequence[str]
    left_out: Sequence[str] = ()
    omnibus: Omnibus | None = None
    pairs: int = 0
    paired_variance: float = 0.0
    pooled_variance: float = 0.0
    freedom: int = 0

    @property
    def has_spread(self) -> bool:
        """Whether there is a spread to say from what could have been found."""
        return self.paired_variance > 0 and self.pooled_variance > 0

    def least_detectable(self, tests: Mapping[str, int]) -> dict[str, float]:
        """The true difference that a test would have found with 80 % power, by the test's kind.

        Args:
            tests: over how many tests p-values are corrected, by kind.
        """
        spread, freedom = blocked_design(self.pooled_variance, self.pairs, len(self.variants) + 1)
        return {
            "blocked": least_detectable(spread, self.pairs, freedom, LEVEL / max(1, tests["blocked"])),
            "paired": least_detectable(
                self.paired_variance, self.pairs, self.pairs - 1, LEVEL / max(1, tests["paired"])
            ),
        }


def compare_groups(
    values: _Values, baseline_of: Mapping[str, str], grid: float, margin: float | None
) -> tuple[dict[str, Difference], list[Group]]:
    """Test every variant against its baseline.

    Args:
        values: of each variant, by seed.
        baseline_of: each variant's baseline; a baseline's own is itself. One that has no values makes no group.
        grid: the steps in which the metric moves.
        margin: within which variants count as equivalent; None for no such test.

    Returns:
        Differences by variant, where a seed is shared, not yet corrected; and the groups.
    """
    differences: dict[str, Difference] = {}
    groups = []
    for baseline in dict.fromkeys(name for name in baseline_of.values() if name in values):
        of_group = {
            name: difference
            for name, own in values.items()
            if baseline_of[name] == baseline != name and (difference := paired(own, values[baseline], grid)) is not None
        }
        group, tested = _test_group(values, baseline, of_group, grid, margin)
        groups.append(group)
        differences |= tested
    return differences, groups


def _test_group(
    values: _Values, baseline: str, differences: Mapping[str, Difference], grid: float, margin: float | None
) -> tuple[Group, dict[str, Difference]]:
    """The group, and its differences with the blocked tests."""
    tested = [name for name, difference in differences.items() if difference.estimate.count >= FEWEST_PAIRS]
    fit = BlockedFit({name: values[name] for name in (baseline, *tested)}) if tested else None
    done = {}
    for name, difference in differences.items():
        if (too_few := missing_for_pairs(difference.estimate.count)) is not None or fit is None:
            blocked: PValue = too_few or PValue(None, missing="not tested", counts=False)
            equivalent = None if margin is None else blocked
        else:
            blocked, equivalent = fit.p_values(name, baseline, grid, margin)
        done[name] = replace(difference, blocked=blocked, equivalent=equivalent)
    left_out = [name for name in differences if name not in tested]
    if fit is None:
        return Group(baseline, (), left_out), done
    return (
        Group(
            baseline=baseline,
            variants=tested,
            left_out=left_out,
            omnibus=fit.omnibus(grid) if len(tested) > 1 else None,
            pairs=min(differences[name].estimate.count for name in tested),
            paired_variance=statistics.fmean(_paired_variance(values[name], values[baseline]) for name in tested),
            pooled_variance=fit.variance if fit.freedom > 0 and not fit.missing(grid) else 0.0,
            freedom=fit.freedom,
        ),
        done,
    )


def _paired_variance(values: Mapping[int, float], baseline: Mapping[int, float]) -> float:
    return statistics.variance([value - baseline[seed] for seed, value in values.items() if seed in baseline])
