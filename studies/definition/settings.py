"""The settings of a search: the points of its space. Runs are deterministic, so one setting's figures are had once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from optuna.trial import FrozenTrial

from studies.definition.space import Assignment, Parameter, Value

REPEATS = "repeats"
"""The user attribute of a trial that has another's setting and outcome: that one's number, or the number of the first
that it tries again."""


def is_repeat(trial: FrozenTrial) -> bool:
    """Whether a trial has another's setting, and trains nothing itself."""
    return trial.user_attrs.get(REPEATS) is not None


def points(space: Mapping[str, Parameter]) -> Iterator[Assignment] | None:
    """All points of a space; None where there is no end of them."""
    if any(parameter.values() is None for parameter in space.values()):
        return None

    def extend(assignment: Assignment, names: Sequence[str]) -> Iterator[Assignment]:
        if not names:
            yield assignment
            return
        name, *others = names
        if not space[name].applies(assignment):
            yield from extend(assignment, others)
            return
        for value in space[name].values() or ():
            yield from extend({**assignment, name: value}, others)

    return extend({}, list(space))


def setting_key(assignment: Mapping[str, Value]) -> frozenset[tuple[str, Value]]:
    """What two assignments have in common that bind the same, whatever their order and a sampler's rounding."""
    return frozenset(
        (name, float(f"{value:.12g}") if isinstance(value, float) else value) for name, value in assignment.items()
    )
