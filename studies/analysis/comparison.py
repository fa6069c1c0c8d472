"""The comparison of variants: what each achieved, how far from the baseline, at what cost, and what to beware of."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from hpm.errors import UserError
from hpm.inference.evaluate import is_share
from studies.analysis.results import Result, metrics_of
from studies.analysis.statistics import Difference, Estimate, estimate, holm, paired
from studies.definition.baselines import baselines

ENOUGH_SEEDS = 5
COSTS = ("images", "training_seconds", "flops")


@dataclass(frozen=True)
class Row:
    """One variant.

    Args:
        variant: its name.
        values: of the metric, by seed.
        estimate: their mean.
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


@dataclass(frozen=True)
class Comparison:
    """A table of variants.

    Args:
        metric: what is compared.
        direction: "maximize" or "minimize".
        baseline: the variant that the others are compared with; with a star, one for each group.
        rows: the best mean first.
        warnings: what makes the comparison weaker than it style.
        results: the runs.
    """

    metric: str
    direction: str
    baseline: str
    rows: Sequence[Row]
    warnings: Sequence[str]
    results: Sequence[Result]

    @property
    def scale(self) -> float:
        """100 for accuracies, which are shown in percent."""
        return 100.0 if is_share(self.metric) else 1.0

    @property
    def digits(self) -> int:
        """Decimals that are shown: hundredths of a percent, and about as much of what is not an accuracy."""
        return 2 if is_share(self.metric) else 4

    @property
    def unit(self) -> str:
        """The metric's name and unit."""
        return f"{self.metric}, %" if is_share(self.metric) else self.metric


def compare(
    results: Sequence[Result], metric: str, *, against: str | None = None, direction: str = "maximize"
) -> Comparison:
    """Compare variants on the seeds they share.

    Args:
        results: complete runs, of one study or of several.
        metric: which.
        against: the baseline's name, or of several with a star (`baselines`); None for the first variant.
        direction: "maximize" or "minimize".

    Raises:
        UserError: if nobody has the metric, or some variant has no baseline.
    """
    measured = [result for result in results if metric in result.metrics]
    if not measured:
        known = ", ".join(metrics_of(results)) or "there are no complete runs"
        raise UserError(f"--metric {metric} was measured in no run; {known}")
    several = len({result.source for result in measured}) > 1
    values: dict[str, dict[int, float]] = {}
    for result in measured:
        values.setdefault(_name(result, several), {})[result.seed] = result.metrics[metric]
    against = next(iter(values)) if against is None else against
    try:
        chosen = baselines(against, values)
    except ValueError as error:
        raise UserError(f"--against {error}") from error
    differences = holm(
        {name: paired(found, values[chosen[name]]) for name, found in values.items() if name != chosen[name]}
    )
    rows = [
        Row(
            name,
            found,
            estimate(list(found.values())),
            chosen[name],
            differences.get(name),
            _mean_cost([result for result in measured if _name(result, several) == name]),
        )
        for name, found in values.items()
    ]
    rows.sort(key=lambda row: row.estimate.mean, reverse=direction == "maximize")
    warnings = _warnings(results, measured, rows, values, metric)
    baseline = against if "*" in against else rows[0].baseline
    return Comparison(metric, direction, baseline, rows, warnings, measured)


def _name(result: Result, several: bool) -> str:
    return f"{result.source}/{result.variant}" if several else result.variant


def _mean_cost(results: Sequence[Result]) -> dict[str, float]:
    means = {}
    for name in COSTS:
        known = [result.cost[name] for result in results if name in result.cost]
        if known:
            means[name] = sum(known) / len(known)
    return means


def _warnings(
    results: Sequence[Result],
    measured: Sequence[Result],
    rows: Sequence[Row],
    values: Mapping[str, Mapping[int, float]],
    metric: str,
) -> list[str]:
    """Whatever a careful reader would ask."""
    told = []
    several = len({result.source for result in measured}) > 1
    counts = Counter((_name(result, several), result.seed) for result in measured)
    if repeated := sorted({name for (name, _), count in counts.items() if count > 1}):
        told.append(f"several runs of one seed: {_listed(repeated)}; the last of each is used")
    configs: dict[str, set[str]] = {}
    for result in measured:
        configs.setdefault(_name(result, several), set()).add(result.config)
    if changed := [name for name, found in configs.items() if len(found) > 1]:
        told.append(f"the configuration changed between runs: {_listed(changed)}")
    few = [row.variant for row in rows if row.estimate.count < ENOUGH_SEEDS]
    if few:
        told.append(f"fewer than {ENOUGH_SEEDS} seeds: {_listed(few)}; intervals are wide, small effects are missed")
    unpaired = [row.variant for row in rows if set(row.values) != set(values[row.baseline])]
    if unpaired:
        told.append(f"other seeds than the baseline: {_listed(unpaired)}; differences use the seeds that both have")
    if len(measured) < len(results):
        told.append(f"{len(results) - len(measured)} of {len(results)} runs have no {metric} and are left out")
    budgets = {round(row.cost["images"]) for row in rows if "images" in row.cost}
    if len(budgets) > 1:
        told.append(f"budgets differ: variants were trained on {min(budgets):,} to {max(budgets):,} images")
    for what, found in (
        ("data", {r.data for r in measured}),
        ("devices", {r.device for r in measured}),
        ("source versions", {r.commit for r in measured}),
    ):
        if len(found) > 1:
            told.append(f"{what} differ: {', '.join(sorted(found))}")
    return told


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:8])} and {len(names) - 8} more"


# Shown


COLUMNS = ("variant", "seeds", "mean", "difference", "p (Holm)", "d_z", "images", "seconds", "FLOPs")


def cells(comparison: Comparison, row: Row) -> list[str]:
    """A row as a reader sees it."""
    difference, cost = row.difference, row.cost
    shown = [row.variant, str(row.estimate.count), _with_interval(comparison, row.estimate)]
    if row.variant == row.baseline:
        shown += ["baseline", "", ""]
    elif difference is None:
        shown += ["no common seed", "", ""]
    else:
        shown += [
            _with_interval(comparison, difference.estimate, "+"),
            "" if difference.corrected is None else _p(difference.corrected) + (" *" if difference.significant else ""),
            "" if difference.effect is None else f"{difference.effect:+.2f}",
        ]
    images, seconds, flops = (cost.get(name) for name in COSTS)
    return [
        *shown,
        "" if images is None else f"{images:,.0f}",
        "" if seconds is None else f"{seconds:,.0f}",
        "" if flops is None else f"{flops:.2e}",
    ]


def _with_interval(comparison: Comparison, found: Estimate, sign: str = "") -> str:
    scale, digits = comparison.scale, comparison.digits
    half = f" ± {scale * found.half:.{digits}f}" if math.isfinite(found.half) else ""
    return f"{scale * found.mean:{sign}.{digits}f}{half}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


FOOTNOTE = (
    "± is half a 95 % interval (Student's t). Differences are paired by seed; p by a two-sided paired t-test with "
    "Holm's correction over the table, * below 0.05; d_z is the mean difference over its standard deviation. FLOPs "
    "are counted, of the whole training."
)


def table(comparison: Comparison, width: int = 120) -> Table:
    """For a terminal of so many columns; a narrow one shows less."""
    hidden = {"images", "seconds"} if width < 115 else set()
    hidden |= {"FLOPs", "d_z"} if width < 95 else set()
    shown = Table(title=f"{comparison.unit}, against {comparison.baseline}", title_justify="left", title_style="bold")
    for number, column in enumerate(COLUMNS):
        if column not in hidden:
            shown.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    for row in comparison.rows:
        style = "bold" if row.difference is not None and row.difference.significant else ""
        kept = [cell for cell, column in zip(cells(comparison, row), COLUMNS, strict=True) if column not in hidden]
        shown.add_row(*kept, style=style)
    return shown


def markdown(comparison: Comparison) -> str:
    """For documents."""
    lines = [
        f"{comparison.unit}, against {comparison.baseline}",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "| --- |" + " ---: |" * (len(COLUMNS) - 1),
        *("| " + " | ".join(cell or " " for cell in cells(comparison, row)) + " |" for row in comparison.rows),
        "",
        FOOTNOTE,
        *(f"\nBeware: {warning}." for warning in comparison.warnings),
    ]
    return "\n".join(lines) + "\n"


def csv_text(comparison: Comparison) -> str:
    """Every run, for other tools: full precision, nothing scaled."""
    metrics = metrics_of(comparison.results)
    settings = sorted({name for result in comparison.results for name in result.setting})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "variant", "seed", "data", "device", "commit", *COSTS, *settings, *metrics])
    for result in comparison.results:
        writer.writerow(
            [
                result.source,
                result.variant,
                result.seed,
                result.data,
                result.device,
                result.commit,
                *(result.cost.get(name, "") for name in COSTS),
                *(result.setting.get(name, "") for name in settings),
                *(result.metrics.get(name, "") for name in metrics),
            ]
        )
    return text.getvalue()
