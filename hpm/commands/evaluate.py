"""`hpm evaluate`: protocols on a trained model."""

from __future__ import annotations

from typing import Annotated

import typer

from hpm.commands._completion import complete_config, complete_protocol
from hpm.commands._options import Bindings, ModelPath, Weights


def command(
    model: ModelPath,
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG...",
            autocompletion=complete_config,
            help="The protocols'; for published weights, of their data too.",
        ),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_protocol,
            help="Names, with commas between them or the option again: knn, linear, finetune ...; an unknown one is "
            "answered by all. By default knn,linear.",
        ),
    ] = None,
    weights: Weights = "student",
    seeds: Annotated[int | None, typer.Option(help="Seeds to repeat with; for low-shot, draws of the labels.")] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep", help="Write the encoders that the protocols train, as folders for timm beside the results."
        ),
    ] = False,
    binding: Bindings = None,
) -> None:
    """Evaluate a trained model; results go to evaluation-PROTOCOL.json beside it, and to the run's entry in MLflow.

    A long protocol that was killed goes on with the same command. Under torchrun all processes share the work.
    """
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from hpm.inference.evaluate import evaluate
        from hpm.runtime.distributed import DistributedContext

    processes = DistributedContext.from_environment()
    console = make_console(quiet=not processes.is_main)
    with notices_to(console):
        evaluate(
            model,
            console,
            protocols=[name.strip() for names in protocol or ["knn,linear"] for name in names.split(",")],
            configs=configs or [],
            bindings=binding or [],
            weights=weights,
            seeds=seeds,
            keep=keep,
            processes=processes,
        )
    processes.disconnect()
