"""Outcome: how a command ended, for the program that started it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hpm.errors import OUTCOME_VARIABLE, Interrupted, MainProcessError, TrainingError, UserError
from hpm.runs.content import require_content
from hpm.runtime.files import read_json, write_json


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        kind: "complete", "error" (a mistake in the input), "stopped" (training cannot go on), "interrupted" (by a
            signal) or "crashed".
        message: what the user was told; "" where it is complete.
        retryable: whether the same command may succeed later.
    """

    kind: str
    message: str = ""
    retryable: bool = False

    @classmethod
    def of(cls, error: BaseException | None) -> Outcome:
        """The outcome of a command that ended with this error, or without one."""
        if error is None:
            return cls("complete")
        for kind, name in ((UserError, "error"), (TrainingError, "stopped"), (Interrupted, "interrupted")):
            if isinstance(error, kind):
                return cls(name, str(error), error.retryable)
        return cls("crashed", f"{type(error).__name__}: {error}", retryable=True)

    def write(self, path: Path) -> None:
        """Write it whole or not at all; a full disk is borne, since the exit code says nearly as much."""
        with suppress(OSError):
            write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Outcome | None:
        """Read what `write` wrote; None where there is nothing whole."""
        try:
            told = require_content(read_json(path), path, {"kind": str}, {"message": str, "retryable": bool})
        except UserError:
            return None
        return cls(told["kind"], told.get("message", ""), told.get("retryable", False))


def record_outcome(error: BaseException | None) -> None:
    """Write the outcome where `HPM_OUTCOME` says, if it does; in a run of several processes the main one does."""
    path = os.environ.get(OUTCOME_VARIABLE)
    if path and os.environ.get("RANK", "0") == "0" and not isinstance(error, MainProcessError):
        Outcome.of(error).write(Path(path))
