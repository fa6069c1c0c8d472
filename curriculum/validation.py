"""Checks of settings, each with one sentence that names the setting at fault and says what would be right.

Every check takes the owner's name, as a config writes it, and settings by name. NaN passes none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def require_at_least(owner: str, minimum: float, **settings: float | None) -> None:
    """Refuse numbers below a minimum; None passes, where a signature allows it.

    Args:
        owner: the part that the settings belong to.
        minimum: the smallest number that passes.
        **settings: the numbers, by the names of the settings.

    Raises:
        ValueError: if a number is too small; it names the setting.
    """
    for name, value in settings.items():
        if value is not None and not value >= minimum:
            raise ValueError(f"{owner}.{name} = {value} must be at least {minimum}")


def require_positive(owner: str, **settings: float | None) -> None:
    """Refuse numbers that are not above 0; None passes, where a signature allows it.

    Args:
        owner: the part that the settings belong to.
        **settings: the numbers, by the names of the settings.

    Raises:
        ValueError: if a number is not positive; it names the setting.
    """
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{owner}.{name} = {value} must be positive")


def require_in(owner: str, interval: str, **settings: float | None) -> None:
    """Refuse numbers outside an interval; None passes, where a signature allows it.

    Args:
        owner: the part that the settings belong to.
        interval: the interval as mathematics writes it, "[0, 1)".
        **settings: the numbers, by the names of the settings.

    Raises:
        ValueError: if a number lies outside; it names the setting.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in settings.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{owner}.{name} = {value} must lie in {interval}")


def require_span(owner: str, *, begin: float, until: float) -> None:
    """Refuse a span of training that does not lie within [0, 1] or is empty.

    Args:
        owner: the part that the settings belong to.
        begin: progress at which the span begins.
        until: progress at which the span ends.

    Raises:
        ValueError: if not 0 <= begin < until <= 1.
    """
    if not 0 <= begin < until <= 1:
        raise ValueError(f"{owner}.begin = {begin} and {owner}.until = {until} must satisfy 0 <= begin < until <= 1")


def require_choice(owner: str, choices: Iterable[Any], **settings: Any) -> None:
    """Refuse values that are not among the choices.

    Args:
        owner: the part that the settings belong to.
        choices: the values that pass; 1 is not True, and 0 not False.
        **settings: the values, by the names of the settings.

    Raises:
        ValueError: if a value is not among the choices; it names the setting and every choice.
    """
    known = tuple(choices)
    for name, value in settings.items():
        # 1 == True and 0 == False, but they are other settings.
        if not any(value == choice and type(value) is type(choice) for choice in known):
            raise ValueError(f"{owner}.{name} = {value!r} is unknown; choose {', '.join(map(repr, known))}")


def require_instance(owner: str, kind: Any, **settings: Any) -> None:
    """Refuse objects of another class.

    Args:
        owner: the part that the settings belong to.
        kind: the class, or a union of classes.
        **settings: the objects, by the names of the settings.

    Raises:
        ValueError: if an object is of another class; it names the setting, the class and what was given.
    """
    for name, value in settings.items():
        if not isinstance(value, kind):
            kinds = getattr(kind, "__args__", (kind,))
            expected = " or ".join("None" if one is type(None) else one.__name__ for one in kinds)
            article = "an" if expected[0] in "AEIOUaeiou" else "a"
            raise ValueError(f"{owner}.{name} must be {article} {expected}, got {_describe(value)}")


def _describe(value: Any) -> str:
    """Say what was given instead: a class that is not called, a plain value, or an object of some class."""
    if isinstance(value, type):
        return f"the class {value.__name__}; call it"
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else type(value).__name__
