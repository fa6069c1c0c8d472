"""The `hpm-study` command: its commands are the modules of `studies.commands`, put together by `hpm.cli`."""

from __future__ import annotations

from hpm.cli import build_app, run_cli
from studies import commands
from studies.commands import _worker


def main() -> None:
    """Entry point."""
    app = build_app(commands, "Ablations, searches and comparisons of curricula.")
    app.command("worker", hidden=True)(_worker.command)
    run_cli(app)
