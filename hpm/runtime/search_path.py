"""Where Python looks for modules under `python -m`; imports nothing that could lie in the current folder."""

from __future__ import annotations

import sys


def leave_out_current_folder() -> None:
    """Take back that `python -m` looks in the current folder before all others: it may be anybody's.

    The project's own folder stays, for a clone that is not installed.
    """
    if sys.flags.safe_path:  # Python has left it out itself
        return
    folder = sys.path.pop(0)
    from pathlib import Path

    if Path(folder) == Path(__file__).parents[2]:
        sys.path.insert(0, folder)
