"""The comparison of variants: what each achieved, how far from the baseline, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpm.errors import UserError
from hpm.metrics import unit_of
from studies.analysis.cautions import (
    warnings_of_baselines,
    warnings_of_budgets,
    warnings_of_images,
    warnings_of_left_out,
    warnings_of_planned,
    warnings_of_runs,
    warnings_of_seeds,
)
from studies.analysis.grid import Grid, grid_of
from studies.analysis.groups import Group, compare_groups
from studies.analysis.results import COSTS, Result, is_usable, metric_choice
from studies.analysis.statistics import Difference, Estimate, PValue, count_tests, estimate, holm
from studies.analysis.units import DisplayUnit, display_unit
from studies.definition.baselines import baselines

KINDS = ("blocked", "paired", "equivalent")
"""The tests of a difference, each corrected by itself."""


@dataclass(frozen=True)
class ComparedVariant:
    """One variant, a row of the table.

    Args:
        variant: its name.
        values: the metric's, by seed: of the seeds that its baseline has too, where there are any.
        estimate: of their mean.
        baseline: the variant it is compared with; a baseline's own is itself.
        difference: to the baseline, over the same seeds; None for itself and where no seed is shared.
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
        """Whether it differs from its baseline at the 5 % level, after correction, by the blocked test."""
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
        grid: the steps in which the metric moves.
        groups: for each baseline, what its group's seeds say together, and what they could have found.
        margin: within which variants count as equivalent, in the metric's own unit; None for no such test.
        tables: how many tables the correction is over.
        tests: how many tests it is over, by their kind (`KINDS`).
    """

    metric: str
    direction: str
    baseline: str
    rows: Sequence[ComparedVariant]
    warnings: Sequence[str]
    results: Sequence[Result]
    grid: Grid
    groups: Sequence[Group]
    margin: float | None = None
    tables: int = 1
    tests: Mapping[str, int] = field(default_factory=dict)

    @property
    def unit(self) -> DisplayUnit:
        """What the metric is shown in."""
        return display_unit(self.metric)

    def by_variant(self) -> dict[str, list[Result]]:
        """The runs of each variant."""
        return by_variant(self.results)


def compare(
    results: Sequence[Result],
    metric: str,
    *,
    against: str | None = None,
    direction: str = "maximize",
    equivalent_within: float | None = None,
    planned: Collection[str] = (),
) -> Comparison:
    """One table of `compare_metrics`, corrected for its own tests alone."""
    return compare_metrics(
        results, {metric: direction}, against=against, equivalent_within=equivalent_within, planned=planned
    )[0]


def compare_metrics(
    results: Sequence[Result],
    metrics: Mapping[str, str],
    *,
    against: str | None = None,
    equivalent_within: float | None = None,
    planned: Collection[str] = (),
) -> list[Comparison]:
    """Compare variants on the seeds they share, a table for each metric, p-values corrected over all tables.

    Args:
        results: complete runs, of one study or of several. The variants of several are called `study/variant`.
        metrics: the direction of each metric that is compared, "maximize" or "minimize".
        against: the baseline's name, or of several with a star (`baselines`); None for the first variant.
        equivalent_within: a difference, in the unit that the metrics are shown in, within which variants count as
            equivalent; None for no such test.
        planned: variants that may have no complete run yet. What is compared with one of them has no difference.

    Raises:
        UserError: if nobody has a metric, some variant has no baseline, or one margin is asked for in two units.
    """
    if equivalent_within is not None:
        _check_margin(equivalent_within, list(metrics))
    tables = [
        _table(
            results,
            metric,
            against=against,
            direction=direction,
            equivalent_within=equivalent_within,
            planned=planned,
        )
        for metric, direction in metrics.items()
    ]
    return _corrected(tables)


def _check_margin(margin: float, metrics: Sequence[str]) -> None:
    if not (math.isfinite(margin) and margin > 0):
        raise UserError(f"--equivalent-within {margin:g} must be more than 0, in the unit that the metric is shown in")
    if len({unit_of(metric) for metric in metrics}) > 1:
        raise UserError(
            f"--equivalent-within {margin:g} has one unit, but {', '.join(metrics)} are shown in several; "
            "compare those of one unit at a time"
        )


def _table(
    results: Sequence[Result],
    metric: str,
    *,
    against: str | None,
    direction: str,
    equivalent_within: float | None,
    planned: Collection[str],
) -> Comparison:
    """A table that is not yet corrected."""
    named = [(name, run) for name, runs in by_variant(results).items() for run in runs]
    measured = [run for run in results if is_usable(run.metrics.get(metric, math.nan))]
    if not measured:
        known = metric_choice(results)
        if metric in COSTS:
            raise UserError(f"--metric {metric} is a cost, which every table shows, and is not compared; {known}")
        what = "is finite" if any(metric in run.metrics for run in results) else "was measured"
        raise UserError(f"--metric {metric} {what} in no run; {known}")
    kept = {id(run) for run in measured}
    variants: dict[str, list[Result]] = {}
    for name, run in named:
        if id(run) in kept:
            variants.setdefault(name, []).append(run)
    values = {name: {run.seed: run.metrics[metric] for run in runs} for name, runs in variants.items()}
    against = next(iter(values)) if against is None else against
    try:
        wanted = baselines(against, list(dict.fromkeys([*values, *(name for name, _ in named), *planned])))
    except ValueError as error:
        raise UserError(f"--against {error}") from error
    chosen = {name: wanted[name] for name in values}
    grid = grid_of(metric, measured)
    margin = None if equivalent_within is None else equivalent_within / display_unit(metric).scale
    differences, groups = compare_groups(values, chosen, grid.step, margin)
    rows = []
    for name, own in values.items():
        shared = {seed: value for seed, value in own.items() if seed in values.get(chosen[name], ())} or own
        rows.append(
            ComparedVariant(
                variant=name,
                values=shared,
                estimate=estimate(list(shared.values()), grid.step),
                baseline=chosen[name],
                difference=differences.get(name),
                cost=_mean_cost(variants[name]),
            )
        )
    rows.sort(key=lambda row: row.estimate.mean, reverse=direction == "maximize")
    return Comparison(
        metric=metric,
        direction=direction,
        baseline=against if "*" in against else rows[0].baseline,
        rows=rows,
        warnings=[
            *warnings_of_runs(variants),
            *warnings_of_baselines(metric, chosen),
            *warnings_of_seeds(rows, values),
            *warnings_of_budgets(metric, rows, measured),
            *warnings_of_images(variants),
            *warnings_of_left_out(metric, named),
            *warnings_of_planned(planned, named),
        ],
        results=measured,
        grid=grid,
        groups=groups,
        margin=margin,
    )


def _corrected(tables: Sequence[Comparison]) -> list[Comparison]:
    """The tables with every kind of test corrected over all of them."""
    corrected: dict[str, Iterator[PValue]] = {}
    totals: dict[str, int] = {}
    for kind in KINDS:
        tests = [test for table in tables for row in table.rows if (test := _test(row, kind)) is not None]
        totals[kind] = count_tests(tests)
        corrected[kind] = iter(holm(tests))
    done = []
    for table in tables:
        rows = []
        for row in table.rows:
            found: dict[str, Any] = {kind: next(corrected[kind]) for kind in KINDS if _test(row, kind) is not None}
            difference = None if row.difference is None else replace(row.difference, **found)
            rows.append(replace(row, difference=difference))
        done.append(replace(table, rows=rows, tables=len(tables), tests=totals))
    return done


def _test(row: ComparedVariant, kind: str) -> PValue | None:
    return None if row.difference is None else getattr(row.difference, kind)


def by_variant(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The runs of each variant, by its `variant_name`.

    Args:
        results: the runs.
    """
    several = are_of_several(results)
    variants: dict[str, list[Result]] = {}
    for result in results:
        variants.setdefault(variant_name(result.source, result.variant, several=several), []).append(result)
    return variants


def variant_name(source: str, variant: str, *, several: bool) -> str:
    """What a table calls a variant: `study/variant` where its runs come from several studies."""
    return f"{source}/{variant}" if several else variant


def are_of_several(results: Sequence[Result]) -> bool:
    """Whether runs come from several studies."""
    return len({result.source for result in results}) > 1


def _mean_cost(results: Sequence[Result]) -> dict[str, float]:
    means = {}
    for name in COSTS:
        known = [cost for result in results if is_usable(cost := result.cost.get(name, math.nan))]
        if known:
            means[name] = sum(known) / len(known)
    return means
