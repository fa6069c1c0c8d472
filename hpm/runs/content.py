"""What JSON must hold, a run folder's files for example, for whoever reads it: keys, and the types of their values."""

from __future__ import annotations

import inspect
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from hpm.errors import UserError


def require_content(
    content: Any, where: Path | str, needed: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Refuse what is no object of the keys and types that are wanted; keys beside these are left alone.

    Args:
        content: what a file holds, or a part of it.
        where: the file, or what else holds it.
        needed: the type of each key that must be there; True is no number.
        optional: likewise, of keys that may be missing.

    Returns:
        The content.

    Raises:
        UserError: naming the file and the key.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where} is damaged: an object is wanted, and it holds {reprlib.repr(content)}")
    for name, kind in (*needed.items(), *(optional or {}).items()):
        if name not in content:
            if name in needed:
                raise UserError(f"{where} is damaged: it lacks {name!r}")
        elif not _is(content[name], kind):
            raise UserError(
                f"{where} is damaged: {name!r} = {reprlib.repr(content[name])} has the wrong type, "
                f"{_spell(kind)} is wanted"
            )
    return content


def _is(value: Any, kind: Any) -> bool:
    try:
        check_type(value, kind, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        return False
    return all(_fits(leaf, "bool" in str(kind)) for leaf in _leaves(value, str(kind)))


def _fits(leaf: Any, booleans: bool) -> bool:
    """Python's bool is an int, and is no number here; and no whole number is larger than others can hold."""
    if isinstance(leaf, bool):
        return booleans
    return not isinstance(leaf, int) or abs(leaf) < 2**63


def _leaves(value: Any, kind: str) -> Iterator[Any]:
    """All that a value holds, as far down as its type says what."""
    if not isinstance(value, dict | list):
        yield value
    elif kind.startswith(("dict[", "list[")) and "Any" not in kind:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner, kind)


def _spell(kind: Any) -> str:
    return re.sub(r"\b[a-z_]\w*\.", "", kind.__name__ if inspect.isclass(kind) else str(kind))
