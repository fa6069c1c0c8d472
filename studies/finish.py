"""What a study leaves when it ends."""

from __future__ import annotations

from typing import Any


def finish(launch: Any, study: Any, console: Any) -> None:
    """Nothing yet."""
