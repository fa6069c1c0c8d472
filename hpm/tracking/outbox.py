"""What a run folder's mlflow.json remembers: which run of which server, and how much of it is there."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class TrackingState:
    """How far a server is.

    Args:
        uri: the server, without password.
        key: a tag of the run. It is there before the run is, and finds one that was made but never confirmed.
        run_id: the run, or None where there is none yet.
        sent: how many rows of metrics the server has.
        ended: whether it has everything of a complete run.
    """

    uri: str
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str | None = None
    sent: int = 0
    ended: bool = False

    @classmethod
    def read(cls, folder: Path) -> TrackingState:
        """The state of a run folder.

        Raises:
            OSError: if there is none, or it cannot be read.
            ValueError: if the file is damaged.
        """
        try:
            state = cls(**json.loads((folder / "mlflow.json").read_text()))
        except TypeError as error:
            raise ValueError(str(error)) from error
        strings = (state.uri, state.key, state.run_id or "")
        if not all(isinstance(value, str) for value in strings) or not isinstance(state.sent, int) or state.sent < 0:
            raise ValueError("a value has the wrong type")
        return state

    def write(self, folder: Path) -> None:
        """Write it whole or not at all; a full disk is borne, since sending again changes nothing."""
        partial = folder / "mlflow.partial"
        with suppress(OSError):
            partial.write_text(json.dumps(asdict(self)))
            partial.replace(folder / "mlflow.json")
