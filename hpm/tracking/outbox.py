"""What of a run was sent to a server, and what is outstanding.

`Outbox` is between two threads: training puts in, the sender takes out. `TrackingState` is between two processes: what
`mlflow.json` in the run's folder remembers for whoever goes on with the run.
"""

from __future__ import annotations

import os
import threading
import uuid
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_type_hints

from hpm.errors import Notice, UserError
from hpm.runs.content import require_content
from hpm.runs.metrics_file import Row
from hpm.runtime.files import read_json, write_json
from hpm.tracking.base import TrackingError
from hpm.tracking.redact import without_password

_FILE = "mlflow.json"


@dataclass
class TrackingState:
    """How far a server is.

    Args:
        uri: the server, without its secrets.
        key: a tag of the run. It is there before the run is, and finds one that was made but never confirmed.
        run_id: the run, or None where there is none yet.
        sent: how many rows of metrics the server has.
        ended: whether it has everything of a complete run.
        name: the run's name; with what follows, what the run's entry is made with.
        parameters: everything in force, by name, without its secrets.
        tags: what the run may be found by.
    """

    uri: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    sent: int = 0
    ended: bool = False
    name: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> TrackingState:
        """The state of a run folder.

        Raises:
            FileNotFoundError: if there is none.
            UserError: if it cannot be read, or is damaged.
        """
        path = folder / _FILE
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        known = get_type_hints(cls)
        content = require_content(read_json(path), path, {"uri": str}, known)
        if content.get("sent", 0) < 0:
            raise UserError(f"{path} is damaged: 'sent' = {content['sent']} must be at least 0")
        return cls(**{name: value for name, value in content.items() if name in known})

    @classmethod
    def known(cls, folder: Path, where: str) -> TrackingState:
        """How far a server is, as far as a run folder remembers it.

        Args:
            folder: the run's.
            where: the server's address, without its secrets.
        """
        try:
            state = cls.read(folder)
        except FileNotFoundError:
            return cls(where)
        except (OSError, UserError) as error:
            _warn(f"{folder / _FILE} is damaged ({error}); the run is sent to MLflow anew")
            return cls(where)
        if without_password(state.uri) != where:
            _warn(f"this run was sent to {state.uri} before; it is sent to {where} anew")
            return cls(where)
        state.ended = False
        return state

    @classmethod
    def of_entry(cls, folder: Path) -> TrackingState | None:
        """The state of a run that may have an entry; None of one that has none.

        Raises:
            TrackingError: if it is damaged.
        """
        try:
            return cls.read(folder)
        except FileNotFoundError:
            return None
        except UserError as error:
            raise TrackingError(f"{folder / _FILE} is damaged ({error})") from error

    def write(self, folder: Path) -> None:
        """Write it whole or not at all. A full disk is no error, since sending again changes nothing."""
        with suppress(OSError):
            write_json(folder / _FILE, asdict(self))


class Outbox:
    """Rows and files that one thread hands over and another sends. Handing over never waits for sending.

    Attributes:
        status: what the run ended as; None while it goes on.
    """

    def __init__(self) -> None:
        self.status: str | None = None
        self._changed = threading.Condition()
        self._has_news = False
        self._rows: Sequence[Row] = ()
        self._files: list[Path] = []

    @property
    def rows(self) -> Sequence[Row]:
        """All rows that were handed over, those that are sent already as well."""
        with self._changed:
            return self._rows

    @property
    def files(self) -> list[Path]:
        """The files that are outstanding."""
        with self._changed:
            return list(self._files)

    def put(self, rows: Sequence[Row] = (), files: Sequence[Path] = ()) -> None:
        """Hand over, and wake the sender.

        Args:
            rows: all that there are; fewer than before are left out, since a resumed run takes the same steps again.
            files: new ones; those that are outstanding already are left out.
        """
        with self._changed:
            self._rows = rows if len(rows) >= len(self._rows) else self._rows
            self._files += [path for path in files if path not in self._files]
            self._wake()

    def close(self, status: str) -> None:
        """Say what the run ended as, and wake the sender for the last time."""
        with self._changed:
            self.status = status
            self._wake()

    def wait(self) -> bool:
        """Sleep until something was handed over since the last call.

        Returns:
            Whether the outbox was closed, so that nothing more will come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._has_news)
            self._has_news = False
            return self.status is not None

    def remove(self, file: Path) -> None:
        """A file was sent."""
        with self._changed:
            self._files.remove(file)

    def _wake(self) -> None:
        self._has_news = True
        self._changed.notify()


def _warn(message: str) -> None:
    warnings.warn(message, Notice, stacklevel=3)
