"""What this project takes from gin, its private names among it; `gin_text` reads texts, and no other module
knows them.

gin holds one configuration for the whole process. A `Key` names one of its bindings: the scope, "" for none; the
selector, a part's full name such as "curriculum.schedulers.ramps.Ramp"; and the parameter. A macro `SIZE = 20` has the
key ("SIZE", MACRO, "value").
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import gin
from gin import config

Key = tuple[str, str, str]

MACRO = "gin.macro"
_LINE_LENGTH = 110  # of the texts that are written


# What can be named.


def register(cls: type) -> None:
    """Let configs name a class; one that they can name already stays as it is."""
    if f"{cls.__module__}.{cls.__name__}" not in config._REGISTRY:
        with unlocked():
            gin.register(cls.__name__, module=cls.__module__)(cls)


def unlocked() -> AbstractContextManager[None]:
    """Within it classes can be registered also after a config was parsed, which locks gin."""
    return gin.unlock_config()


def unregister(selector: str) -> None:
    """Let no config name a part any longer."""
    config._REGISTRY.pop(selector)


def registered() -> dict[str, Any]:
    """Every class and function that configs can name, gin's own left out, by selector."""
    return {name: item.wrapped for name, item in config._REGISTRY.items() if item.module != "gin"}


def full_names(name: str) -> list[str]:
    """The selectors that a name may mean: `Ramp` is `curriculum.schedulers.ramps.Ramp`."""
    return config._REGISTRY.matching_selectors(name)


def short_name(selector: str) -> str:
    """The shortest name that means this selector and no other."""
    return config._REGISTRY.minimal_selector(selector)


# What values refer to.


def references(value: Any) -> list[tuple[str, str]]:
    """(scope, selector) of all that a value refers to, parts and macros, however deep in lists and dicts."""
    return [reference.config_key for reference in config.iterate_references(value)]


def is_reference(value: Any) -> bool:
    """Whether a value is a part, `@Ramp()`, or a macro, `%SIZE`, rather than a literal."""
    return isinstance(value, config.ConfigurableReference)


def macro_name(value: Any) -> str | None:
    """SIZE for `%SIZE`; None for anything else."""
    if is_reference(value) and value.config_key[1] == MACRO:
        return value.config_key[0]
    return None


def part_of(reference: Any) -> tuple[Any, bool]:
    """What a reference means, a class or a function (None for a macro), and whether it is called, as in `@Part()`.

    Args:
        reference: see `is_reference`.
    """
    return registered().get(reference.config_key[1]), reference.evaluate


# The configuration in force.


@dataclass
class Memory:
    """What gin keeps of one configuration; what can be named is not part of it.

    Args:
        bindings: what is bound.
        consumed: what the parts that were built were given.
        imports: the import statements that were read.
        singletons: what was built once for all.
        locked: whether nothing can be bound any more.
    """

    bindings: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    consumed: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    imports: set[Any] = field(default_factory=set)
    singletons: dict[Any, Any] = field(default_factory=dict)
    locked: bool = False


def memory_in_force() -> Memory:
    """What gin keeps of the configuration that is in force, ours or one that somebody else has parsed."""
    return Memory(
        config._CONFIG, config._OPERATIVE_CONFIG, config._IMPORTS, config._SINGLETONS, config._CONFIG_IS_LOCKED
    )


def put_in_force(memory: Memory) -> None:
    """Make a configuration the one that parts are built from; the one before stays as it is, for whoever has it."""
    config._CONFIG = memory.bindings
    config._OPERATIVE_CONFIG = memory.consumed
    config._IMPORTS = memory.imports
    config._SINGLETONS = memory.singletons
    config._set_config_is_locked(memory.locked)


@contextmanager
def keeping_gin() -> Iterator[None]:
    """Put what is in force now in force again when it is left, whatever configs are parsed within."""
    with using(memory_in_force()):
        yield


@contextmanager
def using(memory: Memory) -> Iterator[None]:
    """Put a configuration in force while it is entered, and the one before again afterwards.

    The scopes that a program has opened around it by `gin.config_scope` are none of the configuration's.
    """
    before = memory_in_force()
    put_in_force(memory)
    try:
        with gin.config_scope(None):
            yield
    finally:
        put_in_force(before)


def bind(key: Key, value: Any) -> None:
    """Bind a parameter.

    Raises:
        ValueError: if the part does not take it.
    """
    gin.bind_parameter(key, value)


def forget(key: Key) -> None:
    """Take a binding back, as if nobody had bound it."""
    scope, selector, parameter = key
    del config._CONFIG[scope, selector][parameter]
    if not config._CONFIG[scope, selector]:
        del config._CONFIG[scope, selector]


def finalize() -> None:
    """Lock the configuration: nothing is bound from now on."""
    gin.finalize()


def bound() -> dict[Key, Any]:
    """What is bound."""
    return _flat(config._CONFIG)


def consumed() -> dict[Key, Any]:
    """What the parts that were built so far were given, or have by default."""
    return _flat(config._OPERATIVE_CONFIG)


def _flat(nested: dict[tuple[str, str], dict[str, Any]]) -> dict[Key, Any]:
    return {
        (scope, selector, name): value for (scope, selector), values in nested.items() for name, value in values.items()
    }


def imports() -> dict[str, str]:
    """The import statements of the texts that were read, by module."""
    return {statement.module: statement.format() for statement in config._IMPORTS}


def config_text() -> str:
    """What is bound, as a text that means the same."""
    return gin.config_str(max_line_length=_LINE_LENGTH)


def operative_text() -> str:
    """What was consumed, defaults included, as a text that means the same."""
    return gin.operative_config_str(max_line_length=_LINE_LENGTH)


# Building.


def build(name: str) -> Any:
    """Build a part, and everything that its bindings refer to."""
    return gin.get_configurable(name)()


def evaluate(value: Any) -> Any:
    """Build what a bound value refers to; a literal is itself, copied."""
    return copy.deepcopy(value)
