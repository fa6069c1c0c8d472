"""Optuna's storage, which is the truth of a study; runs and MLflow hold more about the same trials."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import SQLAlchemyError

from hpm.errors import UserError
from hpm.runtime.sqlite import sqlite_file
from hpm.tracking.redact import redact_message, without_password
from studies.definition.identity import difference, give_identity, identity_of, quiet_optuna, update_baseline
from studies.execution.database import Database
from studies.execution.integrity import check_plans, load_whole_study

if TYPE_CHECKING:
    from studies.definition.base import Definition

_TRIES = 3
_ADVISORY_LOCK = 7_236_711_905_481  # of all studies of a database; any number that nobody else uses


def open_storage(url: str, *, heartbeat: int = 60, grace: int = 300, retries: int = 3) -> RDBStorage:
    """Open a storage, or create it.

    Args:
        url: SQLite's serves one machine; several share PostgreSQL's.
        heartbeat: seconds between signs of life of a running trial.
        grace: seconds without one after which a trial counts as dead, more than `heartbeat`.
        retries: how often the trial of a dead worker is tried again.

    Raises:
        UserError: if it cannot be reached, or is another program's.
    """
    database = Database.at(url)
    if database.file is not None:
        database.file.parent.mkdir(parents=True, exist_ok=True)
    storage = _open(
        database,
        heartbeat_interval=heartbeat,
        grace_period=grace,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=retries),
    )
    assert storage is not None
    return storage


def open_storage_to_read(url: str) -> RDBStorage | None:
    """Open a storage without changing it; None where nothing has been made at the address.

    Raises:
        UserError: if it cannot be reached, or is another program's.
    """
    database = Database.at(url)
    is_empty = database.file is not None and not (database.file.is_file() and database.file.stat().st_size)
    return None if is_empty else _open(database, to_read=True)


def _open(database: Database, *, to_read: bool = False, **options: Any) -> RDBStorage | None:
    """Open a storage, which is made where it is missing; one that is only to be read is None there."""
    quiet_optuna()
    for tries in range(1, _TRIES + 1):
        try:
            if not database.is_made() and to_read:
                return None
            return RDBStorage(
                database.address.render_as_string(hide_password=False),
                engine_kwargs={"pool_pre_ping": True, "connect_args": database.driver_options(to_read=to_read)},
                skip_table_creation=to_read,
                **options,
            )
        except UserError:
            raise
        except ImportError as error:
            raise UserError(
                f"{database.shown} needs a driver that is not installed; "
                "pip install 'curriculum-masking[postgresql]' adds PostgreSQL's"
            ) from error
        except Exception as error:  # whoever creates the tables at the same time makes the first try fail
            if tries == _TRIES:
                server = "; is the server running, and is the address of the form postgresql://USER@HOST/DATABASE?"
                hint = server if database.file is None else ""
                raise UserError(f"{database.shown} cannot be opened: {reason_of(error, database.url)}{hint}") from error
            time.sleep(0.5 * tries)
    raise AssertionError


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
    """All studies of a storage; Optuna's own function reads what they are, and fails over one that is damaged."""
    with storage.engine.connect() as connection:
        return sorted(str(name) for (name,) in connection.execute(sqlalchemy.text("SELECT study_name FROM studies")))


def load_study(storage: RDBStorage, name: str) -> optuna.Study:
    """Load a study that exists.

    Raises:
        UserError: naming those that do, where it does not; or if it is damaged.
    """
    try:
        return load_whole_study(storage, name)
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
        check_plans(study, definition)
        update_baseline(study, identity)
    return study
