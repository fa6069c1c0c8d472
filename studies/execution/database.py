"""Database: the address of a storage, and whose tables are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy
from sqlalchemy.engine import URL, make_url

from hpm.errors import UserError
from hpm.runtime.files import check_file
from hpm.runtime.sqlite import ReadingConnection, sqlite_file
from hpm.tracking.redact import has_ambiguous_password, without_password

_SECONDS_TO_ANSWER = 60
_SECONDS_TO_CONNECT = 10
_KEYS = {"studies": "study_id", "trials": "trial_id", "version_info": "version_info_id"}  # of tables of Optuna's
_MADE_LAST = "alembic_version"  # of its tables


class Database(NamedTuple):
    """A database that holds a storage, or may.

    Args:
        url: as the user gave it, with its secrets.
        address: the same as SQLAlchemy reads it.
        file: SQLite's; None for a server.
    """

    url: str
    address: URL
    file: Path | None

    @classmethod
    def at(cls, url: str) -> Database:
        """Read an address.

        Raises:
            UserError: if it is none, one of a database in memory, or of something that is no file.
        """
        shown = _shown(url)
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
        if file is not None:
            check_file("the file of --storage", file)
        if address.drivername == "postgresql":
            address = address.set(drivername="postgresql+psycopg")  # else SQLAlchemy's version would choose
        return cls(url, address, file)

    @property
    def shown(self) -> str:
        """The option and its value, without secrets."""
        return _shown(self.url)

    def driver_options(self, *, to_read: bool) -> dict[str, Any]:
        """What the database's driver is told beside what the address says.

        Args:
            to_read: whether nothing is to be changed.
        """
        options: dict[str, Any] = {}
        if self.file is not None:
            options = {"timeout": _SECONDS_TO_ANSWER} | ({"factory": ReadingConnection} if to_read else {})
        elif self.address.get_backend_name() == "postgresql":
            options = {"connect_timeout": _SECONDS_TO_CONNECT}
        return {name: value for name, value in options.items() if name not in self.address.query}

    def is_made(self) -> bool:
        """Whether Optuna's tables are there, which looking does not make.

        Raises:
            UserError: if there are tables, but another program's.
        """
        engine = sqlalchemy.create_engine(self.address, connect_args=self.driver_options(to_read=True))
        try:
            inspector = sqlalchemy.inspect(engine)
            tables = inspector.get_table_names()
            columns = {name: inspector.get_columns(name) for name in _KEYS if name in tables}
        finally:
            engine.dispose()
        others = [name for name, found in columns.items() if _KEYS[name] not in (column["name"] for column in found)]
        if tables and not columns:
            others = tables
        if others:
            raise UserError(
                f"{self.shown} is a database of another program, whose table {others[0]} is there; name another"
            )
        return _MADE_LAST in tables


def _shown(url: str) -> str:
    return f"--storage {without_password(url)}"
