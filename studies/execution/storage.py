"""Optuna's storage, which is the truth of a study; runs and MLflow hold more about the same trials."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from hpm.errors import UserError
from hpm.tracking.client import sqlite_file
from hpm.tracking.redact import has_ambiguous_password, redact_message, without_password
from studies.definition.identity import difference, give_identity, identity_of, quiet_optuna, update_baseline

if TYPE_CHECKING:
    from studies.definition.base import Definition

_TRIES = 3
_SECONDS_TO_ANSWER = 60
_SECONDS_TO_CONNECT = 10
_ADVISORY_LOCK = 7_236_711_905_481  # of all studies of a database; any number that nobody else uses


def open_storage(url: str, *, heartbeat: int = 60, grace: int = 300, retries: int = 3) -> RDBStorage:
    """Open a storage, or create it.

    Args:
        url: SQLite's serves one machine; several share PostgreSQL's.
        heartbeat: seconds between signs of life of a running trial.
        grace: seconds without one after which a trial counts as dead, more than `heartbeat`.
        retries: how often the trial of a dead worker is tried again.

    Raises:
        UserError: if it cannot be reached.
    """
    quiet_optuna()
    address, file = _read(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    waits: dict[str, Any] = {}
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        waits = {"timeout": _SECONDS_TO_ANSWER}
    elif address.get_backend_name() == "postgresql":
        waits = {"connect_timeout": _SECONDS_TO_CONNECT}
    # What the address says goes first.
    options["connect_args"] = {name: value for name, value in waits.items() if name not in address.query}
    for tries in range(1, _TRIES + 1):
        try:
            return RDBStorage(
                address.render_as_string(hide_password=False),
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=retries),
            )
        except ImportError as error:
            raise UserError(
                f"--storage {without_password(url)} needs a driver that is not installed; "
                "pip install 'curriculum-masking[postgresql]' adds PostgreSQL's"
            ) from error
        except Exception as error:  # whoever creates the tables at the same time makes the first try fail
            if tries == _TRIES:
                raise UserError(
                    f"--storage {without_password(url)} cannot be opened: {reason_of(error, url)}; is the server "
                    "running, and is the address of the form sqlite:///FILE or postgresql://USER@HOST/DATABASE?"
                ) from error
            time.sleep(0.5 * tries)
    raise AssertionError


def storage_exists(url: str) -> bool:
    """Whether a storage may be there; only of SQLite's file can be said without asking a server.

    Raises:
        UserError: if it is no address.
    """
    file = _read(url)[1]
    return file is None or file.is_file()


def _read(url: str) -> tuple[URL, Path | None]:
    """A storage's address as SQLAlchemy reads it, and the file of SQLite's; None for a server.

    Raises:
        UserError: if it is no address, or one of a database in memory.
    """
    shown = f"--storage {without_password(url)}"
    try:
        file = sqlite_file(url)
    except ValueError as error:
        raise UserError(f"{shown} cannot be opened: {error}") from error
    if has_ambiguous_password(url):
        raise UserError(f"{shown} cannot be opened: its password holds an @, which must be written %40")
    address = make_url(url)
    if address.get_backend_name() == "sqlite" and file is None:
        raise UserError(f"{shown} keeps a study no longer than a process lives; name a file: sqlite:///FILE")
    if file is not None and str(file).startswith("~"):
        file = Path(os.path.expanduser(file))  # noqa: PTH111 - which leaves what it does not know as it is
        address = address.set(database=str(file))
    if address.drivername == "postgresql":
        address = address.set(drivername="postgresql+psycopg")  # else SQLAlchemy's version would choose
    return address, file


def reason_of(error: Exception, url: str) -> str:
    """The first line of a storage's error, without the secrets of its address."""
    return redact_message((str(error.__cause__ or error).splitlines() or [type(error).__name__])[0], url)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Tell the user of a storage that fails, in the place of a traceback.

    Raises:
        UserError: naming the storage.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        raise UserError(f"--storage {without_password(url)} cannot be used: {reason_of(error, url)}") from error


@contextmanager
def exclusively(storage: RDBStorage) -> Iterator[None]:
    """Keep other processes from changing the queue while it is entered.

    SQLite lets two processes read that a trial waits before either writes that it took it; a lock beside its file does
    not. PostgreSQL has locks of its own, which all machines see.
    """
    if storage.engine.dialect.name == "sqlite":
        with FileLock(f"{sqlite_file(storage.url)}.lock"):
            yield
    elif storage.engine.dialect.name == "postgresql":
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            yield
    else:
        yield


def study_names(storage: RDBStorage) -> list[str]:
    """All studies of a storage."""
    return sorted(optuna.get_all_study_names(storage))


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study that exists.

    Raises:
        UserError: naming those that do, where it does not.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = ", ".join(study_names(storage)) or "it holds none"
        raise UserError(f"there is no study {name!r} in the storage; {known}") from error


def open_study(storage: RDBStorage, name: str, definition: Definition, identity: dict[str, Any]) -> optuna.Study:
    """Load the study of this name and definition; create it where there is none.

    Args:
        storage: that holds it.
        name: the study's.
        definition: says what its objectives are.
        identity: what `definition.check` gave.

    Raises:
        UserError: if there is one of another definition.
    """
    try:
        study = optuna.create_study(study_name=name, storage=storage, directions=definition.directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = load_study(storage, name)
    known = identity_of(study)
    if not known:
        give_identity(study, identity)
        study.set_metric_names(definition.objectives)
    elif (different := difference(known, identity)) is not None:
        raise UserError(f"study {name!r} exists already with {different}; give this one another --study name")
    else:
        update_baseline(study, identity)
    return study
