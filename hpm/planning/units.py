"""Numbers of a plan as people read them."""

from __future__ import annotations


def units(value: float) -> str:
    """Three digits or so, and the prefix of a unit: 14.95 G."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000 or prefix == "P":
            break
        value /= 1000
    return f"{value:.4g} {prefix}"


def duration(hours: float) -> str:
    """Hours for people: "2.5 hours", or seconds, minutes or days."""
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} seconds"
    if hours < 1:
        return f"{hours * 60:.2g} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
