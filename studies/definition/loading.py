"""A study's definition, read from gin files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna import pruners, samplers

from hpm.config import parse_config, register_configurables
from hpm.errors import UserError
from studies.definition.ablation import Ablation
from studies.definition.base import Definition
from studies.definition.search import Search

_KINDS: dict[str, type[Definition]] = {cls.kind: cls for cls in (Ablation, Search)}
_OPTUNA_CLASSES = (
    samplers.TPESampler,
    samplers.RandomSampler,
    samplers.GPSampler,
    samplers.NSGAIISampler,
    pruners.MedianPruner,
    pruners.PercentilePruner,
    pruners.HyperbandPruner,
    pruners.SuccessiveHalvingPruner,
    pruners.WilcoxonPruner,
    pruners.PatientPruner,
)


def load_definition(kind: str, configs: Sequence[str], bindings: Sequence[str] = ()) -> Definition:
    """Read a study's definition.

    Args:
        kind: "ablation" or "search".
        configs: gin files that define it.
        bindings: gin bindings over them.

    Raises:
        UserError: naming the file or binding at fault.
    """
    quiet_optuna()
    register_configurables([*_KINDS.values(), *_OPTUNA_CLASSES])
    part = _KINDS[kind].__name__
    config = parse_config(configs, bindings)
    if not config.binds(part):
        raise UserError(
            f"{configs[0]} binds nothing of {part}; `ablate` takes a file of an Ablation, `search` of a Search"
        )
    definition: Definition = config.build(part)
    definition.keep_config(config.imports, config.bindings_of)
    return definition


def quiet_optuna() -> None:
    """Keep to what a user can act on: the heartbeat has been called experimental since 2021."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
