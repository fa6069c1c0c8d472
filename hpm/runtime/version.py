"""Which source a run was made with."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from hpm import __version__


@cache
def source_version() -> str:
    """The commit of a clone, with `-dirty` where its files differ from it; of an installed package, its version."""
    return _ask_git("describe", "--always", "--dirty") or __version__


@cache
def source_commit() -> str | None:
    """The whole hash of a clone's commit; None for an installed package."""
    return _ask_git("rev-parse", "HEAD")


def _ask_git(*arguments: str) -> str | None:
    """What git says of the clone that this is; None where it is none, or git says nothing."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
