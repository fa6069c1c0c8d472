"""What somebody may have meant by a name that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MOST = 3


def names_like(name: str, known: Iterable[str]) -> list[str]:
    """The names that are written nearly so, capitals or not, the nearest first."""
    by_letters = {other.lower(): other for other in known}
    return [by_letters[letters] for letters in difflib.get_close_matches(name.lower(), by_letters, n=_MOST)]


def did_you_mean(names: Iterable[str]) -> str:
    """A question to put after a sentence that ends; nothing where there are none."""
    meant = " or ".join(names)
    return f" Did you mean {meant}?" if meant else ""
