"""Passwords of addresses reach no text."""

from __future__ import annotations

import pytest

from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.redact import redact_address, redact_message, without_password


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("https://me@example.org", "https://me@example.org"),
        ("https://me:secret@example.org:5000/mlflow", "https://me:***@example.org:5000/mlflow"),
        ("https://:secret@example.org", "https://:***@example.org"),
        ("postgresql://me:se/cr@et@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses_are_shown_without_password(uri: str, shown: str) -> None:
    assert without_password(uri) == MLflowTracker(uri=uri).where == shown


def test_an_address_in_a_text_is_shown_without_password() -> None:
    uri = "https://me:secret@example.org"
    text = f"MLflowTracker.uri = '{uri}'\nMLflowTracker.experiment = 'secret'\n"
    redacted = "MLflowTracker.uri = 'https://me:***@example.org'\nMLflowTracker.experiment = 'secret'\n"
    assert redact_address(text, uri) == redacted


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
    assert redact_message(message, "https://example.org") == message
