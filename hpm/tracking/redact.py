"""Secrets of addresses, which must not reach files, messages and parameters: who asks, with what password or token, and
parameters that are named as secrets are.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

_HIDDEN = "***"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")  # within a text
_DATABASES = ("postgresql", "mysql", "mariadb", "mssql", "oracle")
_USER = re.compile(r"[^:@/?#]*")  # without password
_HOST = re.compile(r"(\[[^\]]*\]|[^:@]*)(:\d*)?")  # and port
_SECRET_NAME = re.compile(
    r"pass(?!ive|age)|pwd|secret|token|(?<![a-z])key|(api|access|private|account|shared|auth)[-_.]?key"
    r"|(^|[^a-z])sig([^a-z]|$)|signature|credential|auth(?!or)|session",
    re.I,
)
# A value ends where another parameter begins: a password that is not encoded may hold any of these characters.
_PARAMETER = re.compile(r"(?P<name>[?&;#][^?&;#=/\s]+=)(?P<value>(?:(?![&;#][^?&;#=/\s]+=)\S)*)")


def without_password(uri: str) -> str:
    """An address with `***` in the place of its secrets.

    Args:
        uri: the address alone; of a text that may hold some see `redact_text`.
    """
    scheme, rest = _divide(uri)
    info, after = _secret_user_info(scheme, rest)
    return scheme + (f"{_HIDDEN}@" if info else "") + _PARAMETER.sub(_hide_value, after)


def redact_text(text: str) -> str:
    """A text in which every address is shown without its secrets.

    Args:
        text: "no answer from https://me:secret@host".
    """
    return _ADDRESS.sub(lambda found: without_password(found[0]), text)


def redact_all(content: Any) -> Any:
    """What JSON can hold, with every text in it as `redact_text` gives it; the keys as they are."""
    if isinstance(content, dict):
        return {key: redact_all(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [redact_all(value) for value in content]
    return redact_text(content) if isinstance(content, str) else content


def redact_address(text: str, uri: str) -> str:
    """A text with an address, and every other, shown without secrets wherever it stands.

    Args:
        text: a file's or a parameter's.
        uri: the address, with its secrets.
    """
    return redact_text(text.replace(uri, without_password(uri)) if uri else text)


def redact_message(text: str, uri: str) -> str:
    """An error's message without the secrets of an address, also where one stands alone.

    Args:
        text: the message, which may hold the address, a part of it as some library divides it, or a password as a
            person knows it.
        uri: the address, with its secrets.
    """
    text = redact_address(text, uri.rstrip("/"))
    for secret in sorted(_secrets(uri), key=len, reverse=True):
        # A short one may be a part of many words.
        whole = re.escape(secret) if len(secret) > 3 else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(whole, _HIDDEN, text)
    return text


def has_ambiguous_password(uri: str) -> bool:
    """Whether a program may take a piece of an address's password for the host."""
    return "@" in _user_info(_divide(uri)[1])[0]


def _divide(uri: str) -> tuple[str, str]:
    scheme, found, rest = uri.partition("://")
    return (scheme + found, rest) if found else ("", uri)


def _user_info(rest: str) -> tuple[str, str, str]:
    """What stands before an address's host: user and password, the `@`, and what follows.

    A password that is not encoded may hold `/`, `?`, `#` and `@`: too much is hidden rather than too little.
    """
    if rest.startswith("/"):  # a file's path
        return "", "", rest
    authority = re.split(r"[/?#]", rest)[0]
    plain = "@" not in authority and _HOST.fullmatch(authority) is not None
    end = re.split(r"[?#]", rest)[0] if plain else rest
    at = end.rfind("@")
    return ("", "", rest) if at < 0 else (rest[:at], "@", rest[at + 1 :])


def _secret_user_info(scheme: str, rest: str) -> tuple[str, str]:
    """What is hidden before an address's host, and what follows. A database's user alone is no secret, a web site's may
    be a token.
    """
    info, _, after = _user_info(rest)
    if scheme.startswith(_DATABASES) and _USER.fullmatch(info):
        return "", rest
    return info, after


def _hide_value(found: re.Match[str]) -> str:
    return found["name"] + (_HIDDEN if _SECRET_NAME.search(unquote(found["name"])) else found["value"])


def _secrets(uri: str) -> set[str]:
    """The secrets of an address, as they stand there and as a person knows them, and pieces that a library may see."""
    info, after = _secret_user_info(*_divide(uri))
    user, colon, password = info.partition(":")
    found = {password} if colon else {user}
    found |= set(re.split(r"[@/?#:]", password))
    found |= {match["value"] for match in _PARAMETER.finditer(after) if _SECRET_NAME.search(unquote(match["name"]))}
    return {form for secret in found for form in (secret, unquote(secret)) if form}
