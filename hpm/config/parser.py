"""Finding and reading configs: every mistake in one is a `UserError` that names file and line, before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hpm.config import gin_compat, gin_text
from hpm.config.configuration import Config, as_user_error
from hpm.config.gin_text import Binding, GinError, Import, Include
from hpm.config.imports import importing, make_importable, plugins_of_run
from hpm.config.references import check_references, is_nested_too_deep
from hpm.config.registry import configurables, register_configurables
from hpm.config.suggestions import did_you_mean, names_like
from hpm.config.usage import Statement, check_macros, spell
from hpm.config.values import check_values
from hpm.errors import UserError
from hpm.runtime.files import expanded

_INCLUDED_DEPTH = 50  # files that include files
_FILES = 1000  # counted each time they are included


def configs_folder() -> Path:
    """The shipped configs: beside the package in a wheel, beside the source in a clone."""
    here = Path(__file__).resolve().parents[1]
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def find_config(name: str) -> Path:
    """A config by path, or by the name of a shipped one: `quickstart`, `curricula/attention`.

    Raises:
        UserError: if there is none, listing the shipped ones, those first that are called alike.
    """
    given = expanded(name)
    shipped = configs_folder() / name.removeprefix("configs/")
    for path in [*_with_and_without_suffix(given), *_with_and_without_suffix(shipped)]:
        if path.is_file():
            return path.resolve()
    known = sorted(str(path.relative_to(configs_folder()).with_suffix("")) for path in configs_folder().rglob("*.gin"))
    alike = names_like(name, known) or [other for other in known if name in other.split("/")][:3]
    raise UserError(
        f"no config file {name!r}.{did_you_mean(alike)} Give a path or one of the shipped configs: {', '.join(known)}"
    )


def _with_and_without_suffix(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}.gin")] if path.name else []


def parse_config(configs: Sequence[str], bindings: Sequence[str] = (), *, checkpoint: Path | None = None) -> Config:
    """Read config files, later ones over earlier, and bindings over all; they are in force until others are read.

    Args:
        configs: paths, or names of shipped configs.
        bindings: as `-b` takes them, "Ramp.end = 0.7".
        checkpoint: whose configuration the first of them is; None for any other.

    Raises:
        UserError: naming the file, line or binding at fault.
    """
    if not configs:
        raise UserError("name at least one config, e.g. `hpm pretrain quickstart`")
    for classes in configurables().values():
        register_configurables(classes)
    gin_compat.put_in_force(gin_compat.Memory())
    files = [find_config(name) for name in configs]
    for file in files:
        make_importable(plugins_of_run(file))
    reader = Reader([*(file.parent for file in files), configs_folder(), Path()], checkpoint=checkpoint)
    for file in files:
        reader.read_file(file)
    for binding in bindings:
        reader.read_binding(binding)
    for statement in reader.statements:
        _bind(statement)
    check_references(gin_compat.bound())
    check_macros(reader.statements)
    with as_user_error():
        gin_compat.finalize()
    check_values(reader.statements)
    imports = tuple(sorted(gin_compat.imports().values()))
    return Config(files[0].stem, tuple(reader.statements), imports, gin_compat.memory_in_force())


class Reader:
    """Reads the bindings of texts, and of the files that they include, in order.

    Args:
        folders: where included files are looked for, the first that has one counts.
        run_imports: whether the modules that a text imports are imported.
        checkpoint: whose configuration is read; None for any other.

    Attributes:
        statements: what was read so far.
    """

    def __init__(
        self, folders: Sequence[Path] = (), *, run_imports: bool = True, checkpoint: Path | None = None
    ) -> None:
        self.folders = list(folders)
        self.run_imports = run_imports
        self.checkpoint = None if checkpoint is None else checkpoint.resolve()
        self.statements: list[Statement] = []
        self._open: list[Path] = []
        self._files_read = 0

    def read_file(self, path: Path) -> None:
        """Read a file.

        Raises:
            UserError: naming the line at fault.
        """
        if path in self._open:
            names = [file.name for file in [*self._open[self._open.index(path) :], path]]
            raise UserError(f"{names[0]} includes itself: {' -> '.join(names)}")
        self._files_read += 1
        if len(self._open) > _INCLUDED_DEPTH or self._files_read > _FILES:
            raise UserError(
                f"{(self._open or [path])[0].name} includes more than {_FILES} files, or files in more than "
                f"{_INCLUDED_DEPTH} others ({path.name} is the last that was read); include fewer"
            )
        try:
            text = path.read_text(encoding="utf-8-sig")  # editors may begin it with a mark
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read as a config: {error}") from error
        self._open.append(path)
        self.read_text(text, path.name)
        self._open.pop()

    def read_binding(self, text: str) -> None:
        """Read a binding of the command line.

        Raises:
            UserError: naming it.
        """
        if (word := text.split(maxsplit=1)[:1]) and word[0] in ("include", "import", "from"):
            raise UserError(f"-b {text!r}: it binds nothing; write it into a config, and name that beside the others")
        if "=" not in text:
            raise UserError(f"binding {text!r} has no '='; write -b 'Ramp.end = 0.7'")
        before = len(self.statements)
        self._read(text, lambda line: f"-b {text!r}", on_command_line=True)
        if len(self.statements) == before:
            raise UserError(f"-b {text!r}: it binds nothing, for what follows a # is a comment")

    def read_text(self, text: str, name: str) -> None:
        """Read a text that errors call `name`.

        Raises:
            UserError: naming the line at fault.
        """
        self._read(text, lambda line: f"{name}, line {line}", on_command_line=False)

    def _read(self, text: str, place: Callable[[int], str], *, on_command_line: bool) -> None:
        def take(found: Binding | Include) -> None:
            where = place(found.line)
            if isinstance(found, Include):
                self.read_file(self._find(found.file, where))
            elif is_nested_too_deep(found.value):
                raise UserError(f"{spell(found.key)} ({where}) is lists that lie too deep in lists")
            else:
                where = "-b" if on_command_line else where
                self.statements.append(Statement(found.key, found.value, where, on_command_line))

        def around(found: Import) -> AbstractContextManager[None]:
            beside = self._open[-1].parent if self._open else None
            return importing(found.module, place(found.line), beside=beside, checkpoint=self.checkpoint)

        try:
            gin_text.read(text, take, run_imports=self.run_imports, importing=around)
        except GinError as error:
            raise UserError(f"{place(error.line)}: {error}") from error

    def _find(self, name: str, where: str) -> Path:
        """An included file. What a shipped one includes is shipped, whatever the user's own files are called."""
        shipped = configs_folder()
        within = bool(self._open) and self._open[-1].is_relative_to(shipped)
        for folder in [shipped, *self.folders] if within else self.folders:
            if (path := folder / name).is_file():
                return path.resolve()
        raise UserError(
            f"{where} includes {name!r}, which is neither beside the configs that were named, nor among the shipped "
            "ones, nor in the current folder"
        )


def _bind(statement: Statement) -> None:
    _, selector, name = statement.key
    part = gin_compat.registered().get(selector)  # None for gin's own
    if part is not None and not _takes(part, name):
        known = list(inspect.signature(part).parameters)
        spelled = spell(statement.key)
        meant = did_you_mean(f"{spelled.removesuffix(name)}{other}" for other in names_like(name, known))
        raise UserError(
            f"{spelled} ({statement.where}) cannot be bound: {part.__name__} takes "
            f"{', '.join(known) or 'no parameters'}{meant and f'.{meant}'}"
        )
    try:
        gin_compat.bind(statement.key, statement.value)
    except ValueError as error:
        raise UserError(f"{selector}.{name} ({statement.where}) cannot be bound") from error


def _takes(part: Callable[..., Any], name: str) -> bool:
    """Whether a part has a parameter of that name, or takes any."""
    parameters = inspect.signature(part).parameters
    return name in parameters or any(given.kind is given.VAR_KEYWORD for given in parameters.values())
