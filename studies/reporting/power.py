"""The answer of `hpm-study power` for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from hpm.runtime.console import print_table
from studies.analysis.power import MOST_SEEDS
from studies.analysis.seeds import Need, SeedPlan


def show_seeds(console: Console, plan: SeedPlan) -> None:
    """Print how many seeds are needed, and how sure that is.

    Args:
        console: where a person reads.
        plan: what to print.
    """
    unit = " points" if plan.comparison.unit.scale == 100 else ""
    several = len(plan.comparison.groups) > 1
    table = Table(
        title=f"seeds to find {plan.effect:g}{unit} of {plan.comparison.metric}",
        title_justify="left",
        title_style="bold",
    )
    for number, column in enumerate(
        ["baseline", "test", f"sd of a difference{unit and ',' + unit}", "95 % interval", "seeds", "at its ends"]
    ):
        if number or several:
            table.add_column(column, justify="left" if number < 2 else "right")
    for need in plan.needs:
        table.add_row(*_cells(plan, need)[0 if several else 1 :])
    print_table(console, table)
    smallest = min(group.pairs for group in plan.comparison.groups if group.has_spread)
    console.print(
        f"{plan.variants} variants, power {plan.power:.0%}, level {plan.level:.2g}, which is 0.05 over the number of "
        f"tests, the strictest of Holm's. The spread is known from {smallest} seeds only as well as its interval says, "
        "if errors are about normal; other variants, data or lengths of training may scatter otherwise.",
    )


def _cells(plan: SeedPlan, need: Need) -> list[str]:
    scale, digits = plan.comparison.unit.scale, plan.comparison.unit.digits
    low, high = (f"{scale * end:.{digits}f}" for end in need.interval)
    ends = " to ".join(map(_count, need.seeds_of_interval))
    deviation = f"{scale * need.deviation:.{digits}f}"
    return [need.baseline, need.test, deviation, f"{low} to {high}", _count(need.seeds), ends]


def _count(seeds: int | None) -> str:
    return f"> {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"
