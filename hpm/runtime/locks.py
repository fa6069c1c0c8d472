"""A lock that processes of one machine respect."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_beside(file: str) -> Iterator[None]:
    """Hold the lock `FILE.lock` beside a file: who asks for it meanwhile waits.

    Raises:
        OSError: if it cannot be written there, or the file system has no locks.
    """
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
