"""Which of `MLflowTracker`'s settings no server takes, and whose tags they are."""

from __future__ import annotations

import posixpath
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping

from hpm.errors import Notice
from hpm.tracking.base import UnusableTrackerError
from hpm.tracking.client import check_address
from hpm.tracking.destination import EXPERIMENT
from hpm.tracking.note import GIVES_WAY
from hpm.tracking.redact import redact_text, without_password

# As many characters as MLflow takes; of a tag's value it takes any number, and keeps the first 8,000.
_LONGEST_EXPERIMENT = 500
_LONGEST_KEY = 250

_KEY = re.compile(r"[\w./: -]+")
_SHOWN = 40  # characters of a text that is too long


def require_usable(uri: str | None, experiment: str | None, tags: Mapping[str, str]) -> None:
    """Refuse an address, a name or a tag with which MLflow refuses a run.

    Args:
        uri: as it is bound; None for none.
        experiment: likewise.
        tags: likewise.

    Raises:
        ValueError: naming the setting.
    """
    if experiment is not None and not experiment.strip():
        raise ValueError(f"MLflowTracker.experiment = {experiment!r} is no name; leave it out for {EXPERIMENT!r}")
    if uri is not None:
        try:
            check_address(uri)
        except UnusableTrackerError as error:
            raise ValueError(f"MLflowTracker.uri = {without_password(uri)!r} cannot be used: {error}") from error
    for name, text, longest in _texts(uri, experiment, tags):
        shown = redact_text(text)
        if longest is not None and len(text) > longest:
            raise ValueError(f"MLflowTracker.{name}: {shown[:_SHOWN]!r}... has more than {longest:,} characters")
        if any(unicodedata.category(one) in ("Cc", "Cs") and not one.isspace() for one in text):
            raise ValueError(f"MLflowTracker.{name}: {shown!r} holds a control character, or half of one")
    for key in tags:
        # It may name a file, which must lie where it seems to.
        if not _KEY.fullmatch(key) or posixpath.normpath(key) != key or key.startswith(("/", "..")) or key == ".":
            raise ValueError(
                f"MLflowTracker.tags: {key!r} is no name of a tag; write letters, digits, spaces and any of _ - . : /, "
                "and no path that leads elsewhere"
            )


def _texts(uri: str | None, experiment: str | None, tags: Mapping[str, str]) -> Iterator[tuple[str, str, int | None]]:
    """Each with the setting that it belongs to, and as many characters as it may have; None for any number."""
    yield "uri", uri or "", None
    yield "experiment", experiment or "", _LONGEST_EXPERIMENT
    for key, value in tags.items():
        yield "tags", key, _LONGEST_KEY
        yield "tags", value, None


def with_own_tags(bound: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The tags of an MLflow run: those that are bound, without secrets, and those that we set, which are found again.

    Args:
        bound: `MLflowTracker.tags`. One that we set too is told, and left out, unless it is a description, a source or
            a user, for which whoever binds it knows better.
        own: ours.
    """
    own = {name: value for name, value in own.items() if name not in bound or not name.startswith(GIVES_WAY)}
    for name in bound:
        if name in own and bound[name] != own[name]:
            warnings.warn(
                Notice(f"MLflowTracker.tags sets {name!r}, which every run has; it keeps its own, {own[name]!r}"),
                stacklevel=2,
            )
    return {name: redact_text(value) for name, value in bound.items()} | dict(own)
