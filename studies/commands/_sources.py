"""Where results come from that a command is given by name: studies, experiments of MLflow, and CSV files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpm.errors import Notice, UserError
from hpm.runtime.files import expanded

if TYPE_CHECKING:
    import optuna

    from studies.analysis.results import Result


@dataclass(frozen=True)
class Sources:
    """Complete runs by the names they were asked for.

    Args:
        results: of all names.
        studies: those of the names that are studies of the storage.
        identity: what the first name that has complete runs was started with, as `Definition.check` gave it; empty
            where it is no study.
        first: that name's source, as results call it.
    """

    results: Sequence[Result]
    studies: Mapping[str, optuna.Study]
    identity: Mapping[str, Any] = field(default_factory=dict)
    first: str = ""

    def metrics(self, asked: Sequence[str], direction: str | None) -> dict[str, str]:
        """The direction of each metric that is asked for; without any, the first study's own metric.

        Args:
            asked: names of metrics.
            direction: of all; None for the study's own or, of another metric, what its evaluation declares.

        Raises:
            UserError: where nothing says which metric.
        """
        from hpm.metrics import find_metric
        from studies.analysis.results import metric_choice

        own = self.identity.get("metric")
        names = list(dict.fromkeys(asked)) or ([own] if own else [])
        if not names:
            raise UserError(f"--metric is needed where no study says which; {metric_choice(self.results)}")
        directions = {}
        for name in names:
            declared = find_metric(name)
            falls = declared is not None and declared.higher_is_better is False
            usual = self.identity.get("direction", "maximize") if name == own else "minimize" if falls else "maximize"
            directions[name] = direction or usual
        return directions

    def baseline(self, against: str | None) -> str | None:
        """The baseline that is asked for, else the first study's.

        Args:
            against: what was asked for; None for nothing.
        """
        from studies.analysis.comparison import are_of_several, variant_name

        own = self.identity.get("baseline")
        if against is not None or own is None:
            return against
        return own if "*" in own else variant_name(self.first, own, several=are_of_several(self.results))

    def planned(self) -> list[str]:
        """All variants of the studies, as tables name them, also those without complete runs."""
        from studies.analysis.comparison import are_of_several, variant_name
        from studies.definition.identity import identity_of

        several = are_of_several(self.results)
        return [
            variant_name(study.study_name, variant, several=several)
            for study in self.studies.values()
            for variant in identity_of(study).get("variants", ())
        ]


def load_sources(names: Sequence[str], url: str) -> Sources:
    """The complete runs of studies, experiments of MLflow, and CSV files. A notice names those without any.

    Args:
        names: of each; a name that ends in .csv is a file.
        url: of the studies' storage.

    Raises:
        UserError: for a name that is none of the three, where no run of any is complete, or two have the same run.
    """
    from hpm.tracking.mlflow import MLflowTracker
    from studies.analysis.results import experiment_results, study_results
    from studies.analysis.results_csv import csv_results
    from studies.definition.identity import identity_of

    studies = _load_studies([name for name in names if not name.endswith(".csv")], url)
    found: dict[str, list[Result]] = {}
    for name in dict.fromkeys(names):
        if name.endswith(".csv"):
            found[name] = csv_results(Path(name))
        elif name in studies:
            found[name] = study_results(studies[name])
        else:
            try:
                found[name] = experiment_results(name, MLflowTracker())
            except UserError as error:
                raise UserError(f"{error}{_about_folder(name)}") from error
    complete = [name for name, runs in found.items() if runs]
    if not complete:
        raise UserError(f"{', '.join(names)}: no run is complete yet")
    if without := [name for name in found if not found[name]]:
        warnings.warn(Notice(f"{', '.join(without)}: no run is complete yet; left out"), stacklevel=2)
    _refuse_doubles(found)
    results = [run for runs in found.values() for run in runs]
    identity = identity_of(studies[complete[0]]) if complete[0] in studies else {}
    return Sources(results, studies, identity, results[0].source)


def _about_folder(name: str) -> str:
    """What to name in the place of a folder, for the end of a sentence; "" for what is none."""
    folder = expanded(name)
    if not folder.is_dir():
        return ""
    file = folder / "results.csv"
    return f"; {name} is a folder: name {file}, which is in it" if file.is_file() else f"; {name} is a folder"


def _refuse_doubles(found: Mapping[str, Sequence[Result]]) -> None:
    """Two names with a run of one study, variant and seed: which of both counts nobody can say.

    Raises:
        UserError: naming both and the run.
    """
    first: dict[tuple[str, str, int], str] = {}
    for name, runs in found.items():
        for run in runs:
            holder = first.setdefault((run.source, run.variant, run.seed), name)
            if holder != name:
                raise UserError(
                    f"{holder} and {name} both have a run of study {run.source}, {run.variant} seed {run.seed}; name "
                    "one of them, or rename the study in the column 'source' of one file"
                )


def _load_studies(names: Sequence[str], url: str) -> dict[str, optuna.Study]:
    """Those of the names that are studies of the storage."""
    from studies.execution.storage import load_study, open_storage_to_read, storage_errors, study_names

    if not names:
        return {}
    with storage_errors(url):
        storage = open_storage_to_read(url)
        if storage is None:
            return {}
        known = set(study_names(storage))
        return {name: load_study(storage, name) for name in names if name in known}
