"""Definitions of a small ablation and a small search."""

from __future__ import annotations

from studies.definition.ablation import Ablation
from studies.definition.search import Search

IDENTITY = {"kind": "ablation", "metric": "m", "direction": "maximize", "variants": {"a": "x", "b": "y"}}


def ablation(seeds: tuple[int, ...] = (0, 1)) -> Ablation:
    """Two variants of the quickstart."""
    return Ablation(base=["quickstart"], variants={"a": [], "b": []}, seeds=seeds, metric="m")


def search(**options: object) -> Search:
    """A search over where a ramp ends."""
    return Search(base=["quickstart"], space={"Ramp.end": "Float(0, 1)"}, metric="validation/m", **options)
