"""A user's own modules, which a config imports: where they are looked for, and which are not executed.

They may lie beside the file that imports them, in the current folder, or where a run had them. These folders come first
for the import itself, and otherwise last or not at all: what else a program imports, some of it late and some of it
only where it is there, must not be found in them instead.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

from hpm.errors import UserError
from hpm.runs.checkpoint import list_checkpoints, manifest_of
from hpm.runs.run_folder import RunFolder

TRUST_RUNS = "HPM_TRUST_RUNS"  # of the environment: 1 to import modules that lie in runs' folders


def make_importable(plugins: Mapping[str, str]) -> None:
    """Let a configuration import its own modules from where they lay when its run was started.

    Args:
        plugins: folders of modules, by module, as `Config.plugins` gives them.
    """
    for folder in dict.fromkeys(plugins.values()):
        if Path(folder).is_absolute() and Path(folder).is_dir():
            _add(folder)


def plugins_of_run(file: Path) -> Mapping[str, str]:
    """Where the modules lay that a run's config.gin imports; nothing for any other file."""
    run = RunFolder(file.parent)
    return manifest_of(run, told=False).plugins if file.name == run.config.name and run.manifest.is_file() else {}


@contextmanager
def importing(module: str, where: str, *, beside: Path | None, checkpoint: Path | None) -> Iterator[None]:
    """Look for a module in a user's own folders first, as long as it is entered.

    Args:
        module: what is about to be imported, "my_parts.inner".
        where: what imports it, for errors.
        beside: the folder of the file that does; None where there is none.
        checkpoint: whose configuration does; None for any other.

    Raises:
        UserError: if somebody's run or checkpoint brought it along: who looks at these need not mean to execute it; or
            if another module of that name was imported before in this process, which Python would give instead.
    """
    own = [str(folder) for folder in (beside, Path.cwd()) if folder is not None]
    spec = PathFinder.find_spec(module.partition(".")[0], [*own, *sys.path])
    packages = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [] if spec is None or spec.origin is None else [Path(spec.origin)]
    _require_same(module.partition(".")[0], files, where)
    for place in [*packages, *files]:
        if sender := _sender(place, checkpoint):
            raise UserError(
                f"{where} imports {module}, which lies {sender}, and would be executed; read it, and set the "
                f"environment's {TRUST_RUNS}=1 if you trust it"
            )
    found_in = {str(place.parent) for place in packages or files}
    first = [folder for folder in dict.fromkeys(own) if folder in found_in]
    for folder in own if first else ():
        if not _sender(Path(folder, module), checkpoint):
            _add(folder)  # for what else of the user's the module imports, now or later
    sys.path[:0] = first
    try:
        yield
    finally:
        for folder in first:
            sys.path.remove(folder)


def _require_same(name: str, files: list[Path], where: str) -> None:
    """Refuse a module whose name another one has taken in this process, as that of an earlier config's folder; a copy
    of the same text is the same.
    """
    imported = getattr(sys.modules.get(name), "__file__", None)
    if imported is None or not files or not files[0].is_file() or not Path(imported).is_file():
        return
    if files[0].read_bytes() != Path(imported).read_bytes():
        raise UserError(
            f"{where} imports {name}, which is {files[0]}, but this process has imported another module of that name "
            f"from {imported}; rename one of them, or start a new process"
        )


def _add(folder: str) -> None:
    if folder not in sys.path:
        sys.path.append(folder)


def _sender(place: Path, checkpoint: Path | None) -> str | None:
    """What brought a module along that lies there, in words; None for a user's own, and where runs are trusted."""
    if os.environ.get(TRUST_RUNS) == "1":
        return None
    for path in dict.fromkeys((place.absolute(), place.resolve())):  # a link may lead into a run, or out of it
        for folder in path.parents:
            if _is_run(folder):
                return f"in the folder of a run, {folder}"
        if checkpoint is not None and (path.parent in _around(checkpoint) or path.is_relative_to(checkpoint)):
            return f"beside a checkpoint, {checkpoint}"
    return None


def _is_run(folder: Path) -> bool:
    """Whether it is a run's folder, also one that lacks some of its files."""
    run = RunFolder(folder)
    return run.manifest.is_file() or run.operative.is_file() or bool(list_checkpoints(run.checkpoints))


def _around(checkpoint: Path) -> list[Path]:
    """The folder that a checkpoint lies in, and the one that `checkpoints/` itself lies in."""
    return list(checkpoint.parents[: 1 + (checkpoint.parent.name == RunFolder(Path()).checkpoints.name)])
