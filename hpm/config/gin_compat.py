"""What this project takes from gin, its private names among it: the only module that knows them.

gin holds one configuration for the whole process. A `Key` names one of its bindings: the scope, "" for none; the
selector, a part's full name such as "curriculum.schedulers.ramps.Ramp"; and the parameter. A macro `SIZE = 20` has the
key ("SIZE", MACRO, "value").
"""

from __future__ import annotations

import copy
import importlib.util
import tokenize
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gin
from gin import config, config_parser

Key = tuple[str, str, str]

MACRO = "gin.macro"
_LINE_LENGTH = 110  # of the texts that are written
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


# What can be named.


def register(cls: type) -> None:
    """Let configs name a class; one that they can name already stays as it is."""
    if f"{cls.__module__}.{cls.__name__}" not in config._REGISTRY:
        with gin.unlock_config():  # a config that was parsed before has locked it
            gin.register(cls.__name__, module=cls.__module__)(cls)


def registered() -> dict[str, Any]:
    """Every class and function that configs can name, gin's own left out, by selector."""
    return {name: item.wrapped for name, item in config._REGISTRY.items() if item.module != "gin"}


def full_names(name: str) -> list[str]:
    """The selectors that a name may mean: `Ramp` is `curriculum.schedulers.ramps.Ramp`."""
    return config._REGISTRY.matching_selectors(name)


def short_name(selector: str) -> str:
    """The shortest name that means this selector and no other."""
    return config._REGISTRY.minimal_selector(selector)


# What a text says.


def read(text: str, take: Callable[[Binding | Include | Import], None], *, run_imports: bool = True) -> None:
    """Read a text, statement by statement.

    Args:
        text: as gin's files are written.
        take: is given each binding, include and import before the next one is read, which may name what an included
            file imports; an import before it is run.
        run_imports: whether to import the modules that the text imports, and to note them for `config_text`.

    Raises:
        GinError: for what cannot be understood or imported.
    """
    with config._parse_scope() as context:
        for statement in _statements(text):
            if isinstance(statement, config_parser.ImportStatement):
                if run_imports:
                    take(Import(statement.module, statement.location.line_num))
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
        parser = config_parser.ConfigParser(text, _References())
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


class _References(config.ParserDelegate):
    """Makes gin's references, in this project's words where there is nothing to refer to."""

    def configurable_reference(self, scoped_selector: str, evaluate: bool) -> Any:
        name = scoped_selector.rpartition("/")[2]
        try:
            found = super().configurable_reference(scoped_selector, evaluate)
        except ValueError as error:
            raise ValueError(_no_part(name)) from error
        except KeyError as error:
            raise ValueError(error.args[0]) from error
        return found


def _no_part(name: str) -> str:
    return f"there is no part called {name}; `hpm list` shows all"


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


def _binding(context: Any, statement: Any) -> Binding:
    line = statement.location.line_num
    if not statement.arg_name:
        name = f"{statement.scope}/{statement.selector}" if statement.scope else statement.selector
        return Binding((name, MACRO, "value"), statement.value, line)
    try:
        configurable = context.get_configurable(statement.selector)
    except Exception as error:  # a name that means several parts
        raise GinError(_sentence(str(error.args[0])), line) from error
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


# What values refer to.


def references(value: Any) -> list[tuple[str, str]]:
    """(scope, selector) of all that a value refers to, parts and macros, however deep in lists and dicts."""
    return [reference.config_key for reference in config.iterate_references(value)]


def is_reference(value: Any) -> bool:
    """Whether a value is a part, `@Ramp()`, or a macro, `%SIZE`, rather than a literal."""
    return isinstance(value, config.ConfigurableReference)


def macro_name(value: Any) -> str | None:
    """SIZE for `%SIZE`; None for anything else."""
    if is_reference(value) and value.config_key[1] == MACRO:
        return value.config_key[0]
    return None


def part_of(reference: Any) -> tuple[Any, bool]:
    """What a reference means, a class or a function (None for a macro), and whether it is called, as in `@Part()`.

    Args:
        reference: see `is_reference`.
    """
    return registered().get(reference.config_key[1]), reference.evaluate


# The configuration in force.


def clear() -> None:
    """Forget the configuration, and what of it was consumed; what can be named stays."""
    gin.clear_config()


def bind(key: Key, value: Any) -> None:
    """Bind a parameter.

    Raises:
        ValueError: if the part does not take it.
    """
    gin.bind_parameter(key, value)


def forget(key: Key) -> None:
    """Take a binding back, as if nobody had bound it."""
    scope, selector, parameter = key
    del config._CONFIG[scope, selector][parameter]
    if not config._CONFIG[scope, selector]:
        del config._CONFIG[scope, selector]


def finalize() -> None:
    """Lock the configuration: nothing is bound from now on."""
    gin.finalize()


def bound() -> dict[Key, Any]:
    """What is bound."""
    return _flat(config._CONFIG)


def consumed() -> dict[Key, Any]:
    """What the parts that were built so far were given, or have by default."""
    return _flat(config._OPERATIVE_CONFIG)


def _flat(nested: dict[tuple[str, str], dict[str, Any]]) -> dict[Key, Any]:
    return {
        (scope, selector, name): value for (scope, selector), values in nested.items() for name, value in values.items()
    }


def imports() -> dict[str, str]:
    """The import statements of the texts that were read, by module."""
    return {statement.module: statement.format() for statement in config._IMPORTS}


def config_text() -> str:
    """What is bound, as a text that means the same."""
    return gin.config_str(max_line_length=_LINE_LENGTH)


def operative_text() -> str:
    """What was consumed, defaults included, as a text that means the same."""
    return gin.operative_config_str(max_line_length=_LINE_LENGTH)


# Building.


def build(name: str) -> Any:
    """Build a part, and everything that its bindings refer to."""
    return gin.get_configurable(name)()


def evaluate(value: Any) -> Any:
    """Build what a bound value refers to; a literal is itself, copied."""
    return copy.deepcopy(value)
