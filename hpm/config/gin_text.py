"""What a config's text says, read by gin's own parser, statement by statement."""

from __future__ import annotations

import importlib.util
import tokenize
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from gin import config, config_parser

from hpm.config import gin_compat
from hpm.config.entry_points import load_offers
from hpm.config.gin_compat import MACRO, Key
from hpm.config.registry import own_name, taken_name
from hpm.runtime.suggestions import did_you_mean, names_like

_OF_STUDIES = {"Ablation": "ablate", "Search": "search"}  # and their commands
_NO_VALUE = (
    "what follows '=' is no value; write text in quotes, 'cosine', a part as @Ramp(), a macro as %SIZE, and otherwise "
    "a number, True, False, None, or a list, tuple or dict of these"
)

# gin looks for `importlib.util` without importing it.
assert importlib.util


class GinError(Exception):
    """A text that gin does not understand.

    Args:
        reason: one sentence.
        line: of the text.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


class Binding(NamedTuple):
    """A binding of a text, and the line that it stands in."""

    key: Key
    value: Any
    line: int


class Include(NamedTuple):
    """A file that a text includes, as it is named there, and the line."""

    file: str
    line: int


class Import(NamedTuple):
    """A module that a text imports, "my_parts", and the line."""

    module: str
    line: int


def read(
    text: str,
    take: Callable[[Binding | Include], None],
    *,
    run_imports: bool = True,
    importing: Callable[[Import], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Read a text, statement by statement.

    Args:
        text: as gin's files are written.
        take: is given each binding and include before the next one is read, which may name what an included file
            imports.
        run_imports: whether to import the modules that the text imports, and to note them for `config_text`.
        importing: gives what is entered while a module is imported.

    Raises:
        GinError: for what cannot be understood or imported.
    """
    with config._parse_scope() as context:
        for statement in _statements(text):
            if isinstance(statement, config_parser.ImportStatement):
                if run_imports:
                    with importing(Import(statement.module, statement.location.line_num)):
                        _run_import(context, statement)
            elif isinstance(statement, config_parser.IncludeStatement):
                take(Include(statement.filename, statement.location.line_num))
            elif isinstance(statement, config_parser.BindingStatement):
                take(_binding(context, statement))
        if run_imports:
            config._IMPORTS.update(context.imports)


def _statements(text: str) -> Iterator[Any]:
    """Gin's own; every error of reading as a `GinError`."""
    parser = None
    try:
        parser = _Parser(text, _References())
        yield from parser
    except SyntaxError as error:
        raise GinError(_sentence(error.msg), error.lineno or 1) from error
    except tokenize.TokenError as error:
        reason, (line, _) = error.args
        raise GinError(_sentence(reason), line) from error
    except Exception as error:  # a reference to what there is not, or lists within lists without end
        line = 1 if parser is None else parser.current_token.start[0]
        reason = "lists lie too deep in lists" if isinstance(error, RecursionError) else _sentence(str(error))
        raise GinError(reason, line) from error


class _KeyTwice(NamedTuple):
    """Stands for a value in which a dictionary has a key twice, and the line of the second."""

    key: Any
    line: int


class _Parser(config_parser.ConfigParser):
    """Gin's, except that it finds a key that a dictionary has twice, of which gin takes the last value."""

    def __init__(self, text: str, delegate: config.ParserDelegate) -> None:
        self._keys: list[set[Any]] = []  # of the containers that are open, the innermost last
        self._twice: _KeyTwice | None = None  # the first of a value
        super().__init__(text, delegate)

    def parse_value(self) -> Any:
        value = super().parse_value()
        if self._keys or self._twice is None:
            return value
        found, self._twice = self._twice, None
        return found

    def _maybe_parse_container(self) -> tuple[bool, Any]:
        self._keys.append(set())
        found: tuple[bool, Any] = super()._maybe_parse_container()
        self._keys.pop()
        return found

    def _parse_dict_item(self) -> tuple[Any, Any]:
        line = self.current_token.start[0]
        key, value = super()._parse_dict_item()
        if key in self._keys[-1]:
            self._twice = self._twice or _KeyTwice(key, line)
        self._keys[-1].add(key)
        return key, value


class _References(config.ParserDelegate):
    """Makes gin's references, in this project's words where there is nothing to refer to."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        name = scoped_selector.rpartition("/")[2]
        if not gin_compat.full_names(name):
            load_offers()
        try:
            found = super().configurable_reference(scoped_selector, evaluate)
        except ValueError as error:
            raise ValueError(_no_part(name)) from error
        except KeyError as error:
            raise ValueError(_several_parts(name)) from error
        return found


def _no_part(name: str) -> str:
    if name in _OF_STUDIES:
        return f"{name} is a part of studies alone; the config is one for `hpm-study {_OF_STUDIES[name]}`"
    meant = did_you_mean(names_like(own_name(name), map(own_name, gin_compat.registered())))
    broken = "".join(f"; {offer.complaint}" for offer in load_offers() if offer.problem)
    return f"there is no part called {name}; `hpm list` shows all{broken}{meant and f'.{meant}'}"


def _several_parts(name: str) -> str:
    return f"{name} may be {' or '.join(sorted(gin_compat.full_names(name)))}; write which in full"


def _run_import(context: Any, statement: Any) -> None:
    try:
        context.process_import(statement)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # somebody's module may raise anything, and SystemExit would look like success
        reason = f"{statement.format()!r} fails with {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name == statement.module.partition(".")[0]:
            reason += "; put it beside the config or into the current folder, or install it"
        raise GinError(reason, statement.location.line_num) from error
    _check_names(statement)


def _check_names(statement: Any) -> None:
    """Refuse a module whose part is called as a shipped one is: every shipped config would mean either."""
    package = statement.module.partition(".")[0]
    own = [selector for selector in gin_compat.registered() if selector.partition(".")[0] == package]
    if reason := taken_name(own):
        raise GinError(reason, statement.location.line_num)


def _binding(context: Any, statement: Any) -> Binding:
    line = statement.location.line_num
    name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
    if isinstance(statement.value, _KeyTwice):
        key, second = statement.value
        bound = f"{name}.{statement.arg_name}" if statement.arg_name else name
        raise GinError(f"{bound} has the key {key!r} twice; each may stand there once", second)
    if not statement.arg_name:
        return Binding((name, MACRO, "value"), statement.value, line)
    if not gin_compat.full_names(statement.selector):
        load_offers()
    try:
        configurable = context.get_configurable(statement.selector)
    except KeyError as error:
        raise GinError(_several_parts(statement.selector), line) from error
    if configurable is None:
        raise GinError(_no_part(statement.selector), line)
    if configurable.selector == MACRO:
        raise GinError("a macro is set by its own name, SIZE = 32", line)
    return Binding((statement.scope, configurable.selector, statement.arg_name), statement.value, line)


def _sentence(reason: str) -> str:
    """The first line of what gin says; the others repeat the text."""
    if reason.startswith("malformed node"):  # Python's words for a bare name, a sum or a call
        return _NO_VALUE
    return reason.strip().partition("\n")[0].strip().rstrip(".")
