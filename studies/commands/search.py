"""`hpm-study search`: find the best values of some bindings."""

from __future__ import annotations

from typing import Annotated

import typer

from studies.commands._options import with_study_options
from studies.commands._study import run_study
from studies.execution.options import StudyOptions, require_count

_MOST_TRIALS = 100_000


@with_study_options
def command(
    options: StudyOptions,
    trials: Annotated[int, typer.Option(help="How many trials the study is to have in all.")],
) -> None:
    """Search a space of bindings; the best setting is written as a config that `hpm pretrain` runs.

    The same command goes on with a study that was stopped.
    """
    require_count("trials", trials, 1, _MOST_TRIALS)
    run_study("search", options, trials=trials)
