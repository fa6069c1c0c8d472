"""What the rows of a study and its variants show in MLflow, made from Optuna's storage.

A row has the final figures under the names that runs log them by, as means over finished seeds, so that rows share
columns and charts; half of the 95 % interval beside each, under `interval/`; costs under `cost/`; and counts under
`study/`.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpm.metrics import half_interval
from studies.analysis.results import RESULTS
from studies.definition.base import Definition
from studies.definition.settings import is_repeat
from studies.definition.trials import failed_trials

KeptResult = Mapping[str, Any]


def kept_results(study: optuna.Study, definition: Definition) -> dict[str, list[KeptResult]]:
    """The finished runs of complete trials, by variant."""
    found: dict[str, list[KeptResult]] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        if not is_repeat(trial):  # others have a copy
            found.setdefault(definition.variant_of(trial), []).extend(trial.user_attrs.get(RESULTS, []))
    return {variant: results for variant, results in found.items() if results}


def cost_metrics(result: KeptResult) -> dict[str, float]:
    """What a run has cost, as its row shows it."""
    return {f"cost/{name}": value for name, value in result["cost"].items()}


def mean_metrics(results: Sequence[KeptResult]) -> dict[str, float]:
    """Means over runs, and half of each interval where there are several runs."""
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in {**result["metrics"], **cost_metrics(result)}.items():
            values.setdefault(name, []).append(value)
    shown = {name: statistics.fmean(found) for name, found in values.items()}
    return shown | {f"interval/{name}": half_interval(found) for name, found in values.items() if len(found) > 1}


def variant_metrics(study: optuna.Study, definition: Definition, variant: str) -> dict[str, float]:
    """The row of a variant. One that was pruned has counts alone, for its figures are of fewer steps or seeds."""
    results = kept_results(study, definition).get(variant, [])
    failed = [trial for trial in failed_trials(study, definition) if definition.variant_of(trial) == variant]
    partial = [result for trial in failed for result in trial.user_attrs.get(RESULTS, [])]
    counts = {"study/seeds": len(results or partial), "study/failed_runs": len(failed)}
    return mean_metrics(results or partial) | counts


def study_metrics(study: optuna.Study, definition: Definition) -> tuple[dict[str, float], str]:
    """The row of a study: its counts, and the figures of the variant that stands for it.

    Returns:
        The metrics, and in words whose figures they are.
    """
    kept = kept_results(study, definition)
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    counts: dict[str, float] = {
        "study/variants": len(kept),
        "study/seeds": max(map(len, kept.values()), default=0),
        "study/finished_runs": sum(map(len, kept.values())),
        "study/failed_runs": len(failed_trials(study, definition)),
        "study/pruned_trials": sum(not is_repeat(trial) for trial in pruned),
    }
    values = {
        variant: [result["metrics"][definition.metric] for result in results if definition.metric in result["metrics"]]
        for variant, results in kept.items()
    }
    headline = definition.headline(study, values)
    if headline is None:
        return counts, "none: counts alone"
    return mean_metrics(kept[headline.variant]) | counts, f"{headline.variant}, {headline.why}"


def variant_note(definition: Definition, variant: str, trial: FrozenTrial | None) -> str:
    """What a variant is, in Markdown."""
    base = ", ".join(f"`{name}`" for name in definition.base)
    changes = definition.changes_of(variant, trial)
    if not changes:
        return f"The base as it is: {base}. Figures are means over finished seeds; its runs lie under it."
    lines = "\n".join(f"- `{item}`" for item in changes)
    return f"Over {base}:\n\n{lines}\n\nFigures are means over finished seeds; its runs lie under it."


def study_note(table: str, figures: Sequence[str], run_id: str) -> str:
    """The results of a study, in Markdown.

    Args:
        table: its Markdown table; empty before there is one.
        figures: artifacts of its run that show it.
        run_id: its run.
    """
    if not table:
        return ""
    pictures = "\n\n".join(f"![{name}](get-artifact?path={quote(name, safe='')}&run_uuid={run_id})" for name in figures)
    return f"{pictures}\n\n{table}"
