"""Whether bound values are what their parameters take: found before anything is built, in words that name the binding.

A parameter's own annotation says what it takes. Ranges are checked by the parts themselves (`curriculum.validation`).
"""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from typeguard import CollectionCheckStrategy, ForwardRefPolicy, TypeCheckError, check_type

from hpm.config import gin_compat
from hpm.config.gin_compat import MACRO
from hpm.config.usage import Statement, last_places, macros_of, resolve_macros, spell
from hpm.errors import UserError

_UNKNOWN = object()  # what cannot be told before it is built
_SMALLEST, _LARGEST = 1e-38, 1e38  # about what float32 holds


def check_values(statements: Sequence[Statement]) -> None:
    """Refuse a value that its parameter does not take.

    That is a literal or a part of another type, True or False for a number, and a number that is not finite, that no
    machine holds, or that no model could compute with.

    Args:
        statements: every binding, in the order in which they were read.

    Raises:
        UserError: naming the binding and what is wanted.
    """
    bound, last, parts = gin_compat.bound(), last_places(statements), gin_compat.registered()
    macros = macros_of(bound)
    hints: dict[str, Mapping[str, Any]] = {}
    for key, bound_value in bound.items():
        _, selector, name = key
        if selector == MACRO:
            continue
        value = resolve_macros(bound_value, macros)
        where = statements[last[key]].where
        for leaf in _leaves(value):
            if isinstance(leaf, float) and not math.isfinite(leaf):
                raise UserError(f"{spell(key)} = {value!r} ({where}) must be finite")
            if isinstance(leaf, float) and leaf != 0 and not _SMALLEST <= abs(leaf) <= _LARGEST:
                raise UserError(
                    f"{spell(key)} = {value!r} ({where}) must be 0 or of a size from {_SMALLEST} to {_LARGEST}, as "
                    "float32 holds them, in which models compute"
                )
            if isinstance(leaf, int) and not -(2**63) <= leaf < 2**64:
                raise UserError(f"{spell(key)} = {value!r} ({where}) must fit into 64 bits")
        if selector not in hints:
            hints[selector] = _type_hints(parts[selector])
        hint = hints[selector].get(name)
        built = _as_built(value)
        if hint is None or built is _UNKNOWN or _fits(built, hint):
            continue
        if gin_compat.references(value):
            # What a protocol asks for may be there only once the part is initialized, and what gin binds of a part
            # that is given uncalled is not among its parameters.
            if _names(hint, lambda kind: _is_protocol(kind) or typing.get_origin(kind) is Callable):
                continue
            raise UserError(f"{spell(key)} must be {_spell_wanted(hint)}, got {_describe(built)} ({where})")
        raise UserError(f"{spell(key)} = {value!r} ({where}) has the wrong type: {_spell_type(hint)} is wanted")


def type_names(part: Callable[..., Any]) -> dict[str, str]:
    """What each parameter of a part takes, as its annotation says it, by name; those that have none are left out."""
    return {name: _spell_type(hint) for name, hint in _type_hints(part).items() if name != "return"}


def _as_built(value: Any) -> Any:
    """A value of the type that it has once it is built: an object for each `@Part()`, which is not initialized, and the
    class for `@Part`; `_UNKNOWN` where that cannot be told before, as of a function.
    """
    if isinstance(value, list | tuple):
        items = [_as_built(item) for item in value]
        return _UNKNOWN if any(item is _UNKNOWN for item in items) else type(value)(items)
    if isinstance(value, dict):
        values = [_as_built(item) for item in value.values()]
        unknown = any(item is _UNKNOWN for item in values) or any(map(gin_compat.is_reference, value))
        return _UNKNOWN if unknown else dict(zip(value, values, strict=True))
    if not gin_compat.is_reference(value):
        return value
    part, is_called = gin_compat.part_of(value)
    if not isinstance(part, type):
        return _UNKNOWN
    if not is_called:
        return part
    try:
        return part.__new__(part)  # type: ignore[call-overload]
    except Exception:  # a class that makes its objects in a way of its own
        return _UNKNOWN


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type; here Python's bool is no int, and a text is no sequence of its letters."""
    if isinstance(value, str):
        return any(_passes(value, kind) for kind in _alternatives(hint) if not _is_collection(kind))
    wants_number = _names(hint, lambda kind: kind in (int, float)) and not _names(hint, lambda kind: kind is bool)
    return _passes(value, hint) and not (wants_number and any(isinstance(leaf, bool) for leaf in _leaves(value)))


def _passes(value: Any, hint: Any) -> bool:
    try:
        check_type(
            value,
            hint,
            forward_ref_policy=ForwardRefPolicy.IGNORE,
            collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS,
        )
    except TypeCheckError:
        return False
    except Exception:  # an object that is not initialized need not answer
        pass
    return True


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none by itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_collection(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return inspect.isclass(origin) and issubclass(origin, Iterable)


def _names(hint: Any, wanted: Callable[[Any], bool]) -> bool:
    """Whether a type is, or holds somewhere in it, one that is wanted."""
    return wanted(hint) or any(_names(kind, wanted) for kind in typing.get_args(hint))


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def _leaves(value: Any) -> Iterator[Any]:
    """All that lists, tuples and dicts hold, however deep."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        yield from _leaves([*value.keys(), *value.values()])
    else:
        yield value


def _type_hints(part: Callable[..., Any]) -> Mapping[str, Any]:
    function = part.__init__ if inspect.isclass(part) else part
    try:
        return typing.get_type_hints(function)
    except Exception:  # a plugin whose annotations cannot be resolved is checked by itself alone
        return {}


def _spell_type(hint: Any) -> str:
    name = hint.__name__ if inspect.isclass(hint) else str(hint)
    return re.sub(r"\b[a-z_]\w*\.", "", name)


def _spell_wanted(hint: Any) -> str:
    """A class or a choice of some as a sentence has them, "a Scheduler or None"; any other type as it is written."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not all(map(inspect.isclass, kinds)):
        return _spell_type(hint)
    names = ["None" if kind is type(None) else kind.__name__ for kind in kinds]
    return f"{'an' if names[0][0] in 'AEIOUaeiou' else 'a'} {' or '.join(names)}"


def _describe(value: Any) -> str:
    """What was given instead: a class that is not called, a part, or a list of these."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}; call it"
    return repr(value) if value is None or isinstance(value, bool | int | float | str | dict) else type(value).__name__
