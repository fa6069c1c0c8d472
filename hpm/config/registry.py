"""What configs can name. Most of it is found: whatever concrete public class a package's modules define under the base
class of its kind. A new scheduler is a new file in `curriculum/schedulers/`, and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from functools import cache
from types import ModuleType

from hpm.config import gin_compat

_SHIPPED = ("curriculum.", "hpm.", "studies.")


def configurables() -> dict[str, list[type]]:
    """Every part that a config can name, by what it is, in alphabetical order."""
    return {kind: list(classes) for kind, classes in _shipped().items()}


def imported_configurables() -> list[type]:
    """What the modules registered that the configs parsed so far import, beside the parts above."""
    shipped = {cls for classes in _shipped().values() for cls in classes}
    return [thing for thing in gin_compat.registered().values() if thing not in shipped]


def taken_name(selectors: Iterable[str]) -> str:
    """What is wrong with a part that is called as a shipped one is, which every shipped config would mean as well.

    Args:
        selectors: of parts.

    Returns:
        A sentence without its end; "" where nothing is wrong.
    """
    shipped = {own_name(selector): selector for selector in gin_compat.registered() if selector.startswith(_SHIPPED)}
    for selector in selectors:
        if shipped.get(own_name(selector), selector) != selector:
            return f"{selector} has the name of {shipped[own_name(selector)]}, which shipped configs mean; rename it"
    return ""


def own_name(selector: str) -> str:
    """The part's own name, without its module."""
    return selector.rpartition(".")[2]


def register_all() -> None:
    """Let configs name every shipped part."""
    for classes in _shipped().values():
        register_configurables(classes)


def register_configurables(classes: Iterable[type]) -> None:
    """Let configs name these classes."""
    for cls in classes:
        gin_compat.register(cls)


def concrete_classes(package: ModuleType, base: type) -> list[type]:
    """The public classes under a base class that the modules of a package define.

    Left out are abstract classes, names that start with an underscore, and modules of such names.

    Args:
        package: whose modules are looked through; they are imported.
        base: what the classes inherit from.
    """
    found: list[type] = []
    for info in pkgutil.iter_modules(package.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, thing in vars(module).items():
            own = inspect.isclass(thing) and thing.__module__ == module.__name__ and not name.startswith("_")
            if own and issubclass(thing, base) and not inspect.isabstract(thing):
                found.append(thing)
    return found


@cache
def _shipped() -> dict[str, tuple[type, ...]]:
    # Imported here: looking up the name of a config needs none of it.
    import curriculum
    import hpm.data.sources
    import hpm.evaluation
    import hpm.methods
    import hpm.models
    import hpm.targets
    from hpm.data import ImageSource, RandomResizedCrop
    from hpm.methods.decay import Decay
    from hpm.methods.loss_prediction import PredictionLoss
    from hpm.methods.method import Method
    from hpm.methods.supervision import SemiSupervised
    from hpm.models.base import MaskedModel
    from hpm.models.encoder import Encoder
    from hpm.optim.optimization import Optimization
    from hpm.optim.schedule import Schedule
    from hpm.runtime.settings import Runtime
    from hpm.tracking.mlflow import MLflowTracker
    from hpm.training.settings import Checkpointing, Loading, Monitoring
    from hpm.training.trainer import Trainer

    settings = [Schedule, Optimization, Runtime, Loading, Checkpointing, Monitoring]
    models = hpm.models
    kinds: dict[str, list[type]] = {
        "schedulers": concrete_classes(curriculum.schedulers, curriculum.Scheduler),
        "difficulty estimators": concrete_classes(curriculum.difficulty, curriculum.DifficultyEstimator),
        "samplers": concrete_classes(curriculum.samplers, curriculum.Sampler),
        "image difficulties": concrete_classes(curriculum.images, curriculum.ImageDifficulty),
        "image selections": concrete_classes(curriculum.images, curriculum.ImageSelection),
        "curriculum": [
            curriculum.Curriculum,
            curriculum.ImageCurriculum,
            curriculum.PartialReconstruction,
            curriculum.UniformRatio,
        ],
        "targets": concrete_classes(hpm.targets, hpm.targets.Target),
        "prediction losses": concrete_classes(hpm.methods, PredictionLoss),
        "teacher decays": concrete_classes(hpm.methods, Decay),
        "supervision": [SemiSupervised],
        "data": [*concrete_classes(hpm.data.sources, ImageSource), RandomResizedCrop],
        "evaluations": concrete_classes(hpm.evaluation, hpm.evaluation.Evaluation),
        "models": [*concrete_classes(models, MaskedModel), *concrete_classes(models, Encoder)],
        "training": [Trainer, Method, *settings, MLflowTracker],
    }
    return {kind: tuple(sorted(classes, key=_by_name)) for kind, classes in kinds.items()}


def _by_name(cls: type) -> str:
    return cls.__name__.lower()
