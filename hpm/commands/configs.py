"""`hpm configs`: the shipped configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from hpm.commands._completion import complete_config_or_folder

if TYPE_CHECKING:
    from rich.console import Console

# Folders in the order in which a newcomer needs them, with what each holds; "" are the configs outside of folders.
_FOLDERS = {
    "": "whole runs to start from, and base, which all configs include",
    "curricula": "which patches are masked",
    "image_curricula": "which images are shown",
    "models": "what is trained",
    "data": "what it is trained on",
    "recipes": "pre-training at published settings",
    "evaluation": "protocols, for hpm evaluate",
    "studies": "searches, for hpm-study search",
    "ablations": "comparisons, for hpm-study ablate",
}

_READABLE = 60  # columns that a sentence needs beside a name


def command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONFIG|FOLDER]",
            autocompletion=complete_config_or_folder,
            help="Print this config, or list this folder alone.",
        ),
    ] = None,
) -> None:
    """List the shipped configs, each with the first sentence of its header; or print one."""
    from hpm.runtime.config_files import config_names, find_config
    from hpm.runtime.console import make_console
    from hpm.runtime.files import read_text

    by_folder: dict[str, list[str]] = {folder: [] for folder in _FOLDERS}
    for config in config_names():
        by_folder.setdefault(config.rpartition("/")[0], []).append(config)
    if name is not None:
        folder = name.removeprefix("configs/").removesuffix("/")
        if folder not in by_folder:
            typer.echo(read_text(find_config(name, also=by_folder)), nl=False)
            return
        by_folder = {folder: by_folder[folder]}
    console = make_console()
    for number, (folder, configs) in enumerate(by_folder.items()):
        if number:
            console.print()
        _show(console, folder, configs)


def _show(console: Console, folder: str, configs: list[str]) -> None:
    """Print one folder's configs; in a file or a pipe each is one line, for grep."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from hpm.runtime.config_files import configs_folder, first_sentence
    from hpm.runtime.console import print_table

    about = f": {_FOLDERS[folder]}" if folder in _FOLDERS else ""
    console.print(Text.assemble((folder or "configs", "bold"), about))
    told = {config: first_sentence(configs_folder() / f"{config}.gin") for config in configs}
    width = max(map(len, told))
    if console.is_terminal and console.width < width + _READABLE:
        for config, sentence in told.items():
            console.print(Text(f"  {config}", "cyan"))
            console.print(Padding(Text(sentence), (0, 0, 0, 6)), soft_wrap=False)
    else:
        table = Table.grid(padding=(0, 2))
        for config, sentence in told.items():
            table.add_row("", Text(config, "cyan"), Text(sentence))
        print_table(console, table)
