"""`hpm show`: what a configuration comes to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm.commands._completion import complete_config
from hpm.commands._options import Bindings
from hpm.runtime.files import expanded

if TYPE_CHECKING:
    from rich.table import Table

    from hpm.config import InForce, Setting


def command(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...", autocompletion=complete_config, help="Configs, later ones override; or a run's folder."
        ),
    ],
    binding: Bindings = None,
    changed: Annotated[bool, typer.Option("--changed", help="Only what differs from the default.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every parameter in force: its value, its default, and where it was set. Builds nothing.

    The names are those that -b takes; `hpm list PART` explains the parameters of a part.
    """
    from hpm.runtime.console import loading, make_console, print_table
    from hpm.runtime.files import to_json

    with loading():
        from hpm.config import in_force, parse_config

        found = in_force(parse_config([_config_of(name) for name in configs], binding or []))
    if as_json:
        typer.echo(to_json(_as_json(found, changed=changed), indent=2))
        return
    print_table(make_console(), _table(found, changed=changed))


def _config_of(name: str) -> str:
    """The config of a run, where a run's folder is named; any other name is itself."""
    from hpm.runs.run_folder import RunFolder

    folder: Path = expanded(name)
    return str(RunFolder(folder).config) if RunFolder(folder).config.is_file() else name


def _table(found: InForce, *, changed: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("parameter", "value", "default", "set in"):
        table.add_column(column, overflow="fold")
    for parts, is_used in ((found.used, True), (found.others, False)):
        if parts and not is_used:
            table.add_row()
            table.add_row(Text("bound, but no part of the training:", "yellow"))
        for part in parts:
            settings = [setting for setting in part.settings if setting.is_changed or not changed]
            if not settings:
                continue
            table.add_row()
            table.add_row(Text(part.name, "bold cyan"), Text(f"as {', '.join(part.used_as)}" if part.used_as else ""))
            for setting in settings:
                cells = (f"  {setting.name}", _spell(setting.value), _spell(setting.default), _where(setting))
                table.add_row(*map(Text, cells), style=None if setting.is_changed else "dim")
    return table


def _where(setting: Setting) -> str:
    if not setting.where:
        return "nowhere; bind it" if setting.is_missing else "default"
    return "".join(f"%{name}, " for name in setting.macros) + setting.where


def _spell(value: Any) -> str:
    """A value as a config has it; "-" for none."""
    from hpm.config import REQUIRED

    if value is REQUIRED:
        return "-"
    return value.__name__ if isinstance(value, type) else repr(value)


def _as_json(found: InForce, *, changed: bool) -> list[dict[str, Any]]:
    from hpm.config import REQUIRED

    return [
        {
            "parameter": setting.name,
            "part": part.name,
            "used_as": part.used_as,
            "in_training": parts is found.used,
            "required": setting.default is REQUIRED,
            "value": None if setting.value is REQUIRED else _plain(setting.value),
            "default": None if setting.default is REQUIRED else _plain(setting.default),
            "changed": setting.is_changed,
            "set_in": setting.where or None,
            "macros": list(setting.macros),
        }
        for parts in (found.used, found.others)
        for part in parts
        for setting in part.settings
        if setting.is_changed or not changed
    ]


def _plain(value: Any) -> Any:
    """A value as JSON has it, a part as a config names it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else _spell(value)
