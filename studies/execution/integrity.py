"""Whether a database holds a study as Optuna and this project write one, so that whoever reads it need not ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError

from hpm.errors import UserError
from hpm.runs.content import require_content
from hpm.tracking.redact import without_password
from studies.analysis.results import RESULTS
from studies.definition.identity import IDENTITY, identity_of
from studies.definition.trials import root_number

if TYPE_CHECKING:
    from studies.definition.base import Definition

_OF_STUDY: dict[str, Any] = {
    "kind": Literal["ablation", "search"],
    "metric": str,
    "direction": Literal["maximize", "minimize"],
    "baseline": str | None,
    "variants": dict[str, str],
    "space": dict[str, str],
    "cost": str | None,
    "seeds": list[int],
    "config": str,
}
_OF_TRIAL: dict[str, Any] = {
    "variant": str,
    "run_seed": int,
    "repeats": int | None,
    "trains": bool,
    "worker": str,
    "error": str,
    RESULTS: list[dict[str, Any]],
}
_BY_OPTUNA: dict[str, Any] = {"retry_history": list[int], "fixed_params": dict[str, Any]}
_OF_RUN: dict[str, Any] = {
    "variant": str,
    "seed": int,
    "metrics": dict[str, float],
    "cost": dict[str, float],
    "data": str,
    "device": str,
    "commit": str,
    "folder": str,
}
_ALSO_OF_RUN: dict[str, Any] = {
    "config": str,
    "scored_images": dict[str, int],
    "skipped_steps": int | None,
    "fingerprints": dict[str, str],
}


def load_whole_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study that exists, and look at all that is kept of it.

    Raises:
        KeyError: if there is none of that name.
        UserError: if it is damaged, naming study, storage and what is wrong.
        Exception: what a storage raises that does not answer.
    """
    storage.get_study_id_from_name(name)
    where = f"study {name!r} of --storage {without_password(storage.url)}"
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        _check_study(study, where)
        for trial in study.get_trials(deepcopy=False):
            _check_trial(trial, f"{where}, trial {trial.number},", of_ours=bool(identity_of(study)))
    except UserError:
        raise
    except Exception as error:  # whatever Optuna does not expect to find
        if isinstance(error.__cause__ or error, OperationalError | InterfaceError):
            raise
        raise UserError(f"{where} is damaged: {_reason(error)}") from error
    return study


def check_plans(study: optuna.Study, definition: Definition) -> None:
    """Refuse a study whose finished trials have other parameters than its definition gives them.

    Raises:
        UserError: naming the trial.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        try:
            definition.plan(optuna.trial.FixedTrial(trial.params), root_number(trial))
        except (ValueError, KeyError) as error:
            raise UserError(
                f"study {study.study_name!r}, trial {trial.number}, is damaged: {_reason(error)}"
            ) from error


def _check_study(study: optuna.Study, where: str) -> None:
    require_content(study.user_attrs, where, {}, {IDENTITY: dict[str, Any], "key": str})
    require_content(identity_of(study), where, {}, _OF_STUDY)
    objectives, names = len(study.directions), study.metric_names
    if not objectives or (names is not None and len(names) != objectives):
        raise UserError(f"{where} is damaged: it has {objectives} directions and the metrics {names}")
    trials = study.get_trials(deepcopy=False)
    if [trial.number for trial in trials] != list(range(len(trials))):
        raise UserError(f"{where} is damaged: its trials are not numbered from 0 on")
    for trial in trials:
        if trial.state == TrialState.COMPLETE and len(trial.values or ()) != objectives:
            raise UserError(f"{where}, trial {trial.number}, is damaged: it is complete, and lacks a value")


def _check_trial(trial: FrozenTrial, where: str, *, of_ours: bool) -> None:
    require_content(trial.user_attrs, where, {}, _OF_TRIAL if of_ours else {RESULTS: _OF_TRIAL[RESULTS]})
    require_content(trial.system_attrs, where, {}, _BY_OPTUNA)
    numbers = {"values": trial.values, "intermediate values": trial.intermediate_values}
    require_content(numbers, where, {"values": list[float] | None, "intermediate values": dict[int, float]})
    for run in trial.user_attrs.get(RESULTS, []):
        require_content(run, where, _OF_RUN, _ALSO_OF_RUN)


def _reason(error: Exception) -> str:
    lines = str(error.__cause__ or error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
