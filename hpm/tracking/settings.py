"""Which of `MLflowTracker`'s settings can never be used, whatever server there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpm.tracking.base import UnusableTrackerError
from hpm.tracking.client import check_address
from hpm.tracking.destination import EXPERIMENT
from hpm.tracking.redact import without_password

# As many characters as MLflow takes.
_LONGEST_EXPERIMENT = 500
_LONGEST_KEY = 250
_LONGEST_TAG = 8_000

_SHOWN = 40  # characters of a text that is too long


def require_usable(uri: str | None, experiment: str | None, tags: Mapping[str, str]) -> None:
    """Refuse an address, a name or a tag with which nothing could ever be sent.

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
        if len(text) > longest:
            raise ValueError(f"MLflowTracker.{name}: {text[:_SHOWN]!r}... has more than {longest:,} characters")
        if not all(one.isprintable() or one.isspace() for one in text):
            raise ValueError(f"MLflowTracker.{name} = {without_password(text)!r} holds what cannot be printed")


def _texts(uri: str | None, experiment: str | None, tags: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    """Each with the setting that it belongs to, and as many characters as it may have."""
    yield "uri", uri or "", _LONGEST_TAG
    yield "experiment", experiment or "", _LONGEST_EXPERIMENT
    for key, value in tags.items():
        yield "tags", key, _LONGEST_KEY
        yield "tags", value, _LONGEST_TAG
