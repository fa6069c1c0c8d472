"""gin at the edge: the only module that knows how a config becomes objects.

Every part is a plain class; here its public name is registered, configs are found and parsed, and every mistake in
one becomes a `UserError` before anything runs: a misspelt parameter, an unknown selector, a macro that is unset or
unused, a value of the wrong type, a binding that nothing consumed.

What is bound must be used. The one exception is a part that a later binding replaced: `curricula/random` after
`quickstart` puts a `Constant` where a `Ramp` was, and what had been bound for the `Ramp` until then is dropped.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gin
from beartype import BeartypeConf
from beartype.door import is_bearable
from gin import config as gin_config
from gin import config_parser

from hpm.errors import UserError

_NUMERIC_TOWER = BeartypeConf(is_pep484_tower=True)  # an int is a good float
_MACRO = "gin.macro"
_Key = tuple[str, str, str]  # scope, selector, parameter


def configs_folder() -> Path:
    """The shipped configs: beside the package in a wheel, beside the source in a clone."""
    here = Path(__file__).resolve().parents[1]
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def configurables() -> dict[str, list[type]]:
    """Every part that a config can name, by what it is."""
    import curriculum
    from hpm.data import DigitScenes, FashionMNIST, ImageFolder, RandomResizedCrop, TimmDataset
    from hpm.evaluation import (
        KNN,
        Agreement,
        Diagnostics,
        FineTune,
        Linear,
        LinearMAE,
        Localization,
        LowShot,
        Ridge,
    )
    from hpm.methods.decay import HorizonDecay, RampDecay
    from hpm.methods.loss_prediction import AbsoluteLoss, ContrastiveLoss, ListwiseLoss, RelativeLoss
    from hpm.methods.method import Method
    from hpm.models.masked_autoencoder import MaskedAutoencoder
    from hpm.models.simmim import SimMIM
    from hpm.models.swin import Swin
    from hpm.models.vit import ViT
    from hpm.optim.optimization import Optimization
    from hpm.optim.schedule import Schedule
    from hpm.runtime.settings import Runtime
    from hpm.targets import HOG, NormalizedPixels, Pixels, TeacherFeatures, TimmFeatures, WeightedTargets
    from hpm.tracking.mlflow import MLflowTracker
    from hpm.training.settings import Checkpointing, Loading, Monitoring
    from hpm.training.trainer import Trainer

    return {
        "schedulers": [
            curriculum.Bandit,
            curriculum.Chained,
            curriculum.Competence,
            curriculum.Constant,
            curriculum.Cyclic,
            curriculum.Held,
            curriculum.Piecewise,
            curriculum.Plateau,
            curriculum.Ramp,
            curriculum.Reversed,
            curriculum.Scaled,
            curriculum.SelfPaced,
            curriculum.Stepped,
            curriculum.WarmRestarts,
        ],
        "difficulty estimators": [
            curriculum.ADIOS,
            curriculum.CLMAE,
            curriculum.AdaMAE,
            curriculum.Attention,
            curriculum.Cached,
            curriculum.Disagreement,
            curriculum.EdgeDensity,
            curriculum.FeatureNorm,
            curriculum.LossSpread,
            curriculum.Mixture,
            curriculum.Parts,
            curriculum.PixelEntropy,
            curriculum.PixelVariance,
            curriculum.PredictedLoss,
            curriculum.Smoothed,
            curriculum.Switched,
            curriculum.TrueLoss,
            curriculum.Uniform,
        ],
        "samplers": [
            curriculum.Blockwise,
            curriculum.Bonus,
            curriculum.Cells,
            curriculum.FilteredNoise,
            curriculum.HardestFirst,
            curriculum.Hint,
            curriculum.MultiBlock,
            curriculum.Pool,
            curriculum.Quotas,
            curriculum.Random,
            curriculum.Stratified,
            curriculum.Weighted,
        ],
        "curriculum": [curriculum.Curriculum, curriculum.UniformRatio],
        "targets": [HOG, NormalizedPixels, Pixels, TeacherFeatures, TimmFeatures, WeightedTargets],
        "prediction losses": [RelativeLoss, AbsoluteLoss, ListwiseLoss, ContrastiveLoss],
        "teacher decays": [HorizonDecay, RampDecay],
        "data": [DigitScenes, FashionMNIST, ImageFolder, TimmDataset, RandomResizedCrop],
        "evaluations": [KNN, Linear, LinearMAE, Ridge, FineTune, LowShot, Agreement, Diagnostics, Localization],
        "models": [MaskedAutoencoder, SimMIM, ViT, Swin],
        "training": [
            Trainer,
            Method,
            Schedule,
            Optimization,
            Runtime,
            Loading,
            Checkpointing,
            Monitoring,
            MLflowTracker,
        ],
    }


def imported_configurables() -> list[type]:
    """What the modules registered that the configs parsed so far import, beside the parts above."""
    shipped = {cls for classes in configurables().values() for cls in classes}
    registered = (item.wrapped for _, item in gin_config._REGISTRY.items() if item.module != "gin")
    return [thing for thing in registered if thing not in shipped]


def register_configurables(classes: Iterable[type]) -> None:
    """Let configs name these classes."""
    for cls in classes:
        selector = f"{cls.__module__}.{cls.__name__}"
        if selector not in gin_config._REGISTRY:
            with gin.unlock_config():  # a config that was parsed before has locked it
                gin.register(cls.__name__, module=cls.__module__)(cls)


# What may change when a run is resumed: these touch no number, the others in brackets only how numbers are rounded.
_FREE = {
    "Loading.num_workers",
    "Loading.max_unreadable",
    "Checkpointing.every",
    "Checkpointing.keep",
    "Checkpointing.keep_every",
    "Optimization.max_skipped",
    "Monitoring.tracker",
    "ImageFolder.root",
    "TimmDataset.root",
    "FashionMNIST.root",
}
_ROUNDING = {
    "Runtime.device",
    "Runtime.precision",
    "Runtime.compile",
    "Runtime.compile_mode",
    "Runtime.cuda_graphs",
    "Runtime.sharding",
    "Runtime.grad_checkpointing",
    "Runtime.deterministic",
    "Schedule.accumulate",
}


def resume_changes(saved: str, given: str) -> tuple[list[str], list[str]]:
    """How two configurations, as texts, differ: what a resumed run may not change, and what changes its rounding.

    A run repeats exactly under any change of what touches no number: where data and MLflow are, the number of
    workers, how often checkpoints are written. Each difference is a line `Ramp.end: 0.5 -> 0.7`.
    """
    before, after = ({_spell(s.key): str(s.value) for s in _statements(text, "config")} for text in (saved, given))
    refused: list[str] = []
    rounding: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name) or name in _FREE or name.startswith("MLflowTracker."):
            continue
        line = f"{name}: {before.get(name, 'not bound')} -> {after.get(name, 'not bound')}"
        (rounding if name in _ROUNDING else refused).append(line)
    return refused, rounding


def find_config(name: str) -> Path:
    """A config by path, or by the name of a shipped one: `quickstart`, `curricula/attention`."""
    given = Path(name)
    shipped = configs_folder() / name.removeprefix("configs/")
    candidates = [given, given.with_name(given.name + ".gin"), shipped, shipped.with_name(shipped.name + ".gin")]
    for path in candidates:
        if path.is_file():
            return path.resolve()
    known = sorted(str(path.relative_to(configs_folder()).with_suffix("")) for path in configs_folder().rglob("*.gin"))
    raise UserError(f"no config file {name!r}; give a path or one of the shipped configs: {', '.join(known)}")


@dataclass(frozen=True)
class _Statement:
    """One binding as somebody wrote it."""

    key: _Key
    value: Any
    where: str
    on_command_line: bool


@dataclass(frozen=True)
class Config:
    """A parsed configuration.

    Args:
        name: the first config's name, for naming runs.
        statements: every binding, included files' too, in the order in which they were read.
        imports: the modules that the files import, as they write it.
    """

    name: str
    statements: tuple[_Statement, ...]
    imports: tuple[str, ...] = ()

    def build(self, part: str = "Trainer") -> Any:
        """Build the `Trainer`, or another part, and everything under it, and check that every binding was consumed.

        Raises:
            UserError: for any value that a part refuses.
        """
        built = self.build_part(part)
        self._check_consumed()
        return built

    def build_part(self, part: str) -> Any:
        """Build a part and everything under it, whatever else is bound; see `check_bindings`.

        Args:
            part: its name, "KNN".

        Raises:
            UserError: for any value that a part refuses.
        """
        with _as_user_error():
            return gin.get_configurable(part)()

    def parameter(self, part: str, name: str) -> Any:
        """Build what one parameter of a part is bound to, and nothing else of that part.

        Args:
            part: "Trainer".
            name: "source".

        Returns:
            That, or the parameter's default where nothing is bound.

        Raises:
            UserError: for any value that a part refuses, or where there is neither a binding nor a default.
        """
        bound = gin.get_bindings(part, resolve_references=False)
        if name not in bound:
            default = inspect.signature(gin_config._REGISTRY.get_match(part).wrapped).parameters[name].default
            if default is inspect.Parameter.empty:
                raise UserError(f"{part}.{name} is not bound; include 'base.gin', or bind it")
            return default
        with _as_user_error():
            return copy.deepcopy(bound[name])  # how gin follows references and macros

    def check_bindings(self) -> None:
        """Refuse bindings of the command line that nothing consumed; call it once the parts in question are built.

        Raises:
            UserError: naming the binding.
        """
        for key in [key for key in _bound() if not _consumed(key)]:
            statement = self.statements[self._last_places()[key]]
            if statement.on_command_line:
                raise UserError(f"{_spell(key)} ({statement.where}) is bound, but nothing here uses {_hint(key)}")

    def _check_consumed(self) -> None:
        last = self._last_places()
        replaced = _replaced(self.statements)
        for scope, selector, parameter in [key for key in _bound() if not _consumed(key)]:
            key = (scope, selector, parameter)
            statement, place = self.statements[last[key]], last[key]
            if statement.on_command_line or place > replaced.get(_part(key), -1):
                raise UserError(
                    f"{_spell(key)} ({statement.where}) is bound, but nothing in this run uses {_hint(key)}"
                )
            del gin_config._CONFIG[scope, selector][parameter]
            if not gin_config._CONFIG[scope, selector]:
                del gin_config._CONFIG[scope, selector]

    def _last_places(self) -> dict[_Key, int]:
        """Where each key was bound last."""
        return {statement.key: place for place, statement in enumerate(self.statements)}

    def plugins(self) -> dict[str, str]:
        """Folders of the modules that the files import and that are not installed, by module."""
        folders: dict[str, str] = {}
        for statement in gin_config._IMPORTS:
            file = getattr(sys.modules.get(statement.module), "__file__", None)
            if file is not None and "site-packages" not in Path(file).parts:
                depth = len(statement.module.split(".")) + (Path(file).name == "__init__.py")
                folders[statement.module] = str(Path(file).resolve().parents[depth - 1])
        return folders

    def fingerprint(self) -> str:
        """Tells this configuration from others: of what is bound, whatever the order and the file."""
        bound = {_spell(statement.key): str(statement.value) for statement in self.statements}
        return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()[:12]

    def text(self) -> str:
        """The configuration as bound; running from it repeats the run."""
        return gin.config_str(max_line_length=110)

    def operative_text(self) -> str:
        """The same with every default spelled out; running from it repeats the run as well."""
        return gin.operative_config_str(max_line_length=110)

    def parameters(self) -> dict[str, str]:
        """Every parameter in force, defaults included, flattened: `{"Ramp.end": "0.5"}`."""
        flat: dict[str, str] = {}
        for (scope, selector), values in gin_config._OPERATIVE_CONFIG.items():
            if selector != _MACRO:
                flat |= {_spell((scope, selector, name)): str(value) for name, value in values.items()}
        return dict(sorted(flat.items()))


def make_importable(plugins: Mapping[str, str]) -> None:
    """Let a configuration import its own modules from where they lay when its run was started.

    Args:
        plugins: folders of modules, by module, as `Config.plugins` gives them.
    """
    for folder in dict.fromkeys(plugins.values()):
        if folder not in sys.path and Path(folder).is_dir():
            sys.path.append(folder)


def parse_config(configs: Sequence[str], bindings: Sequence[str] = ()) -> Config:
    """Read config files, later ones over earlier, and bindings over all.

    Raises:
        UserError: naming the file, line or binding at fault.
    """
    if not configs:
        raise UserError("name at least one config, e.g. `hpm pretrain quickstart`")
    for classes in configurables().values():
        register_configurables(classes)
    gin.clear_config()
    del gin_config._FILE_READERS[1:]  # looks for configs inside Python packages, and logs an error for each miss
    files = [find_config(name) for name in configs]
    gin_config._LOCATION_PREFIXES[:] = [*(str(file.parent) for file in files), str(configs_folder()), ""]
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # a user's own module, imported by their config
    statements: list[_Statement] = []
    with _as_user_error():
        for file in files:
            gin.parse_config_file(str(file))
            statements += _statements(file.read_text(), file.name)
        for binding in bindings:
            if "=" not in binding:
                raise UserError(f"binding {binding!r} has no '='; write -b 'Ramp.end = 0.7'")
            gin.parse_config(binding)
            statements += _statements(binding, "-b")
        gin.finalize()
    for key, value in _bound().items():
        _check_type(key, value)
    imports = sorted(statement.format().strip() for statement in gin_config._IMPORTS)
    return Config(files[0].stem, tuple(statements), tuple(imports))


class _as_user_error:
    """Turns gin's exceptions, whose classes are made on the fly, into plain ones."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    """An exception's own message and, where gin knows it, the file and line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith("In call to configurable")]
    return "; ".join(kept) or type(error).__name__


def _statements(text: str, source: str) -> Iterator[_Statement]:
    """The bindings that a text makes, those of the files it includes among them, in order."""
    on_command_line = source == "-b"
    with gin_config._parse_scope():
        for statement in config_parser.ConfigParser(text, gin_config.ParserDelegate()):
            if isinstance(statement, config_parser.IncludeStatement):
                file = next(
                    path
                    for prefix in gin_config._LOCATION_PREFIXES
                    if (path := Path(prefix, statement.filename)).is_file()
                )
                yield from _statements(file.read_text(), file.name)
            elif isinstance(statement, config_parser.BindingStatement):
                if statement.arg_name:
                    selector = gin_config._REGISTRY.get_match(statement.selector).selector
                    key = (statement.scope, selector, statement.arg_name)
                else:
                    macro = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
                    key = (macro, _MACRO, "value")
                where = source if on_command_line else f"{source}, line {statement.location.line_num}"
                yield _Statement(key, statement.value, where, on_command_line)


def _replaced(statements: Sequence[_Statement]) -> dict[str, int]:
    """Parts and macros that a later binding replaced, and the place of the last binding that did.

    Whatever a replaced value refers to is replaced with it, and so is what that refers to.
    """
    replaced: dict[str, int] = {}
    current: dict[_Key, Any] = {}
    for place, statement in enumerate(statements):
        if statement.key in current:
            pending = [current[statement.key]]
            while pending:
                for reference in gin_config.iterate_references(pending.pop()):
                    scope, selector = reference.config_key
                    part = _part((scope, selector, ""))
                    if replaced.get(part, -1) < place:
                        replaced[part] = place
                        pending += [value for key, value in current.items() if _part(key) == part]
        current[statement.key] = statement.value
    return replaced


def _part(key: _Key) -> str:
    """What a binding belongs to: a macro's name, or a part whatever its scope."""
    scope, selector, _ = key
    return f"%{scope}" if selector == _MACRO else selector


def _bound() -> dict[_Key, Any]:
    return {
        (scope, selector, name): value
        for (scope, selector), values in gin_config._CONFIG.items()
        for name, value in values.items()
    }


def _consumed(key: _Key) -> bool:
    """Whether some call in this scope, or in one inside it, took the parameter."""
    scope, selector, name = key
    return any(
        used == selector and (place == scope or not scope or place.startswith(f"{scope}/")) and name in values
        for (place, used), values in gin_config._OPERATIVE_CONFIG.items()
    )


def _spell(key: _Key) -> str:
    """A binding as a user writes it."""
    scope, selector, name = key
    if selector == _MACRO:
        return scope
    short = gin_config._REGISTRY.minimal_selector(selector)
    return f"{scope}/{short}.{name}" if scope else f"{short}.{name}"


def _hint(key: _Key) -> str:
    if key[1] == _MACRO:
        return f"it; write %{key[0]} where it is meant, or remove it"
    short = gin_config._REGISTRY.minimal_selector(key[1])
    return f"{short}; put @{short}() where it belongs, or remove the binding"


def _check_type(key: _Key, value: Any) -> None:
    """A literal must be of the type that the parameter declares; references are checked by who takes them."""
    _, selector, name = key
    value = _resolve_macro(value)
    if selector == _MACRO or not _is_literal(value):
        return
    hint = _type_hints(gin_config._REGISTRY[selector].wrapped).get(name)
    if hint is not None and not is_bearable(value, hint, conf=_NUMERIC_TOWER):
        expected = getattr(hint, "__name__", None) if inspect.isclass(hint) else str(hint)
        expected = str(expected).replace("collections.abc.", "")
        raise UserError(f"{_spell(key)} = {value!r} has the wrong type: {expected} is wanted")


def _resolve_macro(value: Any) -> Any:
    """What `%NAME` stands for; anything else is itself."""
    while isinstance(value, gin_config.ConfigurableReference) and value.config_key[1] == _MACRO:
        value = gin_config._CONFIG[value.config_key]["value"]
    return value


def _is_literal(value: Any) -> bool:
    if isinstance(value, list | tuple | set):
        return all(_is_literal(item) for item in value)
    if isinstance(value, dict):
        return all(_is_literal(item) for pair in value.items() for item in pair)
    return not isinstance(value, gin_config.ConfigurableReference)


def _type_hints(fn_or_cls: Callable[..., Any]) -> dict[str, Any]:
    function = fn_or_cls.__init__ if inspect.isclass(fn_or_cls) else fn_or_cls
    try:
        return typing.get_type_hints(function)
    except Exception:  # a plugin whose annotations cannot be resolved is checked by itself alone
        return {}


# gin looks for `importlib.util` when a config file is missing, without importing it.
assert importlib.util
