"""The `hpm` command. Heavy imports happen in the commands that need them, so that help answers at once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm import __version__
from hpm.errors import Interrupted, MainProcessError, Notice, TrainingError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from hpm.config import Config
    from hpm.runs.run_folder import RunFolder

app = typer.Typer(
    help="Pre-train masked autoencoders under a curriculum of masks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelPath = Annotated[
    Path, typer.Argument(metavar="RUN|CHECKPOINT", help="A run, one of its checkpoint-* folders, a published file.")
]
PublishedConfigs = Annotated[
    list[str] | None, typer.Argument(metavar="CONFIG...", help="The config of a published file.")
]
Bindings = Annotated[
    list[str] | None,
    typer.Option("--binding", "-b", help="A gin binding over the configuration, e.g. 'Ramp.end = 0.7'."),
]
Weights = Annotated[str, typer.Option(help="student or teacher.")]


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
    binding: Bindings = None,
    output: Annotated[
        Path | None, typer.Option(help="The run's folder; by default a new one, runs/CONFIG-DATE-TIME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output; start it where there is none yet.")
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Start from a checkpoint's weights: one of ours, or HPM's or MAE's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, run two steps, write nothing.")] = False,
) -> None:
    """Pre-train a model; on several devices or machines with `torchrun ... -m hpm pretrain ...`.

    SIGTERM and SIGUSR1 save a checkpoint and stop.

    Exit codes: 0 done; 2 a mistake in the input; 3 the run cannot go on, e.g. losses are not finite; 75 stopped by a
    signal, --resume goes on.
    """
    from rich.console import Console

    from hpm.runs.run_folder import RunFolder
    from hpm.runtime.distributed import DistributedContext

    processes = DistributedContext.from_environment()
    if processes.restarts and output is None:
        raise UserError("torchrun starts processes again that fail; give the run an --output to go on with")
    resume = resume or processes.restarts > 0
    if resume and (output is None or dry_run):
        raise UserError("--resume needs --output, the run's folder, and does not go with --dry-run")
    if output is not None and resume and (not configs or RunFolder(output).config.is_file()):
        RunFolder(output).saved_config()  # a clear error where there is no run
        configs = configs or [str(RunFolder(output).config)]
        init_from = None if _has_checkpoint(output) else init_from or _origin(output)
    else:
        resume = False
    console = Console(quiet=not processes.is_main)
    with notices_to(console):
        _pretrain(console, configs or [], binding or [], output, resume=resume, init_from=init_from, dry_run=dry_run)
    processes.disconnect()


def _has_checkpoint(output: Path) -> bool:
    from hpm.runs import checkpoint
    from hpm.runs.run_folder import RunFolder

    return bool(checkpoint.list_checkpoints(RunFolder(output).checkpoints))


def _origin(output: Path) -> Path | None:
    from hpm.runs.run_folder import RunFolder

    origin = RunFolder(output).started_from()
    return None if origin is None else Path(origin)


def _pretrain(
    console: Console,
    configs: list[str],
    bindings: list[str],
    output: Path | None,
    *,
    resume: bool,
    init_from: Path | None,
    dry_run: bool,
) -> None:
    from hpm.config import parse_config
    from hpm.runs.run_folder import RunFolder

    with console.status("starting ..."):
        config = parse_config(configs, bindings)
        trainer = config.build()
        trainer.method.target.load()
        lines = [] if init_from is None else trainer.start_from(init_from)
    for line in lines:
        console.print(line, markup=False, highlight=False)
    if dry_run:
        trainer.dry_run(console)
        _describe(console, trainer)
        console.print("dry run: everything builds and runs; nothing was written")
        return
    trainer.processes.connect(trainer.device)
    (name, path) = trainer.processes.gather(_name_and_folder(config, output))[0]
    folder = RunFolder(path)
    if resume:
        trainer.processes.main_only(lambda: _reopen(console, folder, config))
    else:
        trainer.processes.main_only(lambda: folder.create(config.text(), config.operative_text(), init_from=init_from))
    _run(console, config, trainer, folder, name=name, resume=resume)


def _name_and_folder(config: Config, output: Path | None) -> tuple[str, Path]:
    """A run is called what its folder is called, else what its first config is."""
    if output is not None:
        return output.resolve().name, output
    return config.name, Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _reopen(console: Console, folder: RunFolder, config: Config) -> None:
    """A resumed run repeats the uninterrupted one: what would make it another is refused."""
    from hpm.config import resume_changes

    refused, rounding = resume_changes(folder.saved_config(), config.text())
    if refused:
        raise UserError(
            f"--resume repeats the run exactly, but its configuration differs from {folder.config}:\n"
            + "\n".join(f"  {line}" for line in refused[:5])
            + "\nresume without naming a config to use the saved one, or start a new run with --init-from"
        )
    for line in rounding:
        console.print(f"resuming with {line}: the same run up to rounding", style="yellow", markup=False)
    folder.next_config = config.text()


def _run(console: Console, config: Config, trainer: Any, folder: RunFolder, *, name: str, resume: bool) -> None:
    import json

    from hpm.commands.run_summary import show_summary

    if resume and folder.summary.is_file():
        console.print(f"the run in {folder.path} is complete")
        if not trainer.tracker.has_all_of(folder.path):
            trainer.replay(folder, name=name, parameters=config.parameters())
        show_summary(console, folder, json.loads(folder.summary.read_text()))
        return
    _describe(console, trainer)
    console.print(f"run folder: {folder.path}", markup=False, highlight=False)
    try:
        summary = trainer.fit(folder, console, name=name, parameters=config.parameters(), resume=resume)
    except Interrupted as error:
        trainer.processes.disconnect()
        raise Interrupted(f"{error}; go on with {_resume_command(folder)}") from error
    if trainer.processes.is_main:
        show_summary(console, folder, summary)


def _resume_command(folder: RunFolder) -> str:
    return f"hpm pretrain --resume --output {folder.path}"


@contextmanager
def notices_to(console: Console) -> Iterator[None]:
    """Notices are for people: a yellow line, not a place in our source. Other warnings go where they always go."""
    others = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            console.print(str(message), style="yellow", markup=False, highlight=False)
        else:
            others(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield


def _describe(console: Console, trainer: Any) -> None:
    from hpm.commands.run_summary import describe

    console.print(describe(trainer), highlight=False)


@app.command()
def evaluate(
    model: ModelPath,
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG...", help="For a published file its config; for any model the protocols'."),
    ] = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="Of knn, linear, linear-mae, ridge, finetune, low-shot, agreement, diagnostics and localization."
        ),
    ] = "knn,linear",
    weights: Weights = "student",
    seeds: Annotated[int | None, typer.Option(help="Seeds to repeat with; for low-shot, draws of the labels.")] = None,
    binding: Bindings = None,
) -> None:
    """Evaluate a trained model; results go to evaluation-PROTOCOL.json beside it, and to the run's entry in MLflow.

    A long protocol that was killed goes on with the same command. Under torchrun all processes share the work.
    """
    from rich.console import Console

    from hpm.commands.evaluate import evaluate as run_protocols
    from hpm.runtime.distributed import DistributedContext

    processes = DistributedContext.from_environment()
    console = Console(quiet=not processes.is_main)
    with notices_to(console):
        run_protocols(
            model,
            console,
            protocols=[name.strip() for name in protocol.split(",")],
            configs=configs or [],
            bindings=binding or [],
            weights=weights,
            seeds=seeds,
            processes=processes,
        )
    processes.disconnect()


@app.command()
def plan(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="Config files, or names of shipped ones.")],
    binding: Bindings = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs train together.")] = 1,
    device: Annotated[str, typer.Option(help="Which: h200, h100, a100, l40s, rtx4090 or v100.")] = "h100",
    images: Annotated[
        int | None, typer.Option(help="Training images; by default those of the config's data, or ImageNet-1K's.")
    ] = None,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is assumed to be reached.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost: parameters, operations, memory and hours. Builds no data and no weights."""
    import json
    from dataclasses import asdict

    from rich.console import Console

    from hpm.config import parse_config
    from hpm.planning import plan as planning

    made = planning.make(parse_config(configs, binding or []), gpus=gpus, device=device, images=images, mfu=mfu)
    if as_json:
        typer.echo(json.dumps(asdict(made), indent=2))
    else:
        planning.show(Console(), made)


@app.command()
def visualize(
    model: ModelPath,
    configs: PublishedConfigs = None,
    images: Annotated[
        Path | None, typer.Option(help="A folder of images, of any size; by default the run's first test images.")
    ] = None,
    count: Annotated[int, typer.Option(help="How many images.")] = 6,
    strip: Annotated[bool, typer.Option("--strip", help="The same images through the run's checkpoints.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="The curriculum and the losses over the run.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="By default sheet, strip or timeline.png in the run.")
    ] = None,
    binding: Bindings = None,
) -> None:
    """Draw what a model sees, reconstructs, expects to be hard, finds hard and attends to; or how it got there."""
    from rich.console import Console

    from hpm.commands.visualize import visualize as draw

    if strip and timeline:
        raise UserError("--strip and --timeline are two pictures; ask for one of them")
    console, kind = Console(), "strip" if strip else "timeline" if timeline else "sheet"
    with notices_to(console):
        draw(
            model,
            console,
            kind=kind,
            configs=configs or [],
            bindings=binding or [],
            images=images,
            count=count,
            out=out,
        )


@app.command()
def export(
    model: ModelPath,
    out: Annotated[Path, typer.Option(metavar="FOLDER|FILE", help="A new folder for timm, else a new file.")],
    configs: PublishedConfigs = None,
    to: Annotated[str, typer.Option("--format", help="timm, safetensors or onnx.")] = "timm",
    pool: Annotated[str, typer.Option(help="Features: the class token, or avg of the patches' tokens.")] = "token",
    weights: Weights = "student",
    whole: Annotated[
        bool, typer.Option("--whole", help="For safetensors, the whole model rather than the encoder.")
    ] = False,
    binding: Bindings = None,
) -> None:
    """Write a trained encoder for timm, as plain weights, or for ONNX."""
    from rich.console import Console

    from hpm.commands.export import export as write

    console = Console()
    with notices_to(console):
        write(
            model,
            out,
            console,
            to=to,
            configs=configs or [],
            bindings=binding or [],
            pool=pool,
            weights=weights,
            whole=whole,
        )


@app.command()
def embed(
    model: ModelPath,
    configs_and_folder: Annotated[
        list[str], typer.Argument(metavar="[CONFIG...] FOLDER", help="A published file's config; a folder of images.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.parquet", help="A new file: path, label, embedding.")],
    pool: Annotated[str, typer.Option(help="mean of the patches' tokens, or the class token.")] = "mean",
    weights: Weights = "student",
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 64,
    binding: Bindings = None,
) -> None:
    """Compute the features of a folder's images, at constant memory; unreadable images are named and left out."""
    from rich.console import Console

    from hpm.commands.embed import embed as compute

    *configs, folder = configs_and_folder
    console = Console()
    with notices_to(console):
        compute(
            model,
            Path(folder),
            out,
            console,
            configs=configs,
            bindings=binding or [],
            pool=pool,
            weights=weights,
            batch_size=batch_size,
        )


@app.command("list")
def list_parts(
    configs: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG...]", help="Configs whose imported modules are listed too.")
    ] = None,
) -> None:
    """Show every part that a config can name, with its parameters and their defaults."""
    import inspect

    from rich.console import Console
    from rich.table import Table

    from hpm.config import configurables, imported_configurables, parse_config

    parts: dict[str, list[type]] = configurables()
    if configs:
        parse_config(configs)
        if imported := imported_configurables():
            parts["imported by the config"] = imported
    console = Console()
    for kind, classes in parts.items():
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


_EXIT_CODES = {UserError: (2, "error"), TrainingError: (3, "stopped"), Interrupted: (75, "stopped")}


def run_cli(command: typer.Typer) -> None:
    """Run a command; mistakes of the user end in one sentence and an exit code, not in a traceback."""
    try:
        command(standalone_mode=True)
    except (UserError, TrainingError, Interrupted) as error:
        code, word = next(told for kind, told in _EXIT_CODES.items() if isinstance(error, kind))
        rank = os.environ.get("RANK", "0")
        if not isinstance(error, MainProcessError):
            typer.secho(f"{word}: {error}" if rank == "0" else f"process {rank}, {word}: {error}", fg="red", err=True)
        raise SystemExit(code) from None


def main() -> None:
    """Entry point."""
    run_cli(app)


if __name__ == "__main__":
    main()
