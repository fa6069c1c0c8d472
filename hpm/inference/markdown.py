"""Texts of others within a page in Markdown: no value becomes a heading, a link, a tag or another cell of a table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from hpm.tracking.redact import redact_text

_SPECIAL = re.compile(r"([\\`*_\[\]|~#$])")  # each of which a backslash makes plain
_TAGS = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_BREAKS = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")
_NOT_SHOWN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_ADDRESS = re.compile(r"(?<=[a-z])://|(?<=www)\.(?=\w)|(?<=\w)@(?=\w)", re.I)  # what GitHub makes a link of by itself

_QUOTED = re.compile(r"""(['"])((?:[\w-]+:)?)(?:~|/(?!/))[^'"\n]*\1""")
_OF_FILES = re.compile(r"\b(sqlite|file):/{2,4}(?:[^\s'\",()\[\]/]+/)*")
_PLAIN = re.compile(r"(?<![\w/.~])~?/(?:[^\s'\",()\[\]/]+/)+")


def escape(value: Any) -> Markup:
    """A value as Markdown shows it, letter by letter; what is Markdown already stays, and None is "not recorded"."""
    if value is None:
        return Markup("not recorded")
    if isinstance(value, Markup):
        return value
    text = _SPECIAL.sub(r"\\\1", _one_line(str(value)))
    text = re.sub("[&<>]", lambda found: _TAGS[found[0]], text)
    return Markup(_ADDRESS.sub(lambda found: "".join(f"&#{ord(letter)};" for letter in found[0]), text))


def code(value: Any) -> Markup:
    """A value in a span of code, which may stand in a table."""
    text = _one_line(str(value)).replace("|", "\\|")
    if not text.strip():
        return Markup("(empty)")
    fence = "`" * (_longest_run(text) + 1)
    space = " " if text[0] == "`" or text[-1] == "`" else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def block(text: str, language: str = "") -> Markup:
    """A text in a block of code.

    Args:
        text: of any number of lines.
        language: that its colors are of, "python". Default none.
    """
    fence = "`" * max(3, _longest_run(text) + 1)
    return Markup(f"{fence}{language}\n{_NOT_SHOWN.sub('', text).rstrip()}\n{fence}")


def shareable(text: str) -> str:
    """A text that may leave this machine: without secrets in addresses, and of absolute paths the last part alone.

    Args:
        text: bindings, or a value of one.
    """

    def last(found: re.Match[str]) -> str:
        quote, scheme = found[1], found[2]
        return f"{quote}{scheme}{Path(found[0].strip(quote)).name}{quote}"

    return _PLAIN.sub("", _QUOTED.sub(last, _OF_FILES.sub(r"\1:", redact_text(text))))


def _one_line(text: str) -> str:
    return _NOT_SHOWN.sub("", _BREAKS.sub(" ", text)).strip()


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
