"""What refers to what: refused before anything is built where it would go on for ever, or nearly so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hpm.config import gin_compat
from hpm.config.gin_compat import MACRO, Key
from hpm.errors import UserError

_DEPTH = 100  # references through references; Python's own stack ends at about four times as many
_SIZE = 100_000  # parts and macros that one comes to

_NESTED = 50  # lists within lists

_Part = tuple[str, str]  # scope and selector


def is_nested_too_deep(value: Any, depth: int = _NESTED) -> bool:
    """Whether lists, tuples and dicts lie in more others than a value may have: what goes through it calls itself."""
    if not isinstance(value, list | tuple | dict):
        return False
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    return depth == 0 or any(is_nested_too_deep(item, depth - 1) for item in items)


def check_references(bound: Mapping[Key, Any]) -> None:
    """Refuse a part or a macro that is made of itself, of references too deep to follow, or of too many.

    A macro that doubles the one before it is a text of a few lines, and stands for more than any memory holds.

    Args:
        bound: every binding.

    Raises:
        UserError: naming all of the circle, or what refers to so many.
    """
    by_part: dict[_Part, dict[str, Any]] = {}
    for (scope, selector, name), value in bound.items():
        by_part.setdefault((scope, selector), {})[name] = value
    sizes: dict[_Part, int] = {}

    def size(part: _Part, path: tuple[_Part, ...]) -> int:
        """How many parts and macros it takes to build one."""
        if part in path:
            circle = [*path[path.index(part) :], part]
            raise UserError(
                f"{_name(part)} would be made of itself: {' -> '.join(map(_name, circle))}; bind one of them otherwise"
            )
        if len(path) > _DEPTH:
            raise UserError(
                f"{_name(path[0])} refers to others through more than {_DEPTH} references ({_begin(path)}); bind one "
                "of them to a value"
            )
        if part not in sizes:
            within = [reference for value in _values(part, by_part) for reference in gin_compat.references(value)]
            sizes[part] = 1 + sum(size((wanted or part[0], name), (*path, part)) for wanted, name in within)
            if sizes[part] > _SIZE:
                raise UserError(
                    f"{_name(part)} comes to more than {_SIZE:,} parts and macros, since what it refers to refers to "
                    "others many times over; refer to fewer"
                )
        return sizes[part]

    for part in by_part:
        size(part, ())


def _values(part: _Part, by_part: Mapping[_Part, Mapping[str, Any]]) -> list[Any]:
    """What is bound for a part: what is bound for outer scopes holds in the scopes within."""
    scope, selector = part
    inner = scope.split("/") if scope else []
    values: dict[str, Any] = {}
    for length in range(len(inner) + 1):
        values |= by_part.get(("/".join(inner[:length]), selector), {})
    return list(values.values())


def _name(part: _Part) -> str:
    scope, selector = part
    return f"%{scope}" if selector == MACRO else gin_compat.short_name(selector)


def _begin(path: Sequence[_Part]) -> str:
    return " -> ".join([*map(_name, path[:3]), "..."])
