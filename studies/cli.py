"""The `hpm-study` command. Heavy imports happen in the commands that need them, so that help answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm.cli import run_cli
from hpm.errors import Interrupted, UserError
from hpm.runtime.notices import notices_to

if TYPE_CHECKING:
    from rich.console import Console

    from studies.execution.launcher import Launch

app = typer.Typer(
    help="Ablations, searches and comparisons of curricula.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEFAULT_STORAGE = "sqlite:///runs/studies.db"
Configs = Annotated[list[str], typer.Argument(metavar="CONFIG...", help="The study's gin file; more go over it.")]
Bindings = Annotated[
    list[str] | None, typer.Option("--binding", "-b", help="A gin binding over the files, e.g. 'Ablation.seeds = [0]'.")
]
StudyName = Annotated[str | None, typer.Option("--study", help="Its name; by default the first config's.")]
Storage = Annotated[
    str, typer.Option(envvar="HPM_STUDY_STORAGE", help="sqlite:///FILE, or postgresql://... for several machines.")
]
Output = Annotated[Path | None, typer.Option(help="The folder of its runs; by default runs/STUDY.")]
Workers = Annotated[int, typer.Option(help="Runs that train at the same time, each on its own device.")]
DistributedContext = Annotated[
    int, typer.Option(help="DistributedContext, and devices, of each run; more than one through torchrun.")
]
Timeout = Annotated[float | None, typer.Option(help="Seconds after which no further trial is started.")]
Heartbeat = Annotated[int, typer.Option(help="Seconds between a running trial's signs of life.")]
Grace = Annotated[int, typer.Option(help="Seconds without one after which another worker takes the trial over.")]
Retries = Annotated[int, typer.Option(help="How often the trial of a dead worker is tried again.")]
Poll = Annotated[float, typer.Option(hidden=True)]


@app.command()
def ablate(
    configs: Configs,
    binding: Bindings = None,
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Output = None,
    workers: Workers = 1,
    processes: DistributedContext = 1,
    timeout: Timeout = None,
    heartbeat: Heartbeat = 60,
    grace: Grace = 300,
    retries: Retries = 3,
    poll: Poll = 1.0,
) -> None:
    """Train every variant with every seed.

    The same command goes on with a study that was stopped, and tries once more what failed.
    """
    from studies.execution.launcher import Launch

    launch = Launch(
        "ablation",
        tuple(configs),
        tuple(binding or ()),
        study,
        storage,
        output,
        workers,
        processes,
        heartbeat,
        grace,
        retries,
        timeout,
        poll,
    )
    _run(launch, None)


@app.command()
def search(
    configs: Configs,
    trials: Annotated[int, typer.Option(help="How many trials the study is to have in all.")],
    binding: Bindings = None,
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Output = None,
    workers: Workers = 1,
    processes: DistributedContext = 1,
    timeout: Timeout = None,
    heartbeat: Heartbeat = 60,
    grace: Grace = 300,
    retries: Retries = 3,
    poll: Poll = 1.0,
) -> None:
    """Search a space of bindings; the best setting is written as a config that `hpm pretrain` runs."""
    from studies.execution.launcher import Launch

    if trials < 1:
        raise UserError(f"--trials {trials} must be at least 1")
    launch = Launch(
        "search",
        tuple(configs),
        tuple(binding or ()),
        study,
        storage,
        output,
        workers,
        processes,
        heartbeat,
        grace,
        retries,
        timeout,
        poll,
    )
    _run(launch, trials)


def _run(launch: Launch, trials: int | None) -> None:
    from rich.console import Console

    from studies.execution.finish import finish
    from studies.execution.launcher import start

    console = Console()
    with notices_to(console):
        finish(launch, start(launch, console, trials=trials), console)


@app.command("compare")
def compare_command(
    names: Annotated[list[str], typer.Argument(metavar="STUDY|EXPERIMENT...", help="Studies, or MLflow experiments.")],
    metric: Annotated[str | None, typer.Option(help="Which; by default the first study's.")] = None,
    against: Annotated[str | None, typer.Option(help="The baseline, or one for each group: '*_random'.")] = None,
    direction: Annotated[str | None, typer.Option(help="maximize or minimize; by default the study's.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Annotated[Path | None, typer.Option(help="A folder for report.html, tables and figures.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print every run as CSV.")] = False,
) -> None:
    """Compare variants over seeds: means, paired differences, tests, costs, and what to beware of."""
    from rich.console import Console

    from studies.execution.finish import compare_sources
    from studies.execution.storage import open_storage

    if direction not in (None, "maximize", "minimize"):
        raise UserError(f"--direction {direction} is unknown; choose maximize or minimize")
    if markdown and csv:
        raise UserError("--markdown and --csv are two formats; ask for one of them")
    file = Path(storage.removeprefix("sqlite:///"))
    there = None if storage.startswith("sqlite:///") and not file.is_file() else open_storage(storage)
    console = Console(stderr=markdown or csv)
    with notices_to(console):
        compare_sources(
            there,
            names,
            console,
            metric=metric,
            against=against,
            direction=direction,
            output=output,
            as_markdown=markdown,
            as_csv=csv,
        )


@app.command(hidden=True)
def work(
    kind: str,
    configs: Configs,
    worker: Annotated[int, typer.Option()],
    binding: Bindings = None,
    study: StudyName = None,
    storage: Storage = DEFAULT_STORAGE,
    output: Output = None,
    workers: Workers = 1,
    processes: DistributedContext = 1,
    timeout: Timeout = None,
    heartbeat: Heartbeat = 60,
    grace: Grace = 300,
    retries: Retries = 3,
    poll: Poll = 1.0,
) -> None:
    """One worker of a study; `ablate` and `search` start as many as they are told."""
    from rich.console import Console

    from studies.execution.launcher import Launch
    from studies.execution.launcher import work as take_part
    from studies.execution.worker import Stopped

    launch = Launch(
        kind,
        tuple(configs),
        tuple(binding or ()),
        study,
        storage,
        output,
        workers,
        processes,
        heartbeat,
        grace,
        retries,
        timeout,
        poll,
    )
    console = Console()
    with notices_to(console):
        try:
            take_part(launch, worker, _line(console, worker))
        except Stopped as stopped:
            raise Interrupted(f"worker {worker}, {stopped}") from stopped


def _line(console: Console, worker: int) -> Any:
    return lambda text: console.print(f"worker {worker}: {text}", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Entry point: mistakes of the user end in one sentence and an exit code, not in a traceback."""
    run_cli(app)
