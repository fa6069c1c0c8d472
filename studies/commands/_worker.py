"""One worker of a study, a process that `ablate` and `search` start as often as they are told. Not for people."""

from __future__ import annotations

import sys

from hpm.errors import Interrupted
from studies.execution.options import StudyOptions


def command(kind: str, number: int) -> None:
    """One worker of a study; its options come as JSON through standard input."""
    from hpm.runtime.console import make_console
    from hpm.runtime.notices import notices_to
    from studies.execution.launcher import line_printer
    from studies.execution.signals import Stopped
    from studies.execution.worker import run_worker

    options = StudyOptions.from_json(sys.stdin.read())
    console = make_console()
    with notices_to(console):
        try:
            run_worker(kind, options, number, line_printer(console, f"worker {number}: "))
        except Stopped as stopped:
            raise Interrupted(f"worker {number}, {stopped}") from stopped
