"""`hpm list`: every part that a config can name."""

from __future__ import annotations

from typing import Annotated

import typer


def command(
    configs: Annotated[
        list[str] | None, typer.Argument(metavar="[CONFIG...]", help="Configs whose imported modules are listed too.")
    ] = None,
) -> None:
    """Show every part that a config can name, with its parameters and their defaults."""
    import inspect

    from rich.table import Table
    from rich.text import Text

    from hpm.config import configurables, imported_configurables, parse_config
    from hpm.runtime.console import make_console

    kinds: dict[str, list[type]] = configurables()
    if configs:
        parse_config(configs)
        if imported := imported_configurables():
            kinds["imported by the config"] = imported
    console = make_console()
    for kind, classes in kinds.items():
        table = Table(title=kind, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2))
        for cls in classes:
            parameters = ", ".join(
                name if p.default is p.empty else f"{name}={p.default!r}"
                for name, p in inspect.signature(cls).parameters.items()
                if name not in ("args", "kwargs")
            )
            summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
            told = Text(summary)
            if parameters:
                told.append(f"\n{parameters}", "dim")
            table.add_row(Text(cls.__name__, "cyan"), told)
        console.print(table, soft_wrap=False)
        console.print()
