"""The settings of a search: the points of its space. Runs are deterministic, so one setting's figures are had once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from studies.definition.space import Assignment, Parameter, Value

REPEATS = "repeats"
"""The user attribute of a trial that has another's setting and outcome: that one's number, or the number of the first
that it tries again."""


def is_repeat(trial: FrozenTrial) -> bool:
    """Whether a trial has another's setting, and trains nothing itself."""
    return trial.user_attrs.get(REPEATS) is not None


def best_of(study: optuna.Study) -> list[FrozenTrial]:
    """The best complete trial of a search, or its Pareto front by the last objective; none before one is complete.

    What was pruned has no figure that compares with theirs, and is never among them.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        return []
    best = study.best_trials if len(study.directions) > 1 else [study.best_trial]
    first = {setting_key(trial.params): trial for trial in trials if not is_repeat(trial)}
    own = [first[setting_key(trial.params)] if is_repeat(trial) else trial for trial in best]
    return sorted({trial.number: trial for trial in own}.values(), key=lambda trial: trial.values[-1])


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
