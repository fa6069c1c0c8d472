"""The comparison of variants: what each achieved, how far from the baseline, and at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpm.errors import UserError
from studies.analysis.results import Result, metric_names
from studies.analysis.statistics import Difference, Estimate, estimate, holm, paired
from studies.analysis.units import DisplayUnit, display_unit
from studies.definition.baselines import baselines

COSTS = ("images", "training_seconds", "flops")
ENOUGH_SEEDS = 5
_MOST_LISTED = 8  # names in a warning


@dataclass(frozen=True)
class ComparedVariant:
    """One variant, a row of the table.

    Args:
        variant: its name.
        values: the metric's, by seed.
        estimate: of their mean.
        baseline: the variant it is compared with; a baseline's own is itself.
        difference: to the baseline; None for itself and where no seed is shared.
        cost: means over its runs.
    """

    variant: str
    values: Mapping[int, float]
    estimate: Estimate
    baseline: str
    difference: Difference | None
    cost: Mapping[str, float]

    @property
    def significant(self) -> bool:
        """Whether it differs from its baseline at the 5 % level, after correction."""
        return self.difference is not None and self.difference.significant


@dataclass(frozen=True)
class Comparison:
    """A table of variants.

    Args:
        metric: what is compared.
        direction: "maximize" or "minimize".
        baseline: the variant that the others are compared with; with a star, one for each group.
        rows: the variants, the best mean first.
        warnings: what makes the comparison weaker than it looks.
        results: the runs that have the metric.
    """

    metric: str
    direction: str
    baseline: str
    rows: Sequence[ComparedVariant]
    warnings: Sequence[str]
    results: Sequence[Result]

    @property
    def unit(self) -> DisplayUnit:
        """What the metric is shown in."""
        return display_unit(self.metric)

    def by_variant(self) -> dict[str, list[Result]]:
        """The runs of each variant."""
        return _by_variant(self.results)


def compare(
    results: Sequence[Result], metric: str, *, against: str | None = None, direction: str = "maximize"
) -> Comparison:
    """Compare variants on the seeds they share.

    Args:
        results: complete runs, of one study or of several. The variants of several are called `study/variant`.
        metric: which metric.
        against: the baseline's name, or of several with a star (`baselines`); None for the first variant.
        direction: "maximize" or "minimize".

    Raises:
        UserError: if nobody has the metric, or some variant has no baseline.
    """
    measured = [result for result in results if metric in result.metrics]
    if not measured:
        known = ", ".join(metric_names(results)) or "there are no complete runs"
        raise UserError(f"--metric {metric} was measured in no run; {known}")
    variants = _by_variant(measured)
    values = {name: {run.seed: run.metrics[metric] for run in runs} for name, runs in variants.items()}
    against = next(iter(values)) if against is None else against
    try:
        chosen = baselines(against, values)
    except ValueError as error:
        raise UserError(f"--against {error}") from error
    differences = holm(
        {name: paired(own, values[chosen[name]]) for name, own in values.items() if name != chosen[name]}
    )
    rows = [
        ComparedVariant(
            variant=name,
            values=own,
            estimate=estimate(list(own.values())),
            baseline=chosen[name],
            difference=differences.get(name),
            cost=_mean_cost(variants[name]),
        )
        for name, own in values.items()
    ]
    rows.sort(key=lambda row: row.estimate.mean, reverse=direction == "maximize")
    return Comparison(
        metric=metric,
        direction=direction,
        baseline=against if "*" in against else rows[0].baseline,
        rows=rows,
        warnings=[
            *_warnings_of_runs(variants),
            *_warnings_of_seeds(rows, values),
            *_warnings_of_budgets(rows, measured),
            *_warning_of_missing(metric, len(measured), len(results)),
        ],
        results=measured,
    )


def _by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    several = len({result.source for result in results}) > 1
    variants: dict[str, list[Result]] = {}
    for result in results:
        name = f"{result.source}/{result.variant}" if several else result.variant
        variants.setdefault(name, []).append(result)
    return variants


def _mean_cost(results: Sequence[Result]) -> dict[str, float]:
    means = {}
    for name in COSTS:
        known = [result.cost[name] for result in results if name in result.cost]
        if known:
            means[name] = sum(known) / len(known)
    return means


# Whatever a careful reader would ask


def _warnings_of_runs(variants: Mapping[str, Sequence[Result]]) -> list[str]:
    lines = []
    counts = Counter((name, run.seed) for name, runs in variants.items() for run in runs)
    if repeated := sorted({name for (name, _), count in counts.items() if count > 1}):
        lines.append(f"several runs of one seed: {_listed(repeated)}; the last of each is used")
    if changed := [name for name, runs in variants.items() if len({run.config for run in runs}) > 1]:
        lines.append(f"the configuration changed between runs: {_listed(changed)}")
    return lines


def _warnings_of_seeds(rows: Sequence[ComparedVariant], values: Mapping[str, Mapping[int, float]]) -> list[str]:
    lines = []
    if few := [row.variant for row in rows if row.estimate.count < ENOUGH_SEEDS]:
        lines.append(f"fewer than {ENOUGH_SEEDS} seeds: {_listed(few)}; intervals are wide, small effects are missed")
    if unpaired := [row.variant for row in rows if set(row.values) != set(values[row.baseline])]:
        lines.append(f"other seeds than the baseline: {_listed(unpaired)}; differences use the seeds that both have")
    return lines


def _warnings_of_budgets(rows: Sequence[ComparedVariant], measured: Sequence[Result]) -> list[str]:
    lines = []
    budgets = {round(row.cost["images"]) for row in rows if "images" in row.cost}
    if len(budgets) > 1:
        lines.append(f"budgets differ: variants were trained on {min(budgets):,} to {max(budgets):,} images")
    for what, kinds in (
        ("data", {run.data for run in measured}),
        ("devices", {run.device for run in measured}),
        ("source versions", {run.commit for run in measured}),
    ):
        if len(kinds) > 1:
            lines.append(f"{what} differ: {', '.join(sorted(kinds))}")
    return lines


def _warning_of_missing(metric: str, measured: int, total: int) -> list[str]:
    return [f"{total - measured} of {total} runs have no {metric} and are left out"] if measured < total else []


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_LISTED])} and {len(names) - _MOST_LISTED} more"
