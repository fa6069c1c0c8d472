"""SQLite's databases: the file that an address names, and looking into one without changing it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote


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


class ReadingConnection(sqlite3.Connection):
    """A connection by which nothing is changed, except that SQLite undoes what a process left that was killed."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute("PRAGMA query_only = ON")


def open_to_read(file: Path) -> sqlite3.Connection:
    """Open a database that is there; nothing is made where it is not.

    Raises:
        sqlite3.Error: if there is none.
    """
    return sqlite3.connect(f"file:{quote(os.fsencode(file))}?mode=rw", uri=True, factory=ReadingConnection)


def tables_of(file: Path) -> list[str]:
    """The tables of a database that is there; an empty file has none.

    Raises:
        sqlite3.Error: if it is no database, or cannot be read.
    """
    with closing(open_to_read(file)) as database:
        return [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
