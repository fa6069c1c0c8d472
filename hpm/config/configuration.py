"""Config: a configuration that was parsed, and what is built from it."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpm.config import gin_compat
from hpm.config.entry_points import packages_of
from hpm.config.gin_compat import MACRO, Key
from hpm.config.usage import Statement, check_used, macros_of, resolve_macros, spell
from hpm.errors import UserError


@dataclass(frozen=True)
class Config:
    """A parsed configuration. What is asked of it does not depend on others that are parsed later.

    Args:
        name: the first config's name, for naming runs.
        statements: every binding, included files' too, in the order in which they were read.
        imports: the import statements of the files, as they write them.
        memory: what gin keeps of it.
    """

    name: str
    statements: tuple[Statement, ...]
    imports: tuple[str, ...]
    memory: gin_compat.Memory = field(repr=False, compare=False)
    _taken: set[Key] = field(default_factory=set, init=False, repr=False, compare=False)

    def build(self, part: str = "Trainer") -> Any:
        """Build the `Trainer`, or another part, and everything under it, and check that every binding was consumed.

        Args:
            part: its name, "Trainer".

        Raises:
            UserError: for any value that a part refuses, and for a binding that nothing uses.
        """
        built = self.build_part(part)
        self.check_bindings(in_files=True)
        return built

    def build_part(self, part: str) -> Any:
        """Build a part and everything under it, whatever else is bound; see `check_bindings`.

        Args:
            part: its name, "KNN".

        Raises:
            UserError: for any value that a part refuses.
        """
        with gin_compat.using(self.memory), as_user_error():
            return gin_compat.build(part)

    def parameter(self, part: str, name: str) -> Any:
        """Build what one parameter of a part is bound to, and nothing else of that part.

        Args:
            part: "Trainer".
            name: "source".

        Returns:
            That, or the parameter's default where nothing is bound.

        Raises:
            UserError: for any value that a part refuses, or where there is neither a binding nor a default.
        """
        (selector,) = gin_compat.full_names(part)
        key = ("", selector, name)
        with gin_compat.using(self.memory):
            bound = gin_compat.bound()
        if key not in bound:
            default = inspect.signature(gin_compat.registered()[selector]).parameters[name].default
            if default is inspect.Parameter.empty:
                raise UserError(f"{part}.{name} is not bound; include 'base.gin', or bind it")
            return default
        self._taken.add(key)
        with gin_compat.using(self.memory), as_user_error():
            return gin_compat.evaluate(bound[key])

    def check_bindings(self, *, in_files: bool = False) -> None:
        """Refuse bindings that nothing consumed; call it once the parts in question are built.

        Args:
            in_files: whether those of files count as well as those of the command line. Bindings in files of a part
                that a later binding replaced are dropped rather than refused.

        Raises:
            UserError: naming the binding.
        """
        with gin_compat.using(self.memory):
            check_used(self.statements, self._taken, in_files=in_files)

    def bound_on_command_line(self) -> list[str]:
        """What bindings beside those of files bind, as a user writes it: "Ramp.end"."""
        return [spell(statement.key) for statement in self.statements if statement.on_command_line]

    def values_on_command_line(self) -> dict[str, str]:
        """What bindings beside those of files bind to what, where runs are tracked left out: `{"Ramp.end": "0.7"}`."""
        bound = {spell(one.key): str(one.value) for one in self.statements if one.on_command_line}
        return {name: value for name, value in bound.items() if not name.startswith("MLflowTracker.")}

    def binds(self, part: str) -> bool:
        """Whether anything is bound of a part, in any scope.

        Args:
            part: its name, "Search".
        """
        selectors = gin_compat.full_names(part)
        return any(statement.key[1] in selectors for statement in self.statements)

    def refers_to(self, macro: str) -> bool:
        """Whether any binding refers to a macro.

        Args:
            macro: its name, "IMG_SIZE".
        """
        wanted = (macro, MACRO)
        return any(wanted in gin_compat.references(statement.value) for statement in self.statements)

    def bindings_of(self, part: str) -> dict[str, Any]:
        """What a part's parameters are bound to without a scope, whatever it refers to built.

        Args:
            part: its name, "TPESampler".

        Raises:
            UserError: for any value that a part refuses.
        """
        (selector,) = gin_compat.full_names(part)
        with gin_compat.using(self.memory):
            names = [name for scope, other, name in gin_compat.bound() if (scope, other) == ("", selector)]
        return {name: self.parameter(part, name) for name in names}

    def plugins(self) -> dict[str, str]:
        """Folders of the modules that the files import and that are not installed, by module."""
        folders: dict[str, str] = {}
        with gin_compat.using(self.memory):
            modules = gin_compat.imports()
        for module in modules:
            file = getattr(sys.modules.get(module), "__file__", None)
            if file is not None and "site-packages" not in Path(file).parts:
                depth = len(module.split(".")) + (Path(file).name == "__init__.py")
                folders[module] = str(Path(file).resolve().parents[depth - 1])
        return folders

    def packages(self) -> dict[str, str]:
        """Versions of the packages whose parts are bound, of those that offer theirs by an entry point, by name."""
        with gin_compat.using(self.memory):
            return packages_of(gin_compat.bound())

    def fingerprint(self) -> str:
        """Tells this configuration from others: of what is bound, whatever the order and the file."""
        bound = {spell(statement.key): str(statement.value) for statement in self.statements}
        return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()[:12]

    def text(self) -> str:
        """The configuration as bound; running from it repeats the run."""
        with gin_compat.using(self.memory):
            return gin_compat.config_text()

    def operative_text(self) -> str:
        """The same with every default spelled out; running from it repeats the run as well."""
        with gin_compat.using(self.memory):
            return gin_compat.operative_text()

    def parameters(self) -> dict[str, str]:
        """Every parameter in force, defaults included, flattened: `{"Ramp.end": "0.5"}`."""
        with gin_compat.using(self.memory):
            macros = macros_of(gin_compat.bound())
            flat = {
                spell(key): str(resolve_macros(value, macros))
                for key, value in gin_compat.consumed().items()
                if key[1] != MACRO
            }
        return dict(sorted(flat.items()))


@contextmanager
def as_user_error() -> Iterator[None]:
    """Turns what gin and the parts raise into a `UserError`: gin's exceptions are of classes made on the fly."""
    try:
        yield
    except SystemExit as error:  # somebody's part, and it would look like success
        raise UserError(f"a part ended the program by sys.exit({error.code!r}) while it was built") from error
    except Exception as error:
        raise UserError(_message(error)) from error


# What only a fault in somebody's code raises: where it lies must be told.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError)
_MISSING = re.compile(r"(\w+)\.__init__\(\) missing \d+ required [\w-]+ arguments?: (.*)")


def _message(error: Exception) -> str:
    """An exception's own message, without what gin adds of the calls that led to it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith("In call to configurable")]
    if isinstance(error, TypeError) and kept and (missing := _MISSING.match(kept[0])):
        return _not_bound(missing[1], re.findall(r"'(\w+)'", missing[2]))
    message = "; ".join(kept) or type(error).__name__
    if not isinstance(error, _FAULTS):
        return message
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{message} ({type(error).__qualname__} in {frame.filename}, line {frame.lineno})"


def _not_bound(part: str, names: Sequence[str]) -> str:
    """What to do about parameters that have no default."""
    spelled = " and ".join(f"{part}.{name}" for name in names)
    whole = ", or name a whole config before this one, e.g. quickstart" if part == "Trainer" else ""
    verb, what = ("is", "it") if len(names) == 1 else ("are", "them")
    return f"{spelled} {verb} not bound; bind {what}{whole}"
