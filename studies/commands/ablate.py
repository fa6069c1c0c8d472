"""`hpm-study ablate`: train named variants."""

from __future__ import annotations

from studies.commands._options import with_study_options
from studies.commands._study import run_study
from studies.execution.options import StudyOptions


@with_study_options
def command(options: StudyOptions) -> None:
    """Train every variant with every seed.

    The same command goes on with a study that was stopped, and tries once more what failed.
    """
    run_study("ablation", options)
