"""Passwords of addresses, which must not reach files, messages and parameters."""

from __future__ import annotations

import re
from urllib.parse import unquote

_PASSWORDS = re.compile(
    r"(?<=://)(?P<user>[^:/@\s]*:)\S*(?=@)|(?P<query>[?&]\w*(?:password|passwd|pwd|token|secret)\w*=)[^&\s]+", re.I
)


def without_password(text: str) -> str:
    """An address, or a message that holds one, with `***` in the place of passwords."""
    return _PASSWORDS.sub(lambda found: f"{found['user'] or found['query']}***", text)


def redact_address(text: str, uri: str) -> str:
    """A text with an address shown without password wherever it stands.

    Args:
        text: a file's or a parameter's.
        uri: the address, with its password.
    """
    return text.replace(uri, without_password(uri))


def redact_message(text: str, uri: str) -> str:
    """An error's message without the password of an address, also where the password stands alone.

    Args:
        text: the message, which may hold the address, a part of it, or the password as a person knows it.
        uri: the address, with its password.
    """
    text = text.replace(uri.rstrip("/"), without_password(uri))
    for secret in _passwords(uri):
        text = text.replace(secret, "***")
    return text


def _passwords(uri: str) -> list[str]:
    """The passwords of an address, as they stand there and as a person knows them."""
    found = [match[0].removeprefix(match["user"] or match["query"]) for match in _PASSWORDS.finditer(uri)]
    return [secret for raw in found if raw for secret in (raw, unquote(raw))]
