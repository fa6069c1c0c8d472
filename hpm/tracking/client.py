"""A connection to an MLflow server or database that fails in seconds, and keeps quiet."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import tempfile
import warnings
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from filelock import FileLock

from hpm.runtime.files import expanded, replacing
from hpm.runtime.sqlite import open_to_read, sqlite_file, tables_of
from hpm.tracking.base import UnusableTrackerError
from hpm.tracking.redact import has_ambiguous_password

_SECONDS_TO_ANSWER = 5.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What MLflow calls the errors that trying again does not change. What a proxy before a server that is away may answer,
# 403 and 404, is none of them.
_NEVER = {"CUSTOMER_UNAUTHORIZED", "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "UNAUTHENTICATED"}


def quiet_mlflow() -> None:
    """Have MLflow print nothing, and notice in seconds that a server is not there, not after minutes of retries."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print the password
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a tracker's `problem` says it, once
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)


def connect(uri: str) -> Any:
    """An `MlflowClient` of a server or a database, whose tables are made where there are none.

    Args:
        uri: the address, with its secrets.

    Raises:
        UnusableTrackerError: if nothing can ever be sent to such an address.
        OSError: if the server does not answer.
    """
    check_address(uri)
    if has_ambiguous_password(uri):
        raise UnusableTrackerError("the address's password holds an @, which must be written %40")
    quiet_mlflow()
    from mlflow import MlflowClient

    file = sqlite_file(uri) if uri.startswith("sqlite") else None
    if file is not None:
        return _connect_to_file(uri, file)
    _require_answer(uri)
    return MlflowClient(tracking_uri=uri)


def connect_to_read(uri: str) -> Any:
    """An `MlflowClient` that makes nothing and changes nothing; None where nothing has been made at the address.

    Of a server that can be said of no address. What a process left in a database that was killed, SQLite undoes.

    Args:
        uri: the address, with its secrets.

    Raises:
        UnusableTrackerError: if nothing can ever be read from such an address.
        OSError: if the server does not answer.
    """
    check_address(uri)
    file = sqlite_file(uri) if uri.startswith("sqlite") else None
    if file is None:
        folder = _local_folder(uri)
        return connect(uri) if folder is None or any(folder.glob("*/meta.yaml")) else None
    if not file.exists() or "experiments" not in tables_of(file):
        return None
    quiet_mlflow()
    from mlflow import MlflowClient
    from sqlalchemy.engine import URL
    from sqlalchemy.exc import OperationalError

    mode = "rw" if Path(f"{file}-journal").exists() else "ro"
    query = {"mode": mode, "uri": "true"}
    # Of "sqlite:///file:..." MLflow would make a folder "file:".
    address = URL.create("sqlite+pysqlite", database=f"file:{quote(os.fsencode(file.absolute()))}", query=query)
    try:
        return MlflowClient(tracking_uri=address.render_as_string())
    except OperationalError as error:
        if "readonly" not in str(error):
            raise
        raise UnusableTrackerError(f"another version of MLflow made it; `mlflow db upgrade {uri}` adapts it") from error


def _local_folder(uri: str) -> Path | None:
    """The folder of MLflow's store of files; None for any other store."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or uri.startswith("databricks"):
        return None
    return Path(unquote(parts.path))


def check_address(uri: str) -> None:
    """Refuse an address of which its form alone says that nothing can be sent there.

    Raises:
        UnusableTrackerError: saying what is wrong.
    """
    if uri.startswith("sqlite"):
        try:
            sqlite_file(uri)
        except ValueError as error:
            raise UnusableTrackerError(str(error)) from error


def is_for_good(error: Exception, uri: str) -> bool:
    """Whether an error of MLflow's is one of settings, which trying again does not change.

    Args:
        error: what was raised.
        uri: the address, with its secrets.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError

    if isinstance(error, MlflowException):
        # Of a file it is the file's state, unless others use it now; of a server perhaps the way there.
        of_file = uri.startswith("sqlite") and error.error_code != "TEMPORARILY_UNAVAILABLE"
        return error.error_code in _NEVER or of_file
    return isinstance(error, UnusableTrackerError | ArgumentError | ImportError)


def with_home(uri: str) -> str:
    """The address with `~` at the beginning of an SQLite file as the user's home; any other as it is."""
    if not uri.startswith("sqlite"):
        return uri
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(uri)
    except (ArgumentError, ValueError):  # which is told where it is used
        return uri
    file = parsed.database or ""
    if parsed.get_backend_name() != "sqlite" or not file.startswith("~"):
        return uri
    return parsed.set(database=str(expanded(file))).render_as_string(hide_password=False)


def is_new(uri: str) -> bool:
    """Whether an address is of an SQLite file that is still to be made.

    Raises:
        UnusableTrackerError: if it cannot be made, or written to.
    """
    check_address(uri)
    file = sqlite_file(uri) if uri.startswith("sqlite") else None
    if file is None:
        return False
    try:
        new = _is_new(file)
        if new:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=file.parent):
                pass
        else:
            file.open("ab").close()
    except OSError as error:
        raise UnusableTrackerError(f"{file} cannot be written: {error.strerror or error}; name another file") from error
    return new


def _is_new(file: Path) -> bool:
    if not file.exists() or not file.stat().st_size:
        return True
    with file.open("rb") as content:
        if content.read(15) != b"SQLite format 3":
            raise UnusableTrackerError(f"{file} is no SQLite database; name another file")
    return False


def _connect_to_file(uri: str, file: Path) -> Any:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    with ExitStack() as alone:  # processes that make or upgrade the tables of one file at once damage it
        # Nothing can be written there, or the file system has no locks: MLflow may still read.
        with suppress(OSError, NotImplementedError):
            alone.enter_context(FileLock(f"{file}.lock"))
        if _is_new(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            _make(file)
        _require_own(file)
        try:
            return MlflowClient(tracking_uri=uri)
        except (MlflowException, SQLAlchemyError) as error:
            if _holds_no_run(file):
                raise UnusableTrackerError(
                    f"{file} is not whole, as a process leaves it that is killed while it makes it, and holds no run; "
                    "remove it, and it is made anew"
                ) from error
            raise


def _make(file: Path) -> None:
    """Make a database under another name first: one that was begun and not finished is of no use for good."""
    from mlflow import MlflowClient
    from sqlalchemy.engine import URL

    with replacing(file) as partial:
        partial.touch()  # what cannot be written is told at once, which SQLAlchemy tries for minutes
        address = URL.create("sqlite", database=str(partial)).render_as_string()
        MlflowClient(tracking_uri=address)._tracking_client.store.engine.dispose()


def _require_own(file: Path) -> None:
    """MLflow would make its tables beside those of another program, Optuna's for example, and change these.

    Raises:
        UnusableTrackerError: if the database is another program's.
    """
    with suppress(sqlite3.Error):  # which MLflow tells
        tables = tables_of(file)
        if tables and "experiments" not in tables:
            raise UnusableTrackerError(f"{file} is a database of another program; name another file")


def _holds_no_run(file: Path) -> bool:
    with suppress(sqlite3.Error), closing(open_to_read(file)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return True
        return database.execute("SELECT count(*) FROM runs").fetchone() == (0,)
    return False


def _require_answer(uri: str) -> None:
    """Ask whether anybody is there: by themselves MLflow and SQLAlchemy find out after minutes.

    Raises:
        UnusableTrackerError: if it is no address.
        OSError: if nobody answers.
    """
    import requests
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        if uri.startswith(("http://", "https://")):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whether to trust the answer is decided when something is sent
                bare = f"{uri.partition('://')[0]}://{urlsplit(uri).netloc.rpartition('@')[2]}"
                # No secret of the address goes to whoever answers, nor one that requests finds in ~/.netrc.
                requests.head(
                    bare, timeout=_SECONDS_TO_ANSWER, allow_redirects=False, verify=False, auth=lambda asked: asked
                )
        elif "://" in uri:
            address = make_url(uri)
            port = address.port or _PORTS.get(address.get_backend_name())
            if address.host and port is not None:
                socket.create_connection((address.host, port), _SECONDS_TO_ANSWER).close()
    except (ValueError, ArgumentError) as error:
        raise UnusableTrackerError(f"it is no address: {error}") from error
    except OSError as error:
        raise ConnectionError(f"it does not answer: {error}") from error
