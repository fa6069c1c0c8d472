"""How a metric is shown to people."""

from __future__ import annotations

from dataclasses import dataclass

from hpm.inference.evaluate import is_share


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
    """The unit that a metric is shown in: accuracies in percent, other metrics as they are."""
    if is_share(metric):
        return DisplayUnit(scale=100.0, digits=2, label=f"{metric}, %")
    return DisplayUnit(scale=1.0, digits=4, label=metric)
