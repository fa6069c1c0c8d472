"""Packages that only some uses need, and how to install them."""

from __future__ import annotations

import importlib
from types import ModuleType

from hpm.errors import UserError


def import_extra(module: str, *, package: str, needed_by: str, extra: str = "dense") -> ModuleType:
    """A module of a package that need not be installed.

    Args:
        module: its name.
        package: what pip calls the package.
        needed_by: who needs it, as a config writes it.
        extra: which of this project's extras installs it.

    Raises:
        UserError: if it is not there; it says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{needed_by} needs the package {package}, which cannot be imported ({error}); install it: "
            f"pip install 'curriculum-masking[{extra}]'"
        ) from error
