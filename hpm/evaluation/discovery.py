"""Which evaluations there are: a new one is a module of this package, and its metrics stand in `hpm.metrics`."""

from __future__ import annotations

import inspect
import pkgutil
from functools import cache
from importlib import import_module

import hpm.evaluation
from hpm.evaluation.base import Evaluation


@cache
def protocols() -> dict[str, type[Evaluation]]:
    """Every evaluation of this package, by its `protocol`, in alphabetical order."""
    classes: list[type[Evaluation]] = []
    for module in pkgutil.iter_modules(hpm.evaluation.__path__, "hpm.evaluation."):
        for value in vars(import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Evaluation) and value.__module__ == module.name:
                classes.append(value)
    return {cls.protocol: cls for cls in sorted(classes, key=lambda cls: cls.protocol) if not inspect.isabstract(cls)}
