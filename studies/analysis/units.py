"""How a metric is shown to people."""

from __future__ import annotations

from dataclasses import dataclass

from hpm.evaluation import unit_of


@dataclass(frozen=True)
class DisplayUnit:
    """The unit of a metric in tables and figures.

    Args:
        scale: what its values are multiplied by.
        digits: how many decimals are shown.
        label: its name with its unit.
    """

    scale: float
    digits: int
    label: str


def display_unit(metric: str) -> DisplayUnit:
    """The unit that a metric is shown in, as the evaluation that gives it declares: accuracies in percent."""
    unit = unit_of(metric)
    return DisplayUnit(
        scale=unit.scale, digits=unit.digits, label=f"{metric}, {unit.symbol}" if unit.symbol else metric
    )
