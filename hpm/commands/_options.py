"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._completion import complete_config
from hpm.runtime.files import expanded

ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        parser=expanded,
        help="A run, one of its checkpoint-* folders, or a published file or folder of weights.",
    ),
]
PublishedConfigs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG...", autocompletion=complete_config, help="Over what a published file tells: its data, say."
    ),
]
Bindings = Annotated[
    list[str] | None,
    typer.Option("--binding", "-b", help="A gin binding over the configuration, e.g. 'Ramp.end = 0.7'."),
]
Weights = Annotated[str, typer.Option(help="student or teacher.")]
