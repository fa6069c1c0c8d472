"""What of a configuration is used: consumed by a part that was built, replaced by a later binding, or by nothing.

What is bound must be used. The one exception is a part that a later binding replaced: `curricula/random` after
`quickstart` puts a `Constant` where a `Ramp` was, and what had been bound for the `Ramp` until then is dropped. A macro
that only replaced values refer to is dropped wherever it is set: `data/fashion_mnist` sets IMG_SIZE whatever the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from hpm.config import gin_compat
from hpm.config.gin_compat import MACRO, Key
from hpm.errors import UserError
from hpm.runtime.suggestions import did_you_mean, names_like


@dataclass(frozen=True)
class Statement:
    """One binding as somebody wrote it.

    Args:
        key: what is bound.
        value: to what.
        where: file and line, or "-b".
        on_command_line: whether it is of the command line.
    """

    key: Key
    value: Any
    where: str
    on_command_line: bool


def spell(key: Key) -> str:
    """A key as a user writes it: `Ramp.end`, `final/KNN.k`, `SIZE`."""
    scope, selector, name = key
    if selector == MACRO:
        return scope
    short = gin_compat.short_name(selector)
    return f"{scope}/{short}.{name}" if scope else f"{short}.{name}"


def last_places(statements: Sequence[Statement]) -> dict[Key, int]:
    """Where each key was bound last."""
    return {statement.key: place for place, statement in enumerate(statements)}


def resolve_macros(value: Any, macros: Mapping[str, Any]) -> Any:
    """A value with every `%NAME` in it as what it stands for; a macro that is not set stays.

    Args:
        value: as it is bound.
        macros: values by name, without circles.
    """
    name = gin_compat.macro_name(value)
    if name is not None:
        return resolve_macros(macros[name], macros) if name in macros else value
    if isinstance(value, list | tuple):
        return type(value)(resolve_macros(item, macros) for item in value)
    if isinstance(value, dict):
        return {resolve_macros(key, macros): resolve_macros(item, macros) for key, item in value.items()}
    return value


def macros_of(bound: Mapping[Key, Any]) -> dict[str, Any]:
    """The macros among bindings, by name."""
    return {scope: value for (scope, selector, _), value in bound.items() if selector == MACRO}


def comparable(value: Any) -> Any:
    """Something that is equal for values that mean the same: [1, 2] and (1, 2), but not 1 and True."""
    if isinstance(value, list | tuple):
        return tuple(comparable(item) for item in value)
    if isinstance(value, dict):
        return tuple((comparable(key), comparable(item)) for key, item in value.items())
    if isinstance(value, bool) or gin_compat.is_reference(value):
        return type(value), str(value)  # gin holds references to one part in two scopes for equal
    return value


def check_macros(statements: Sequence[Statement]) -> None:
    """Refuse references to macros that nobody set; those of a replaced part are dropped with it.

    Raises:
        UserError: naming the macro, and the binding that refers to it.
    """
    bound, last, gone = gin_compat.bound(), last_places(statements), _replaced(statements)
    named = {_part(scope, selector) for value in bound.values() for scope, selector in gin_compat.references(value)}
    for key, value in bound.items():
        wanted = [scope for scope, selector in gin_compat.references(value) if selector == MACRO]
        unset = [name for name in wanted if (name, MACRO, "value") not in bound]
        if not unset:
            continue
        part = _part(*key[:2])
        if part not in named and last[key] < gone.get(part, -1):
            gin_compat.forget(key)
            continue
        meant = did_you_mean(f"%{name}" for name in names_like(unset[0], macros_of(bound)))
        raise UserError(
            f"{spell(key)} ({statements[last[key]].where}) is %{unset[0]}, which is not set; write {unset[0]} = ... in "
            f"a config, or -b '{unset[0]} = ...'{meant and f'.{meant}'}"
        )


def check_used(statements: Sequence[Statement], taken: Set[Key], *, in_files: bool) -> None:
    """Refuse bindings that no part consumed. Those of a part that was replaced are dropped instead.

    Args:
        statements: every binding, in the order in which they were read.
        taken: keys whose values somebody took without building the part.
        in_files: whether to look at what files bind, too, rather than at the command line alone.

    Raises:
        UserError: naming the binding.
    """
    consumed = gin_compat.consumed()
    unused = [key for key in gin_compat.bound() if key not in taken and not _is_consumed(key, consumed)]
    for key, statement, is_replaced in of_unused(statements, unused):
        if not in_files and not statement.on_command_line:
            continue
        if not is_replaced:
            raise UserError(f"{spell(key)} ({statement.where}) is bound, but nothing in this run uses {_hint(key)}")
        gin_compat.forget(key)


def of_unused(statements: Sequence[Statement], unused: Iterable[Key]) -> Iterator[tuple[Key, Statement, bool]]:
    """Each binding that nothing uses with its statement, and whether it may be so: one in a file, of what was replaced.

    Args:
        statements: every binding, in the order in which they were read.
        unused: keys that are bound.
    """
    last, gone = last_places(statements), _replaced(statements)
    for key in sorted(unused, key=last.__getitem__):
        statement, part = statements[last[key]], _part(*key[:2])
        is_replaced = part in gone and (key[1] == MACRO or last[key] < gone[part])
        yield key, statement, is_replaced and not statement.on_command_line


def _replaced(statements: Sequence[Statement]) -> dict[str, int]:
    """Parts and macros that a later binding replaced, and the place of the last binding that did.

    Whatever a replaced value refers to is replaced with it, and so is what that refers to.
    """
    replaced: dict[str, int] = {}
    current: dict[Key, Any] = {}
    for place, statement in enumerate(statements):
        pending = [current[statement.key]] if statement.key in current else []
        while pending:
            for scope, selector in gin_compat.references(pending.pop()):
                part = _part(scope, selector)
                if replaced.get(part, -1) < place:
                    replaced[part] = place
                    pending += [value for key, value in current.items() if _part(*key[:2]) == part]
        current[statement.key] = statement.value
    return replaced


def _part(scope: str, selector: str) -> str:
    """What a binding belongs to: a macro's name, or a part whatever its scope."""
    return f"%{scope}" if selector == MACRO else selector


def _is_consumed(key: Key, consumed: Mapping[Key, Any]) -> bool:
    """Whether some call in this scope, or in one inside it, took the parameter."""
    scope, selector, name = key
    return any(
        used == selector and taken == name and (place == scope or not scope or place.startswith(f"{scope}/"))
        for place, used, taken in consumed
    )


def _hint(key: Key) -> str:
    scope, selector, _ = key
    if selector == MACRO:
        others = [name for name in macros_of(gin_compat.bound()) if name != scope]
        meant = did_you_mean(names_like(scope, others))
        return f"it; write %{scope} where it is meant, or remove it{meant and f'.{meant}'}"
    short = gin_compat.short_name(selector)
    return f"{short}; put @{short}() where it belongs, or remove the binding"
