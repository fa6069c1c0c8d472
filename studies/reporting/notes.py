"""What stands under a table: what its variants say together, what it could have found, and how to read it."""

from __future__ import annotations

from collections.abc import Sequence

from studies.analysis.cautions import ENOUGH_SEEDS
from studies.analysis.comparison import KINDS, Comparison
from studies.analysis.groups import Group
from studies.analysis.statistics import FEWEST_PAIRS, LEVEL


def notes(comparison: Comparison) -> list[str]:
    """Sentences under one table: omnibus tests, the least detectable effect, and the metric's steps."""
    several = len(comparison.groups) > 1
    lines = [_omnibus(group, several) for group in comparison.groups if len(group.variants) > 1]
    lines += _detectable(comparison)
    step = comparison.unit.scale * comparison.grid.step
    if any(
        test.missing and test.counts
        for row in comparison.rows
        if row.difference is not None
        for test in (row.difference.paired, row.difference.blocked)
    ):
        lines.append(f"The metric moves in steps of {step:.2g} ({comparison.grid.source}).")
    return lines


def _omnibus(group: Group, several: bool) -> str:
    of = f" as {group.baseline}" if several else ""
    left_out = f" Left out, with fewer than {FEWEST_PAIRS} shared seeds: {', '.join(group.left_out)}."
    test = group.omnibus
    if test is None:
        return f"Are all variants equal{of}? Not tested: they scatter too little." + (
            left_out if group.left_out else ""
        )
    empty = (
        f"; {test.missing_runs} of {(len(group.variants) + 1) * test.seeds} runs are missing, fitted by least squares"
        if test.missing_runs
        else ""
    )
    p = f"{test.p:.4f}" if test.p >= 0.0001 else f"{test.p:.1e}"
    return (
        f"Are all {len(group.variants) + 1} variants equal{of}? F({test.between}, {test.within}) = {test.f:.2f}, "
        f"Box's epsilon {test.epsilon:.2f}, p = {p} ({test.seeds} seeds as blocks{empty})."
    ) + (left_out if group.left_out else "")


def _detectable(comparison: Comparison) -> list[str]:
    """What each group's design would have found."""
    groups = [group for group in comparison.groups if group.has_spread]
    if not groups:
        why = f"a variant needs {FEWEST_PAIRS} seeds that its baseline has, and differences that scatter"
        return [f"Least detectable effect: not known; {why}."]
    scale, digits = comparison.unit.scale, comparison.unit.digits
    parts = []
    for group in groups:
        least = group.least_detectable(comparison.tests)
        of = f"{group.baseline}: " if len(comparison.groups) > 1 else ""
        blocked, paired = (f"{scale * least[kind]:.{digits}f}" for kind in ("blocked", "paired"))
        # Of two variants both tests are one.
        parts.append(of + (blocked if blocked == paired else f"{blocked} (blocked test), {paired} (paired test)"))
    unit = " in points" if scale == 100 else ""
    seeds = sorted({group.pairs for group in groups})
    with_seeds = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    few = any(group.pairs < ENOUGH_SEEDS and len(group.variants) > 1 for group in groups)
    return [
        f"Least detectable effect{unit}: {'; '.join(parts)}: a true difference of so much is found with 80 % power by "
        f"{with_seeds} seeds of this spread, at {LEVEL:g}/{comparison.tests['blocked']}, the strictest corrected level."
        + (f" With fewer than {ENOUGH_SEEDS} seeds the blocked test's power there is nearer 70 %." if few else "")
    ]


def footnote(comparisons: Sequence[Comparison]) -> str:
    """How to read the tables of a report, once for all of them.

    Args:
        comparisons: all tables, at least one.
    """
    first = comparisons[0]
    blocked, paired, equivalent = (first.tests[kind] for kind in KINDS)
    many = _tests(blocked) if blocked == paired else f"{blocked} blocked and {_tests(paired, 'paired')}"
    tables = "the table" if first.tables == 1 else f"all {first.tables} tables"
    corrected = (
        f"with Holm's correction over {many} of {tables}" if blocked or paired else "but neither could be made here"
    )
    within = (
        ""
        if first.margin is None
        else (
            " 'within' is the p of two one-sided tests with the blocked test's variance that the true difference is no "
            f"larger than that, Holm's over {equivalent}: below 0.05, equivalence is shown."
        )
    )
    return (
        "± is half a 95 % interval (Student's t), not corrected. Means and differences are over the seeds that a "
        "variant shares with its baseline. 'p blocked' is a contrast in the two-way layout of variants and seeds, with "
        "the pooled variance or, where it is larger, the contrast's own; it decides: * below 0.05. 'p paired' is a "
        "paired t-test, which with few seeds can rest on a variance that is small by luck. Both are two-sided, "
        f"{corrected}; the omnibus test is not corrected.{within} A p in parentheses is "
        f"missing, and why: fewer than {FEWEST_PAIRS} pairs, or a standard deviation below the steps in which the "
        "metric moves. d_z is the mean difference over its standard deviation. FLOPs are counted, of the whole "
        "training."
    )


def _tests(count: int, kind: str = "") -> str:
    return f"{count}{kind and ' ' + kind} test{'' if count == 1 else 's'}"
