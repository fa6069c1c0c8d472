"""Checks of settings, each with one sentence that names the setting at fault and says what would be right.

Every check takes the owner's name, as a config writes it, and settings by name. NaN passes none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def require_at_least(owner: str, minimum: float, **settings: float | None) -> None:
    """Refuse numbers below a minimum; None passes, where a signature allows it.

    Raises:
        ValueError: naming the setting.
    """
    for name, value in settings.items():
        if value is not None and not value >= minimum:
            raise ValueError(f"{owner}.{name} = {value} must be at least {minimum}")


def require_positive(owner: str, **settings: float | None) -> None:
    """Refuse numbers that are not above 0; None passes, where a signature allows it.

    Raises:
        ValueError: naming the setting.
    """
    for name, value in settings.items():
        if value is not None and not value > 0:
            raise ValueError(f"{owner}.{name} = {value} must be positive")


def require_in(owner: str, interval: str, **settings: float | None) -> None:
    """Refuse numbers outside an interval; None passes, where a signature allows it.

    Args:
        owner: the part that the settings belong to.
        interval: as mathematics writes it, "[0, 1)".
        **settings: the numbers, by name.

    Raises:
        ValueError: naming the setting.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in settings.items():
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{owner}.{name} = {value} must lie in {interval}")


def require_choice(owner: str, choices: Iterable[Any], **settings: Any) -> None:
    """Refuse what is none of the choices.

    Raises:
        ValueError: naming the setting and every choice.
    """
    known = tuple(choices)
    for name, value in settings.items():
        # 1 == True and 0 == False, but they are other settings.
        if not any(value == choice and type(value) is type(choice) for choice in known):
            raise ValueError(f"{owner}.{name} = {value!r} is unknown; choose {', '.join(map(repr, known))}")


def require_instance(owner: str, kind: Any, **settings: Any) -> None:
    """Refuse objects of another class.

    Raises:
        ValueError: naming the setting and the class.
    """
    for name, value in settings.items():
        if not isinstance(value, kind):
            expected = getattr(kind, "__name__", str(kind))
            article = "an" if expected[0] in "AEIOU" else "a"
            raise ValueError(f"{owner}.{name} must be {article} {expected}, got {value!r}")
