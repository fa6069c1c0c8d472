"""A study's definition, read from gin files."""

from __future__ import annotations

from collections.abc import Sequence

from optuna import pruners, samplers

from hpm.config import parse_config, register_configurables
from hpm.errors import UserError
from studies.definition.ablation import Ablation
from studies.definition.base import Definition
from studies.definition.identity import quiet_optuna
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
_PARTS: tuple[type, ...] = (*_KINDS.values(), *_OPTUNA_CLASSES)


def load_definition(kind: str, configs: Sequence[str], bindings: Sequence[str] = ()) -> Definition:
    """Read a study's definition.

    Args:
        kind: "ablation" or "search".
        configs: gin files that define it.
        bindings: gin bindings over them. Those that are not of the study's own parts, nor of a macro that its files
            refer to, are of its runs: they are added to the definition's `bindings`, over its base and under its
            variants or its space.

    Raises:
        UserError: naming the file or binding at fault.
    """
    quiet_optuna()
    register_configurables(_PARTS)
    part = _KINDS[kind].__name__
    of_study, of_runs = _divide(configs, bindings)
    config = parse_config(configs, of_study)
    if not config.binds(part):
        raise UserError(
            f"{configs[0]} binds nothing of {part}; `ablate` takes a file of an Ablation, `search` of a Search"
        )
    definition: Definition = config.build(part)
    definition.keep_config(config.imports, config.bindings_of)
    definition.bindings = (*definition.bindings, *of_runs)
    return definition


def _divide(configs: Sequence[str], bindings: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is bound of the study and of the macros that its files refer to, and what is bound of its runs."""
    keys = [binding.partition("=")[0].strip() for binding in bindings]
    # The class in "scope/module.Class.parameter"; empty for a macro.
    classes = [key.rpartition("/")[2].rpartition(".")[0].rpartition(".")[2] for key in keys]
    names = {"", *(cls.__name__ for cls in _PARTS)}
    config = parse_config(configs, [binding for binding, name in zip(bindings, classes, strict=True) if name in names])
    of_study: list[str] = []
    of_runs: list[str] = []
    for binding, key, name in zip(bindings, keys, classes, strict=True):
        (of_study if name in names and (name or config.refers_to(key)) else of_runs).append(binding)
    return of_study, of_runs
