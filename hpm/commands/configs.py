"""`hpm configs`: the shipped configurations."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    name: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="Print this one.")] = None,
) -> None:
    """List the shipped configs, each with the first line of its header; or print one."""
    from hpm.config import configs_folder, find_config
    from hpm.runtime.files import read_text

    if name is not None:
        typer.echo(read_text(find_config(name)), nl=False)
        return
    folder = configs_folder()
    for path in sorted(folder.rglob("*.gin")):
        header = read_text(path).partition("\n")[0].removeprefix("#").strip()
        typer.echo(f"{path.relative_to(folder).with_suffix('')!s:42} {header}")
