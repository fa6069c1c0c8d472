"""The trials of a search as a table with a column for each parameter, and its best setting in words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hpm.metrics import unit_of
from hpm.runtime.console import print_table
from studies.definition.settings import best_of, is_repeat
from studies.definition.space import binding

_ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)
_NAMES = {TrialState.FAIL: "failed"}  # others are called as Optuna calls them


@dataclass(frozen=True)
class TrialTable:
    """The trials of a search, the best first; what was pruned, failed or goes on stands below, without a figure.

    Args:
        objectives: what trials are judged by.
        parameters: what is searched.
        trials: in the order of the table; those that repeat another's setting are left out.
        best: the numbers of the best one, or of the Pareto front.
    """

    objectives: Sequence[str]
    parameters: Sequence[str]
    trials: Sequence[FrozenTrial]
    best: frozenset[int]

    @property
    def columns(self) -> list[str]:
        """The headings."""
        return ["trial", "state", *self.parameters, *self.objectives]

    def cells(self, trial: FrozenTrial) -> list[str]:
        """A row as a reader sees it: a text for each of `columns`."""
        values = trial.values if trial.state == TrialState.COMPLETE else [None] * len(self.objectives)
        return [
            str(trial.number),
            ("best" if len(self.best) == 1 else "front") if trial.number in self.best else _state(trial),
            *(_shown(trial.params[name]) if name in trial.params else "" for name in self.parameters),
            *(
                "" if value is None else readable(name, value)
                for name, value in zip(self.objectives, values, strict=True)
            ),
        ]

    def rows(self) -> list[list[str]]:
        """The cells of all trials."""
        return [self.cells(trial) for trial in self.trials]


def trial_table(study: optuna.Study, metric: str) -> TrialTable:
    """The table of a search.

    Args:
        study: the search.
        metric: its first objective.
    """
    names = study.metric_names or [metric, "cost"][: len(study.directions)]
    best = best_of(study)
    own = [trial for trial in study.get_trials(deepcopy=False) if not is_repeat(trial)]
    parameters = list(dict.fromkeys(name for trial in own for name in trial.params))
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    front = [trial.number for trial in best]

    def place(trial: FrozenTrial) -> tuple[float, ...]:
        complete = trial.state == TrialState.COMPLETE
        in_front = front.index(trial.number) if trial.number in front else len(front)
        return _ORDER.index(trial.state), in_front, sign * trial.values[0] if complete else 0.0, trial.number

    return TrialTable(names, parameters, sorted(own, key=place), frozenset(front))


def best_sentences(study: optuna.Study, metric: str) -> list[str]:
    """The best setting in words and as bindings, or each of a Pareto front; none before a trial is complete.

    Args:
        study: the search.
        metric: its first objective.
    """
    table = trial_table(study, metric)
    complete = sum(trial.state == TrialState.COMPLETE for trial in table.trials)
    lines = []
    for trial in table.trials:
        if trial.number not in table.best:
            continue
        setting = [f"{name} is {_shown(value)}" for name, value in trial.params.items()]
        values = " and ".join(
            f"{name} {readable(name, value)}" for name, value in zip(table.objectives, trial.values, strict=True)
        )
        what = f"best setting, of {complete} complete trials" if len(table.best) == 1 else "on the Pareto front"
        bindings = " ".join(f"-b {_quoted(binding(name, value))}" for name, value in trial.params.items())
        lines += [f"{what}: trial {trial.number}, {values}; {_listed(setting)}", f"as bindings: {bindings}"]
    return lines


def show_trials(console: Console, table: TrialTable, *, most: int | None = None) -> None:
    """Print the table.

    Args:
        console: where a person reads.
        table: what to print.
        most: how many trials are shown, of the best; None for all.
    """
    shown = Table(title="trials", title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column, overflow="fold", justify="left" if number < 2 else "right")
    for trial in table.trials[:most]:
        shown.add_row(*table.cells(trial), style="bold" if trial.number in table.best else "")
    print_table(console, shown)
    if most is not None and (others := len(table.trials) - most) > 0:
        console.print(f"{others} more trials, worse, pruned or failed, stand in the report")


def readable(name: str, value: float) -> str:
    """The value of an objective as people read it; costs are large numbers."""
    return f"{value:.3g}" if name in ("flops", "training_seconds", "cost") else unit_of(name).readable(value)


def _quoted(text: str) -> str:
    """A word of a shell's: a binding of a string has single quotes, and is read more easily in double ones."""
    return f'"{text}"' if "'" in text and not set(text) & set('"$`\\!') else shlex.quote(text)


def _state(trial: FrozenTrial) -> str:
    name = _NAMES.get(trial.state, trial.state.name.lower())
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return f"{name} after step {max(trial.intermediate_values)}"
    return name


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + f" and {items[-1]}" if len(items) > 1 else "".join(items)
