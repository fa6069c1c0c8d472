"""A connection to an MLflow server or database that fails in seconds, and keeps quiet."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from filelock import FileLock


def quiet_mlflow() -> None:
    """Have MLflow print nothing, and notice in seconds that a server is not there, not after minutes of retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a tracker's `problem` says it, once


def connect(uri: str) -> Any:
    """An `MlflowClient` of a server or a database, whose tables are made where there are none.

    Args:
        uri: the address, with its password.
    """
    quiet_mlflow()
    from mlflow import MlflowClient

    file = sqlite_file(uri) if uri.startswith("sqlite") else None
    with ExitStack() as alone:  # processes that make or upgrade the tables of one file at once damage it
        if file is not None:
            # Nothing can be written there, or the file system has no locks: MLflow may still read.
            with suppress(OSError, NotImplementedError):
                alone.enter_context(FileLock(f"{file}.lock"))
        return MlflowClient(tracking_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite database; None for a server, and for a database that is in memory alone.

    Args:
        uri: the address, as SQLAlchemy reads it: "sqlite:///my%20runs.db?timeout=30", "sqlite:///file:a.db?uri=true".

    Raises:
        ValueError: if it is no address of a database, or of SQLite's but not of a file.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(uri)
    except (ArgumentError, ValueError) as error:
        raise ValueError(
            "it is no address; it must be of the form sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        ) from error
    if parsed.get_backend_name() != "sqlite":
        return None
    if parsed.host:
        raise ValueError(f"a file's address has three slashes: sqlite:///{parsed.host}")
    name = parsed.database or ":memory:"
    in_memory = name == ":memory:"
    if name.startswith("file:") and "uri" in parsed.query:  # SQLite's own form
        path, _, options = name.removeprefix("file:").partition("?")
        name = unquote(path)
        in_memory = name in ("", ":memory:") or "memory" in (options, *parsed.query.values())
    return None if in_memory else Path(name)
