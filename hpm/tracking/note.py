"""What MLflow shows of an entry beside its figures: who made it, from which source, and what it is, in Markdown."""

from __future__ import annotations

import getpass
from contextlib import suppress

from hpm.runtime.version import source_commit
from hpm.tracking.redact import redact_text

NOTE = "mlflow.note.content"
"""The tag that MLflow shows as the description of a run or an experiment."""

GIVES_WAY = ("mlflow.note.", "mlflow.source.", "mlflow.user")
"""Tags that a user may bind otherwise."""

_LONGEST = 7_900  # characters; MLflow keeps 8,000 of a tag


def origin_tags(program: str) -> dict[str, str]:
    """Who made an entry and from which source, as MLflow's own tags.

    Args:
        program: "hpm pretrain".
    """
    tags = {"mlflow.source.name": program, "mlflow.source.type": "LOCAL"}
    if (commit := source_commit()) is not None:
        tags["mlflow.source.git.commit"] = commit
    with suppress(Exception):  # what a machine raises that has no name for this user differs
        tags["mlflow.user"] = getpass.getuser()
    return tags


def note_of(*paragraphs: str, command: str = "") -> str:
    """A description in Markdown, without secrets.

    Args:
        paragraphs: its text; empty ones are left out. What is too long for MLflow is cut, and says so.
        command: what made the entry; empty where that is not known.
    """
    parts = [text.strip() for text in paragraphs if text.strip()]
    if command:
        parts.append(f"Made by\n\n    {command}")
    text = redact_text("\n\n".join(parts))
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST].rpartition(chr(10))[0] or text[:_LONGEST]}\n\n(cut: it is longer)"
