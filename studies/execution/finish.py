"""What a study leaves: a table, figures and a report and, of a search, the best configuration as a config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from hpm.config import parse_config
from hpm.metrics import VALIDATION, unit_of
from hpm.runtime.files import write_text
from studies.analysis.cautions import describe_skipped
from studies.analysis.comparison import compare
from studies.analysis.results import RESULTS, Result, study_results
from studies.definition.base import Definition
from studies.definition.trials import failed_trials, root_number
from studies.execution.launcher import WorkedStudy
from studies.execution.options import StudyOptions
from studies.execution.queue import ERROR
from studies.reporting.files import write_files
from studies.reporting.tables import markdown, markdown_of_trials, show_comparisons
from studies.reporting.trials import best_sentences, show_trials, trial_table


def finish(worked: WorkedStudy, options: StudyOptions, console: Console, *, trials: int | None = None) -> int:
    """Show what a study has found, and keep it in the study's folder and in MLflow.

    Args:
        worked: the study.
        options: what it was started with.
        console: where a person reads.
        trials: of a search, how many it was to have in all.

    Returns:
        How many of the trials that are asked for failed.
    """
    study, definition, tracker = worked
    failed = _report_failures(study, definition, console)
    files: list[Path] = []
    table = ""
    if results := study_results(study):
        options.folder.mkdir(parents=True, exist_ok=True)
        best = write_best_configs(study, definition, options.folder)
        comparison = compare(
            results,
            definition.metric,
            against=definition.default_baseline({result.variant for result in results}),
            direction=definition.direction,
            planned=definition.variant_names,
        )
        files = write_files(
            [comparison],
            options.folder,
            runs=results,
            command=options.command(definition.command, trials),
            study=study,
            best=next(iter(best)).read_text(encoding="utf-8") if best else None,
        )
        show_comparisons(console, [comparison], most=definition.shown_rows)
        console.print(f"report: {files[0]}")
        if best:
            show_trials(console, trial_table(study, definition.metric), most=definition.shown_rows)
            for line in best_sentences(study, definition.metric):
                console.print(line, soft_wrap=True)
            console.print(f"as a config: {', '.join(map(str, best))}")
        if len(best) == 1:
            _show_test_figure(definition, next(iter(best.values())), results, console)
        files += best
        table = markdown([comparison])
        if best:
            found = trial_table(study, definition.metric)
            table = f"{markdown_of_trials(found, best_sentences(study, definition.metric))}\n{table}"
    tracker.complete(study, files, table=table)
    return failed


def _show_test_figure(definition: Definition, best: FrozenTrial, results: Sequence[Result], console: Console) -> None:
    """What the setting that validation images chose is worth on test images."""
    variant, metric = definition.variant_of(best), definition.metric.removeprefix(f"{VALIDATION}/")
    values = [run.metrics[metric] for run in results if run.variant == variant and metric in run.metrics]
    if values and metric != definition.metric:
        mean = unit_of(metric).readable(sum(values) / len(values))
        console.print(f"chosen on validation images; on test images {metric} is {mean}")


def _report_failures(study: optuna.Study, definition: Definition, console: Console) -> int:
    """Tell of the trials that are asked for, failed, and were not tried again since; return how many."""
    failed = failed_trials(study, definition)
    for trial in failed:
        reason = trial.user_attrs.get(ERROR, "its worker died too often")
        console.print(f"trial {trial.number} failed: {reason}", style="yellow")
    return len(failed)


def write_best_configs(study: optuna.Study, definition: Definition, folder: Path) -> dict[Path, FrozenTrial]:
    """Write the configurations worth keeping as configs that `hpm pretrain` runs.

    Args:
        study: with its results.
        definition: says which trials are the best.
        folder: takes best.gin or, of two objectives, front-1.gin and so on; older ones are removed.

    Returns:
        The trial of each file; none for an ablation.
    """
    best = definition.best_trials(study)
    if not best:
        return {}
    names = ["best.gin"] if len(best) == 1 else [f"front-{number + 1}.gin" for number in range(len(best))]
    paths = [folder / name for name in names]
    for path, trial in zip(paths, best, strict=True):
        write_text(path, _config_text(study, definition, trial, path))
    # Last: another process that finishes the study may be reading those that it wrote.
    for old in [folder / "best.gin", *folder.glob("front-*.gin")]:
        if old not in paths:
            old.unlink(missing_ok=True)
    return dict(zip(paths, best, strict=True))


def _config_text(study: optuna.Study, definition: Definition, trial: FrozenTrial, path: Path) -> str:
    run = definition.plan(optuna.trial.FixedTrial(trial.params), root_number(trial))[0]
    config = parse_config(run.configs, [*run.bindings, f"Trainer.seed = {run.seed}"])
    config.build()
    imports = "".join(f"{line}\n" for line in definition.imports)
    kept = trial.user_attrs.get(RESULTS, [])
    skipped = describe_skipped((run["variant"], run["seed"], run.get("skipped_steps")) for run in kept)
    return (
        f"# Trial {trial.number} of study {study.study_name}: {_objectives(definition, trial.values)}.\n"
        + (f"# Warning: {skipped}.\n" if skipped else "")
        + f"#\n#   hpm pretrain {path}\n\n{imports}{config.text()}"
    )


def _objectives(definition: Definition, values: Sequence[float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in zip(definition.objectives, values, strict=True))
