"""`hpm configs`: the shipped configurations."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Print this one.")] = None,
) -> None:
    """List the shipped configs, each with the first line of its header; or print one."""
    from hpm.config import configs_folder, find_config

    if name is not None:
        typer.echo(find_config(name).read_text(), nl=False)
        return
    folder = configs_folder()
    for path in sorted(folder.rglob("*.gin")):
        header = path.read_text().partition("\n")[0].removeprefix("#").strip()
        typer.echo(f"{path.relative_to(folder).with_suffix('')!s:42} {header}")
