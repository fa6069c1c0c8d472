"""A study binds the seed of every run itself: nothing but the base, which is any run's config, may bind one too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hpm.config import Config, configs_folder, find_config
from hpm.config.gin_compat import MACRO, references
from hpm.config.parser import Reader
from hpm.config.usage import spell
from hpm.errors import UserError

SEED = "Trainer.seed"


def refuse_seed(config: Config, base: Sequence[str], configs: Sequence[str]) -> None:
    """Refuse a seed that would be replaced, where somebody may have meant it.

    Args:
        config: of a run, read from `base`, then `configs`, then bindings.
        base: the configs that every run starts from.
        configs: those over them.

    Raises:
        UserError: naming the place.
    """
    folders = [find_config(name).parent for name in (*base, *configs)]
    reader = Reader([*folders, configs_folder(), Path()], run_imports=False)
    for name in base:
        reader.read_file(find_config(name))
    names = _with_macros(SEED, config)
    for statement in config.statements[len(reader.statements) :]:
        if (name := spell(statement.key)) in names:
            what = "it too" if name == SEED else f"{name}, which its value is"
            raise UserError(
                f"the study itself binds {SEED} for each run, from its seeds; list them there ({statement.where} binds "
                f"{what})"
            )


def _with_macros(name: str, config: Config) -> set[str]:
    """The name, and those of the macros that its value refers to, and theirs."""
    names, found = {name}, {name}
    while found:
        values = [statement.value for statement in config.statements if spell(statement.key) in found]
        macros = {scope for value in values for scope, selector in references(value) if selector == MACRO}
        found = macros - names
        names |= found
    return names
