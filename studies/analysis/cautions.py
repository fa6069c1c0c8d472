"""Whatever a careful reader would ask of a comparison: warnings, one sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from studies.analysis.results import Result, is_usable

if TYPE_CHECKING:
    from studies.analysis.comparison import ComparedVariant

ENOUGH_SEEDS = 5
_MOST_LISTED = 8  # names in a warning


def warnings_of_left_out(metric: str, named: Sequence[tuple[str, Result]]) -> list[str]:
    """Runs that have not measured the metric, or found a number that is none.

    Args:
        metric: its name.
        named: all runs, with the names of their variants.
    """
    without = [_run(name, run) for name, run in named if metric not in run.metrics]
    broken = [_run(name, run) for name, run in named if not is_usable(run.metrics.get(metric, 0.0))]
    lines = []
    if without:
        lines.append(f"{len(without)} of {len(named)} runs have no {metric} and are left out: {_listed(without)}")
    if broken:
        lines.append(f"{metric} is not finite, or is beyond 1e50, in {_listed(broken)}; left out")
    return lines


def warnings_of_planned(planned: Collection[str], named: Sequence[tuple[str, Result]]) -> list[str]:
    """Variants of which no run is complete: they failed, or are still to be trained.

    Args:
        planned: all variants.
        named: all complete runs, with the names of their variants.
    """
    there = {name for name, _ in named}
    without = [name for name in dict.fromkeys(planned) if name not in there]
    return [f"no run is complete yet of {_listed(without)}"] if without else []


def warnings_of_runs(variants: Mapping[str, Sequence[Result]]) -> list[str]:
    """Runs of one variant that are not what they should be.

    Args:
        variants: the runs of each.
    """
    lines = []
    named = [(name, run) for name, runs in variants.items() for run in runs]
    counts = Counter((name, run.seed) for name, run in named)
    if repeated := sorted({name for (name, _), count in counts.items() if count > 1}):
        lines.append(f"several runs of one seed: {_listed(repeated)}; the last of each is used")
    if changed := [name for name, runs in variants.items() if len({run.config for run in runs} - {""}) > 1]:
        lines.append(f"the configuration changed between runs: {_listed(changed)}")
    if skipped := describe_skipped((name, run.seed, run.skipped_steps) for name, run in named):
        lines.append(skipped)
    return lines


def describe_skipped(runs: Iterable[tuple[str, int, int | None]]) -> str:
    """A sentence that names the runs which have skipped steps; "" where none has.

    Args:
        runs: the variant, the seed and the number of skipped steps of each, None where that is not known.
    """
    skipped = [f"{variant} seed {seed} ({count:,})" for variant, seed, count in runs if count]
    return f"steps were skipped, since their gradient was not finite: {_listed(skipped)}" if skipped else ""


def warnings_of_images(variants: Mapping[str, Sequence[Result]]) -> list[str]:
    """Different images of one source.

    Args:
        variants: the runs of each.
    """
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name, runs in variants.items():
        for run in runs:
            for split, fingerprint in run.fingerprints.items():
                found.setdefault((run.data, split), {}).setdefault(fingerprint, []).append(_run(name, run))
    return [
        f"{split} images of {data} differ: "
        + "; ".join(f"{fingerprint} in {_listed(runs)}" for fingerprint, runs in by_fingerprint.items())
        for (data, split), by_fingerprint in found.items()
        if len(by_fingerprint) > 1
    ]


def warnings_of_baselines(metric: str, baselines: Mapping[str, str]) -> list[str]:
    """Baselines without a run that has the metric, and what is compared with them.

    Args:
        metric: its name.
        baselines: the baseline of each variant that has one.
    """
    without: dict[str, list[str]] = {}
    for name, baseline in baselines.items():
        if baseline not in baselines:
            without.setdefault(baseline, []).append(name)
    return [
        f"no complete run of the baseline {baseline} has {metric} yet, so there is no difference of {_listed(names)}"
        for baseline, names in without.items()
    ]


def warnings_of_seeds(rows: Sequence[ComparedVariant], values: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Too few seeds, and seeds that are not shared.

    Args:
        rows: the table's.
        values: of each variant, by seed, also of those that its row leaves out.
    """
    lines = []
    rows = sorted(rows, key=lambda row: list(values).index(row.variant))  # the same order in every table of a report
    if few := [row.variant for row in rows if row.estimate.count < ENOUGH_SEEDS]:
        lines.append(f"fewer than {ENOUGH_SEEDS} seeds: {_listed(few)}; intervals are wide, small effects are missed")
    rows = [row for row in rows if row.baseline in values]
    if unpaired := [row.variant for row in rows if not row.values.keys() & values[row.baseline].keys()]:
        lines.append(f"no seed of the baseline: {_listed(unpaired)}; means are over other seeds, nothing is tested")
    left_out = [f"{row.variant} seed {seed}" for row in rows for seed in values[row.variant] if seed not in row.values]
    if left_out:
        lines.append(f"left out of mean and difference, since the baseline has no such seed: {_listed(left_out)}")
    lacking = [
        f"{row.variant} seed {seed}"
        for row in rows
        if row.variant not in unpaired
        for seed in values[row.baseline]
        if seed not in row.values
    ]
    if lacking:
        lines.append(
            f"seeds that the baseline has and a variant lacks: {_listed(lacking)}; the variant's difference is over "
            "the seeds that both have, the baseline's mean over all of its own"
        )
    return lines


def warnings_of_budgets(metric: str, rows: Sequence[ComparedVariant], measured: Sequence[Result]) -> list[str]:
    """Costs, data, devices or sources that differ.

    Args:
        metric: the table's.
        rows: likewise.
        measured: the runs behind it.
    """
    lines = []
    scored = {run.scored_images[metric] for run in measured if metric in run.scored_images}
    if len(scored) > 1:
        lines.append(f"{metric} is a share of {min(scored):,} images in some runs and of {max(scored):,} in others")
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


def distinct_warnings(tables: Sequence[Sequence[str]]) -> Iterator[str]:
    """The warnings of several tables, each once, for a page that shows all of them.

    Args:
        tables: the warnings of each.
    """
    yield from dict.fromkeys(line for lines in tables for line in lines)


def _run(name: str, run: Result) -> str:
    return f"{name} seed {run.seed}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_LISTED])} and {len(names) - _MOST_LISTED} more"
