"""Passwords of addresses reach no text."""

from __future__ import annotations

import pytest

from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.redact import (
    has_ambiguous_password,
    redact_address,
    redact_message,
    redact_text,
    without_password,
)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("databricks://profile", "databricks://profile"),
        ("https://TOKEN@example.org", "https://***@example.org"),
        ("https://TOK/EN@example.org/mlflow", "https://***@example.org/mlflow"),
        ("https://me:secret@example.org:5000/mlflow", "https://***@example.org:5000/mlflow"),
        ("https://:secret@example.org", "https://***@example.org"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://***@host/db"),
        ("postgresql://u:p@ss/w%rd@h/db", "postgresql://***@h/db"),
        ("postgresql://study@h/db", "postgresql://study@h/db"),
        ("https://u:p?a=b#c@h/db", "https://***@h/db"),
        ("https://h:80/?mail=a@b.c", "https://h:80/?mail=a@b.c"),
        ("https://h/a?api_key=K&page=2", "https://h/a?api_key=***&page=2"),
        ("https://h/a?api%5Fkey=K", "https://h/a?api%5Fkey=***"),
        ("https://h/a;password=P;x=1/b", "https://h/a;password=***;x=1/b"),
        ("https://h/#access_token=abc", "https://h/#access_token=***"),
        ("https://h/?X-Amz-Signature=abc&X-Amz-Credential=d", "https://h/?X-Amz-Signature=***&X-Amz-Credential=***"),
        ("https://h/?sig=a&design=b&author=c", "https://h/?sig=***&design=b&author=c"),
        ("postgresql://h/db?password=a&b@c;d&x=1", "postgresql://h/db?password=***&x=1"),
        ("sqlite:///runs.db?timeout=30", "sqlite:///runs.db?timeout=30"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses_are_shown_without_password(uri: str, shown: str) -> None:
    assert without_password(uri) == MLflowTracker(uri=uri).where == shown


def test_an_address_in_a_text_is_shown_without_password() -> None:
    uri = "https://me:secret@example.org"
    text = f"MLflowTracker.uri = '{uri}'\nMLflowTracker.experiment = 'secret'\n"
    redacted = "MLflowTracker.uri = 'https://***@example.org'\nMLflowTracker.experiment = 'secret'\n"
    assert redact_address(text, uri) == redacted


def test_other_addresses_in_a_text_are_shown_without_secrets() -> None:
    text = "see (https://me:secret@a.org/x), 'postgresql://u:p@b/c' and sqlite:////tmp/a.db"
    shown = "see (https://***@a.org/x), 'postgresql://***@b/c' and sqlite:////tmp/a.db"
    assert redact_text(text) == redact_address(text, "http://127.0.0.1:5000") == shown


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("postgresql://u:p@ss/w%rd@h/db", "could not resolve host 'ss', port 'w%rd'"),
        ("postgresql://u:p@ss/w%rd@h/db", "database w%rd@h/db does not exist"),
        ("https://ghp_TOKEN@h", "401 for user 'ghp_TOKEN'"),
        ("https://h/?api_key=a%20KEY", "url: /api?api_key=a%20KEY&x=1, a KEY is wrong"),
    ],
)
def test_pieces_of_a_secret_stand_in_no_message(uri: str, message: str) -> None:
    told = redact_message(message, uri)
    assert not any(secret in told for secret in ("w%rd", "'ss'", "ghp_TOKEN", "KEY"))
    assert redact_message("host answers", "https://me:s@h") == "host answers"  # a short one is no part of a word


def test_an_ambiguous_password() -> None:
    assert has_ambiguous_password("postgresql://u:p@ss@h/db")
    assert has_ambiguous_password("https://u:p@/ss@h")
    for uri in ("postgresql://u:p%40ss@h/db", "postgresql://u:p/ss@h/db", "https://h/a@b", "sqlite:////a@b@c"):
        assert not has_ambiguous_password(uri), uri


@pytest.mark.parametrize(
    "message",
    [
        "no answer from https://me:pass%20word@example.org/mlflow/",
        "no answer from https://me:pass%20word@example.org/mlflow/api/2.0",
        "password 'pass word' is wrong",
        "password 'pass%20word' is wrong",
    ],
)
def test_a_password_stands_in_no_message(message: str) -> None:
    told = redact_message(message, "https://me:pass%20word@example.org/mlflow/")
    assert "***" in told
    assert "pass%20word" not in told
    assert "pass word" not in told
    assert redact_message("password 'pass word' is wrong", "https://example.org") == "password 'pass word' is wrong"
