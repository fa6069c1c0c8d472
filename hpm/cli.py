"""The `hpm` command: its commands are the modules of `hpm.commands`, put together here."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import select
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hpm import __version__, commands
from hpm.errors import OUTCOME_VARIABLE, Interrupted, MainProcessError, TrainingError, UserError
from hpm.runtime.signals import raising_on_signals

_HELP = {"help_option_names": ["-h", "--help"]}
_EXIT_CODES = {UserError: (2, "error"), TrainingError: (3, "stopped"), Interrupted: (75, "stopped")}
_OUTPUT_CLOSED = 128 + 13  # what shells tell of a program that SIGPIPE ended
_NAMES_NOTHING = re.compile(r"(--[a-z-]+=)?\s*")


class _Commands(TyperGroup):
    """Commands whose ends typer would tell otherwise: by a signal, and by a part's sys.exit(0), which is no success."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for before, word in zip(("the command", *args), args, strict=False):
            if _NAMES_NOTHING.fullmatch(word):
                what = word.strip() or f"what follows {before}"
                raise UserError(f"{what} is empty; name something there, or leave it out")
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx))  # groups among the others, rather than behind them

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            name = error.args[0] if error.args else "SIGINT"
            raise Interrupted(f"{name} received before the command was done; start it again") from error
        except SystemExit as error:
            if _is_closed_output(error):
                raise
            frame = _frame_that_exits(error)
            raise UserError(
                f"a part ended the program by sys.exit({error.code!r}) ({frame.name} in {frame.filename}, line "
                f"{frame.lineno}); raise an exception that says why"
            ) from error


class _Command(TyperCommand):
    """A command that takes --version as well, as the program itself does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _version("--version" in args)
        return super().parse_args(ctx, args)


def _frame_that_exits(error: SystemExit) -> traceback.FrameSummary:
    """Where a program was ended, without exit()'s own frame."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if not frame.filename.startswith("<frozen")][-1]


def _is_closed_output(error: SystemExit) -> bool:
    """Whether a program ends because nobody reads any longer what it prints, as after `hpm configs | head -3`.

    rich's consoles end it themselves; typer ends it for any pipe that breaks, and the output is but one of them.
    """
    if isinstance(error.__context__, BrokenPipeError):
        return _frame_that_exits(error).name == "on_broken_pipe" or _has_no_reader(sys.stdout, sys.stderr)
    return False


def _has_no_reader(*streams: Any) -> bool:
    poll = select.poll()
    for stream in streams:
        with suppress(AttributeError, OSError, ValueError):  # one that is no file, or is closed
            poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def build_app(package: ModuleType, help: str) -> typer.Typer:
    """A command-line application of every command module of a package, and of packages in it; see `hpm.commands`."""
    app = typer.Typer(
        cls=_Commands, help=help, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=_HELP
    )
    app.callback()(_options)
    for _, name, is_group in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{name}")
        if is_group:
            app.add_typer(build_app(module, (module.__doc__ or "").strip()), name=name.replace("_", "-"))
        else:
            app.command(name.replace("_", "-"), cls=_Command)(module.command)
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
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):  # of a stream of another kind, or one that was made otherwise
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # names of files need be no text
    try:
        with raising_on_signals():
            app(standalone_mode=True)
    except (UserError, TrainingError, Interrupted) as error:
        _record(error)
        code, word = next(known for kind, known in _EXIT_CODES.items() if isinstance(error, kind))
        rank = os.environ.get("RANK", "0")
        if not isinstance(error, MainProcessError):
            _complain(f"{word}: {error}" if rank == "0" else f"process {rank}, {word}: {error}")
        raise SystemExit(code) from None
    except SystemExit as error:
        if _is_closed_output(error):
            _record(Interrupted("the program that read the command's output has ended"))
            _discard_output()
            raise SystemExit(_OUTPUT_CLOSED) from None
        _record(UserError("the command's options are wrong; it says how in its output") if error.code else None)
        raise
    except OSError as error:
        _record(error)
        if error.filename is None:
            raise
        _complain(f"error: {str(error.filename)[:200]}: {error.strerror}")
        raise SystemExit(2) from None
    except BaseException as error:
        _record(error)
        raise


def _complain(sentence: str) -> None:
    try:
        typer.secho(sentence, fg="red", err=True)
    except BrokenPipeError:  # the exit code still tells
        _discard_output()


def _discard_output() -> None:
    """Drop what is still to be printed: Python would complain of it at its very end."""
    with suppress(AttributeError, OSError, ValueError), Path(os.devnull).open("wb") as nothing:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nothing.fileno(), stream.fileno())


def _record(error: BaseException | None) -> None:
    """Tell the program that started this one how the command ended, where it asked."""
    if OUTCOME_VARIABLE in os.environ:
        from hpm.runs.outcome import record_outcome

        record_outcome(error)


def main() -> None:
    """Entry point."""
    run_cli(build_app(commands, "Pre-train masked autoencoders under a curriculum of masks."))
