"""A connection to an MLflow server or database that fails in seconds, and keeps quiet."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from typing import Any

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

    file = _sqlite_file(uri)
    with ExitStack() as alone:  # processes that make or upgrade the tables of one file at once damage it
        if file is not None:
            # Nothing can be written there, or the file system has no locks: MLflow may still read.
            with suppress(OSError, NotImplementedError):
                alone.enter_context(FileLock(f"{file}.lock"))
        return MlflowClient(tracking_uri=uri)


def _sqlite_file(uri: str) -> str | None:
    from sqlalchemy.engine import make_url

    return make_url(uri).database if uri.startswith("sqlite") else None
