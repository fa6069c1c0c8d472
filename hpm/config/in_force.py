"""What a configuration comes to, without building any of it: every parameter of every part that it uses."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpm.config import gin_compat
from hpm.config.configuration import Config
from hpm.config.gin_compat import MACRO, Key
from hpm.config.usage import Statement, comparable, last_places, macros_of, of_unused, resolve_macros, spell

REQUIRED = inspect.Parameter.empty
"""The default of a parameter that must be bound, and its value where it is not."""

_ROOT = "Trainer"


@dataclass(frozen=True)
class Setting:
    """One parameter of a part.

    Args:
        name: as `-b` takes it, "Ramp.end".
        value: in force, macros in their values' places; `REQUIRED` where the parameter must be bound and is not.
        default: `REQUIRED` for none.
        where: it was bound, file and line or "-b"; "" for nowhere. Of a macro it is where that was set.
        macros: that the binding refers to.
    """

    name: str
    value: Any
    default: Any
    where: str = ""
    macros: tuple[str, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether the parameter must be bound and is not."""
        return self.value is REQUIRED

    @property
    def is_changed(self) -> bool:
        """Whether the value is another one than the default."""
        return comparable(self.value) != comparable(self.default)


@dataclass(frozen=True)
class Part:
    """A part of a configuration.

    Args:
        name: "Ramp", or "final/KNN" in a scope.
        used_as: what refers to it: "Curriculum.scheduler".
        settings: its parameters, in the order in which it takes them.
    """

    name: str
    used_as: list[str] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)


@dataclass(frozen=True)
class InForce:
    """What a configuration comes to.

    Args:
        used: parts that training builds; of a configuration that is no whole run, such as a curriculum or a study by
            itself, those that it binds.
        others: parts that are bound beside, and that training does not use: an evaluation's, a study's, or a mistake.
    """

    used: list[Part]
    others: list[Part]


def in_force(config: Config) -> InForce:
    """Every parameter of the parts that a configuration uses.

    Args:
        config: the configuration.
    """
    with gin_compat.using(config.memory):
        bound = gin_compat.bound()
    walk = _Walk(config, bound)
    (trainer,) = gin_compat.full_names(_ROOT)
    is_whole = ("", trainer, "method") in bound
    used = walk.from_part(("", trainer)) if is_whole else []
    unused = [key for key in bound if key[1] != MACRO and not walk.has_used(key)]
    beside = {key[:2]: None for key, _, replaced in of_unused(config.statements, unused) if not replaced}
    inner = {
        (wanted or scope, selector)
        for (scope, part, _), value in bound.items()
        if (scope, part) in beside
        for wanted, selector in gin_compat.references(value)
    }
    roots = [part for part in beside if part not in inner]
    others = [found for root in roots for found in walk.from_part(root)]
    return InForce(used, others) if is_whole else InForce(others, [])


class _Walk:
    """Follows references from part to part; meets each once.

    Args:
        config: whose parts are met.
        bound: what is bound in it.
    """

    def __init__(self, config: Config, bound: Mapping[Key, Any]) -> None:
        self._bound = bound
        self._macros = macros_of(bound)
        last = last_places(config.statements)
        self._statements: Mapping[Key, Statement] = {key: config.statements[place] for key, place in last.items()}
        self._met: dict[tuple[str, str], Part] = {}
        self._used: set[Key] = set()

    def has_used(self, key: Key) -> bool:
        """Whether a binding is of a part that was met."""
        return key in self._used

    def from_part(self, root: tuple[str, str]) -> list[Part]:
        """The parts that a part leads to and that were not met before, itself first.

        Args:
            root: scope and selector.
        """
        return list(self._visit(root, used_as=None))

    def _visit(self, part: tuple[str, str], used_as: str | None) -> Iterator[Part]:
        scope, selector = part
        known = part in self._met
        if not known:
            short = gin_compat.short_name(selector)
            self._met[part] = Part(f"{scope}/{short}" if scope else short)
        found = self._met[part]
        if used_as is not None and used_as not in found.used_as:
            found.used_as.append(used_as)
        if known:
            return
        yield found
        for name in self._parameters(part):
            setting, references = self._setting(part, name)
            found.settings.append(setting)
            for wanted, inner in references:
                if inner != MACRO:
                    yield from self._visit((wanted or scope, inner), setting.name)

    def _parameters(self, part: tuple[str, str]) -> list[str]:
        """Names, those that a part takes by **kwargs where they are bound."""
        scope, selector = part
        parameters = inspect.signature(gin_compat.registered()[selector]).parameters
        named = [
            name for name, given in parameters.items() if given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD)
        ]
        outer = ("", *_scopes(scope))
        more = [name for within, other, name in self._bound if other == selector and within in outer]
        return list(dict.fromkeys([*named, *more]))

    def _setting(self, part: tuple[str, str], name: str) -> tuple[Setting, list[tuple[str, str]]]:
        """A parameter, and what its value refers to."""
        scope, selector = part
        parameter = inspect.signature(gin_compat.registered()[selector]).parameters.get(name)
        default = REQUIRED if parameter is None else parameter.default
        for within in (*reversed(_scopes(scope)), ""):
            if (key := (within, selector, name)) in self._bound:
                break
        else:
            return Setting(spell((scope, selector, name)), default, default), []
        self._used.add(key)
        macros = list(self._macros_in(self._bound[key]))
        value = resolve_macros(self._bound[key], self._macros)
        last = (macros[-1], MACRO, "value") if macros else key
        where = self._statements[last].where
        return Setting(spell(key), value, default, where, tuple(macros)), gin_compat.references(value)

    def _macros_in(self, value: Any) -> Iterator[str]:
        for name, selector in gin_compat.references(value):
            if selector == MACRO:
                yield name
                if name in self._macros:
                    yield from self._macros_in(self._macros[name])


def _scopes(scope: str) -> list[str]:
    """A scope and those around it, the outermost first: "a" and "a/b" for "a/b"."""
    parts = scope.split("/") if scope else []
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]
