"""The `hpm` command: its commands are the modules of `hpm.commands`, put together here."""

from __future__ import annotations

import importlib
import os
import pkgutil
from types import ModuleType
from typing import Annotated

import typer

from hpm import __version__, commands
from hpm.errors import Interrupted, MainProcessError, TrainingError, UserError

_EXIT_CODES = {UserError: (2, "error"), TrainingError: (3, "stopped"), Interrupted: (75, "stopped")}


def build_app(package: ModuleType, help: str) -> typer.Typer:
    """A command-line application of every command module of a package; see `hpm.commands`."""
    app = typer.Typer(help=help, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_options)
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            function = importlib.import_module(f"{package.__name__}.{module.name}").command
            app.command(module.name.replace("_", "-"))(function)
    return app


def _version(show: bool) -> None:
    if show:
        typer.echo(f"curriculum-masking {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def run_cli(app: typer.Typer) -> None:
    """Run a command; mistakes of the user end in one sentence and an exit code, not in a traceback."""
    from hpm.runs.outcome import record_outcome

    try:
        app(standalone_mode=True)
    except (UserError, TrainingError, Interrupted) as error:
        record_outcome(error)
        code, word = next(known for kind, known in _EXIT_CODES.items() if isinstance(error, kind))
        rank = os.environ.get("RANK", "0")
        if not isinstance(error, MainProcessError):
            typer.secho(f"{word}: {error}" if rank == "0" else f"process {rank}, {word}: {error}", fg="red", err=True)
        raise SystemExit(code) from None
    except SystemExit as error:
        if not error.code:
            record_outcome(None)
        raise
    except BaseException as error:
        record_outcome(error)
        raise


def main() -> None:
    """Entry point."""
    run_cli(build_app(commands, "Pre-train masked autoencoders under a curriculum of masks."))
