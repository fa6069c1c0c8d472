"""Which tests of a conformance suite a part fails."""

from __future__ import annotations

from typing import Any

from curriculum.testing import (
    DifficultyConformance,
    SamplerConformance,
    SchedulerConformance,
)

Suite = SchedulerConformance | DifficultyConformance | SamplerConformance


def failures(suite: type[Suite], plugin: type, **attributes: Any) -> set[str]:
    """The tests of a suite, for a plugin without arguments, that fail."""

    class Case(suite):  # type: ignore[valid-type, misc]
        def build(self) -> Any:
            return plugin()

    for name, value in attributes.items():
        setattr(Case, name, value)
    failed = set()
    for name in dir(Case):
        if name.startswith("test_"):
            try:
                getattr(Case(), name)()
            except Exception:
                failed.add(name)
    return failed
