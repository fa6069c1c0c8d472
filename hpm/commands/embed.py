"""`hpm embed`: features of a folder's images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._completion import complete_config
from hpm.commands._options import Bindings, ModelPath, Weights
from hpm.runtime.files import expanded


def command(
    model: ModelPath,
    configs_and_folder: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG...] FOLDER",
            autocompletion=complete_config,
            help="Over what published weights tell; images.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.parquet",
            parser=expanded,
            help="A new file: path, label, embedding.",
        ),
    ],
    pool: Annotated[str, typer.Option(help="mean of the patches' tokens, or the class token.")] = "mean",
    weights: Weights = "student",
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 64,
    binding: Bindings = None,
) -> None:
    """Compute the features of a folder's images, at constant memory; unreadable images are named and left out."""
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from hpm.inference.embed import embed

    *configs, folder = configs_and_folder
    console = make_console()
    with notices_to(console):
        embed(
            model,
            expanded(folder),
            out,
            console,
            configs=configs,
            bindings=binding or [],
            pool=pool,
            weights=weights,
            batch_size=batch_size,
        )
