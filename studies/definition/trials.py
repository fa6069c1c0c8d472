"""The trials of a study: which of them count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from studies.definition.base import Definition

_NOT_FAILED = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)


def trials_not_failed(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study that wait, run, or have ended well."""
    return study.get_trials(deepcopy=False, states=_NOT_FAILED)


def root_number(trial: FrozenTrial) -> int:
    """The trial's number, or that of the first trial which it tries again."""
    history: Sequence[int] = trial.system_attrs.get("retry_history", [])
    return history[0] if history else trial.number


def failed_trials(study: optuna.Study, definition: Definition) -> list[FrozenTrial]:
    """The trials that are asked for, failed, and were not tried again since."""
    trials = study.get_trials(deepcopy=False)
    retried = {number for trial in trials for number in trial.system_attrs.get("retry_history", [])}
    last = {definition.cell_of(trial): trial for trial in trials if trial.number not in retried}
    return [trial for trial in last.values() if trial.state == TrialState.FAIL and definition.asks_for(trial)]
