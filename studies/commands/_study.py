"""What `ablate` and `search` do."""

from __future__ import annotations

from studies.execution.options import StudyOptions


def run_study(kind: str, options: StudyOptions, *, trials: int | None = None) -> None:
    """Work through a study, and show and keep what it has found.

    Args:
        kind: "ablation" or "search".
        options: what it is started with.
        trials: of a search, how many it is to have in all.

    Raises:
        TrainingError: if runs of an ablation failed, once all others and the report are done.
    """
    from hpm.errors import TrainingError
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from studies.execution.finish import finish
        from studies.execution.launcher import work_through

    console = make_console()
    with notices_to(console):
        failed = finish(work_through(kind, options, console, trials=trials), options, console, trials=trials)
    if failed and kind == "ablation":
        raise TrainingError(f"{failed} of its runs failed, as told above; the same command trains them once more")
