"""Repeats: a sampler may propose a setting that the study knows already. Runs are deterministic and would end with the
same bits, so what came of the setting the first time is the outcome of the repeat as well.
"""

from __future__ import annotations

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from studies.definition.base import Definition
from studies.definition.settings import REPEATS, is_repeat, setting_key
from studies.definition.trials import root_number
from studies.execution.storage import exclusively

_TRAINS = "trains"  # user attribute of a trial that trains its setting, or has trained it


def settle(study: optuna.Study, storage: RDBStorage, definition: Definition, trial: optuna.Trial) -> FrozenTrial | None:
    """Decide whether a trial trains its setting; it does unless another trial has done so, or does so now.

    The first time that a trial turns out to be a repeat, what is to be tried in its place is enqueued.

    Returns:
        The other trial; None where this one trains.
    """
    with exclusively(storage):
        own = storage.get_trial(trial._trial_id)
        other = _known(study, own)
        if other is None:
            storage.set_trial_user_attr(trial._trial_id, REPEATS, None)
            storage.set_trial_user_attr(trial._trial_id, _TRAINS, True)
        elif not is_repeat(own):
            storage.set_trial_user_attr(trial._trial_id, REPEATS, root_number(other))
            if (instead := definition.in_place_of(study, own)) is not None:
                study.enqueue_trial(dict(instead.parameters), user_attrs=dict(instead.attributes))
        return other


def waits_for_another(study: optuna.Study, waiting: FrozenTrial) -> bool:
    """Whether a trial of the queue repeats one whose outcome is not known yet."""
    other = _known(study, waiting) if is_repeat(waiting) else None
    return other is not None and not other.state.is_finished()


def _known(study: optuna.Study, trial: FrozenTrial) -> FrozenTrial | None:
    """The trial that trained a trial's setting, or trains it; one that failed is no obstacle to trying again."""
    setting = setting_key(trial.params)
    for other in study.get_trials(deepcopy=False):
        known = other.state in (TrialState.COMPLETE, TrialState.PRUNED)
        at_work = other.state in (TrialState.RUNNING, TrialState.WAITING) and other.user_attrs.get(_TRAINS, False)
        own = other.number != trial.number and not is_repeat(other)
        if own and (known or at_work) and setting_key(other.params) == setting:
            return other
    return None
