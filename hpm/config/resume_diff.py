"""What may change when a run is resumed. Each part says it of its own parameters, by two class attributes:

- `resume_free`: parameters that have no effect on the results, such as where the images are;
- `resume_rounding`: parameters that only change how numbers are rounded, such as the precision.

No other parameter may change.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from hpm.config import gin_compat
from hpm.config.gin_compat import MACRO, Key
from hpm.config.parser import Reader
from hpm.config.usage import comparable, macros_of, resolve_macros, spell

_ABSENT = object()  # what no value equals


def resume_changes(saved: str, given: str) -> tuple[list[str], list[str]]:
    """How two configurations differ: what a resumed run may not change, and what changes its rounding.

    Settings that have no effect on the results may change freely, such as the paths of images, the address of MLflow,
    the number of loader processes, and how often checkpoints are written. A value that is bound to its default is the
    same as one that is not bound.

    Args:
        saved: the run's configuration, as `Config.text` gives it.
        given: the one that it is to be resumed with, whose modules are imported.

    Returns:
        Refused changes and changes of rounding, each a line `Ramp.end: 0.5 -> 0.7`.

    Raises:
        UserError: where a text names a part that is not there.
    """
    before, after = _bound_in(saved, "the run's config.gin"), _bound_in(given, "the given configuration")
    refused: list[str] = []
    rounding: list[str] = []
    for key in sorted(before.keys() | after.keys(), key=spell):
        if comparable(_value_of(before, key)) == comparable(_value_of(after, key)):
            continue
        _, selector, name = key
        part = gin_compat.registered()[selector]
        if name in getattr(part, "resume_free", ()):
            continue
        line = f"{spell(key)}: {before.get(key, 'not bound')} -> {after.get(key, 'not bound')}"
        (rounding if name in getattr(part, "resume_rounding", ()) else refused).append(line)
    return refused, rounding


def _bound_in(text: str, name: str) -> dict[Key, Any]:
    """What a text binds, macros in their values' places."""
    reader = Reader(run_imports=False)
    reader.read_text(text, name)
    bound = {statement.key: statement.value for statement in reader.statements}
    macros = macros_of(bound)
    return {key: resolve_macros(value, macros) for key, value in bound.items() if key[1] != MACRO}


def _value_of(bound: Mapping[Key, Any], key: Key) -> Any:
    """What a parameter is in a scope: what is bound there, else in the scope around it, else the default."""
    scope, selector, name = key
    while (scope, selector, name) not in bound:
        if not scope:
            parameter = inspect.signature(gin_compat.registered()[selector]).parameters.get(name)
            default = inspect.Parameter.empty if parameter is None else parameter.default
            return _ABSENT if default is inspect.Parameter.empty else default
        scope = scope.rpartition("/")[0]
    return bound[scope, selector, name]
