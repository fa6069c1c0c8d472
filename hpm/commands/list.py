"""`hpm list`: every part that a config can name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm.commands._completion import complete_config

if TYPE_CHECKING:
    from rich.console import Console


def command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PART|KIND|CONFIG]...",
            autocompletion=complete_config,
            help="A part to explain, e.g. Ramp; a kind to list, e.g. samplers; a config whose imports are listed too.",
        ),
    ] = None,
) -> None:
    """Show every part that a config can name, with its parameters and their defaults; or explain some of them.

    Parts of installed packages are among them, which those offer by an entry point of the group curriculum.parts.
    """
    from hpm.runtime.console import loading, make_console

    with loading():
        from hpm.config import load_offers, parts_by_kind, parts_called

        parts_by_kind()  # which imports every module that defines some

    console = make_console()
    for offer in load_offers():
        if offer.problem:
            console.print(offer.complaint, style="yellow")
    given = list(names or [])
    configs = [name for name in given if not parts_called(name) and name not in parts_by_kind()]
    configs = _parse(configs)
    kinds = parts_by_kind()
    asked = [name for name in given if name not in configs]
    for name in asked:
        if name in kinds:
            _show_kind(console, name, kinds[name])
        for part in parts_called(name) if name not in kinds else ():
            _explain(console, part, next(kind for kind, parts in kinds.items() if part in parts))
    if not asked:
        for kind, parts in kinds.items():
            _show_kind(console, kind, parts)


def _parse(names: Sequence[str]) -> list[str]:
    """Read those of the names that are configs.

    Returns:
        Those.

    Raises:
        UserError: for a name that is no config, nor a part once the configs are read.
    """
    from hpm.config import find_config, parse_config, parts_by_kind, parts_called
    from hpm.errors import UserError
    from hpm.runtime.suggestions import did_you_mean, names_like

    found, unknown = [], dict[str, UserError]()
    for name in names:
        try:
            find_config(name)
        except UserError as error:
            unknown[name] = error
        else:
            found.append(name)
    if found:
        parse_config(found)
    for name, mistake in unknown.items():
        if parts_called(name):
            continue
        if "/" in name or name.endswith(".gin"):
            raise mistake
        kinds = parts_by_kind()
        meant = names_like(name, [*(part.__name__ for parts in kinds.values() for part in parts), *kinds])
        raise UserError(
            f"{name!r} is no part, no kind of parts and no config.{did_you_mean(meant)} `hpm list` shows all parts, "
            "`hpm configs` all shipped configs"
        )
    return found


def _show_kind(console: Console, kind: str, parts: Sequence[Any]) -> None:
    import inspect

    from rich.table import Table
    from rich.text import Text

    from hpm.runtime.console import print_table

    table = Table(title=kind, title_style="bold", show_header=False, box=None, padding=(0, 2))
    for part in parts:
        parameters = ", ".join(
            name if parameter.default is parameter.empty else f"{name}={parameter.default!r}"
            for name, parameter in inspect.signature(part).parameters.items()
            if name not in ("args", "kwargs")
        )
        told = Text((inspect.getdoc(part) or "").split("\n\n")[0].replace("\n", " "))
        if parameters:
            told.append(f"\n{parameters}", "dim")
        table.add_row(Text(part.__name__, "cyan"), told)
    print_table(console, table)
    console.print()


def _explain(console: Console, part: Any, kind: str) -> None:
    """Print a part's whole docstring, and its parameters with types and defaults."""
    import inspect

    from rich.table import Table
    from rich.text import Text

    from hpm.config import type_names
    from hpm.runtime.console import print_table

    console.print(Text.assemble((part.__name__, "bold cyan"), f" ({kind}), in {part.__module__}"))
    console.print(f"\n{inspect.getdoc(part) or 'It has no docstring.'}\n", soft_wrap=not console.is_terminal)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("parameter", "type", "default"):
        table.add_column(column, overflow="fold")
    types = type_names(part)
    for name, parameter in inspect.signature(part).parameters.items():
        default = "must be bound" if parameter.default is parameter.empty else repr(parameter.default)
        table.add_row(*map(Text, (f"{part.__name__}.{name}", types.get(name, ""), default)))
    if table.rows:
        print_table(console, table)
    console.print()
