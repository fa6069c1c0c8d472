"""The `hpm` command. Heavy imports happen in the commands that need them, so that help answers at once."""

from __future__ import annotations

import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm import __version__
from hpm.errors import TrainingError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from hpm.configuration import Config
    from hpm.runfolder import RunFolder

app = typer.Typer(
    help="Pre-train masked autoencoders under a curriculum of masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"curriculum-masking {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


@app.command()
def pretrain(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG...", help="Config files, or names of shipped ones; later ones override."),
    ] = None,
    binding: Annotated[
        list[str] | None, typer.Option("--binding", "-b", help="A gin binding over the configs, e.g. 'Ramp.end = 0.7'.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The run's folder; by default a new one, runs/CONFIG-DATE-TIME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output; nothing may change.")
    ] = False,
    init_from: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Start a new run from the weights of a checkpoint.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, run two steps, write nothing.")] = False,
) -> None:
    """Pre-train a model.

    Exit codes: 0 done; 2 a mistake in the input; 3 the loss is no longer finite.
    """
    if resume and (output is None or init_from is not None or dry_run):
        raise UserError("--resume needs --output, the run's folder, and goes with neither --init-from nor --dry-run")
    from rich.console import Console

    from hpm import configuration
    from hpm.runfolder import RunFolder

    console = Console()
    if resume and not configs:
        assert output is not None
        RunFolder(output).saved_config()  # a clear error where there is none
        configs = [str(RunFolder(output).config)]
    with console.status("starting ..."):
        config = configuration.parse(configs or [], binding or [])
        trainer = config.build()
    if init_from is not None:
        trainer.take_weights(init_from)  # an unfit checkpoint is refused before anything is written
    if dry_run:
        trainer.dry_run(console)
        _describe(console, trainer)
        console.print("dry run: everything builds and runs; nothing was written")
        return
    name = config.name if not resume else _run_name(output or Path())
    folder = RunFolder(output or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
    if resume:
        folder.reopen(config.text())
    else:
        folder.create(config.text(), config.operative_text())
    _run(console, config, trainer, folder, name=name, resume=resume, init_from=init_from)


def _run(
    console: Console, config: Config, trainer: Any, folder: RunFolder, *, name: str, resume: bool,
    init_from: Path | None,
) -> None:  # fmt: skip
    import json

    from hpm.summary import show_summary

    if resume and folder.summary.is_file():
        console.print(f"the run in {folder.path} is complete")
        show_summary(console, folder, json.loads(folder.summary.read_text()))
        return
    _describe(console, trainer)
    console.print(f"run folder: {folder.path}", highlight=False)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: console.print(
            str(message), style="yellow", markup=False, highlight=False
        )
        summary = trainer.fit(
            folder, console, name=name, parameters=config.parameters(), resume=resume, init_from=init_from
        )
    show_summary(console, folder, summary)


def _run_name(output: Path) -> str:
    return output.resolve().name


def _describe(console: Console, trainer: Any) -> None:
    from hpm.summary import describe

    console.print(describe(trainer), highlight=False)


@app.command("list")
def list_parts() -> None:
    """Show every part that a config can name, with its parameters and their defaults."""
    import inspect

    from rich.console import Console
    from rich.table import Table

    from hpm import configuration

    console = Console()
    for kind, classes in configuration.parts().items():
        table = Table(title=kind, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        for cls in classes:
            parameters = ", ".join(
                name if p.default is p.empty else f"{name}={p.default!r}"
                for name, p in inspect.signature(cls).parameters.items()
                if name not in ("args", "kwargs")
            )
            summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
            table.add_row(f"[cyan]{cls.__name__}", f"{summary}\n[dim]{parameters}" if parameters else summary)
        console.print(table)
        console.print()


def main() -> None:
    """Entry point: mistakes of the user end in one sentence and an exit code, not in a traceback."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(2) from None
    except TrainingError as error:
        typer.secho(f"stopped: {error}", fg="red", err=True)
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
