"""Masked image modelling with Hard Patches Mining and any other mask curriculum.

From Python: `train` pre-trains, `load` gives a trained model, `evaluate` measures it; `Run` is a run that is there. The
curriculum alone is the package `curriculum`. What they need is imported when one of them is asked for, so that
`hpm --help` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpm.errors import Interrupted, TrainingError, UserError
    from hpm.interface.calls import evaluate, load, train
    from hpm.interface.model import Model
    from hpm.interface.run import Run

__version__ = "0.1.0"

__all__ = ["Interrupted", "Model", "Run", "TrainingError", "UserError", "evaluate", "load", "train"]

_MODULES = {
    "interface.calls": ("evaluate", "load", "train"),
    "interface.model": ("Model",),
    "interface.run": ("Run",),
    "errors": ("Interrupted", "TrainingError", "UserError"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            import importlib

            return getattr(importlib.import_module(f"hpm.{module}"), name)
    raise AttributeError(f"module 'hpm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
