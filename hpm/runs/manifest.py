"""Manifest: what a run says of itself to programs, in `run.json` and in every checkpoint."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from hpm.errors import UserError
from hpm.runtime.files import write_json
from hpm.runtime.version import source_version

_FORMAT = 1


@dataclass(frozen=True)
class DataRecord:
    """Which images a run was trained on.

    Args:
        source: the source's class.
        images: how many training images.
        fingerprint: of them and their labels; see `Split.fingerprint`.
    """

    source: str
    images: int
    fingerprint: str


def _versions() -> dict[str, str]:
    return {"source": source_version(), "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class Manifest:
    """What other programs ask of a run, so that none of them has to read its configuration.

    Args:
        name: the run's name.
        target: the kind of target whose values the model's head gives, `Target.kind`.
        alpha_share: "hard" or "easy", the patches that alpha is a share of; None where alpha is no share.
        precision: what training computes in.
        data: the training images.
        grid: rows and columns of the model's patches; None in a run of before they were told, whose images are square.
        init_from: the checkpoint or file whose weights it started from, or None.
        plugins: folders of modules that its configuration imports and that are not installed, by module.
        versions: of the source, torch and Python.
        created: when it was started, in UTC.
    """

    name: str
    target: str
    alpha_share: str | None
    precision: str
    data: DataRecord
    grid: tuple[int, int] | None = None
    init_from: str | None = None
    plugins: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, content: Any, where: Path) -> Manifest:
        """Read what `as_json` gave.

        Args:
            content: that.
            where: the file, for errors.

        Raises:
            UserError: if it is no manifest, or a newer version's.
        """
        known = {item.name for item in fields(cls)}
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise UserError(f"{where} is not a run's manifest")
        if content["format"] > _FORMAT:
            raise UserError(f"{where} was written by a newer version of curriculum-masking; install that version")
        try:
            values = {name: value for name, value in content.items() if name in known}
            grid = values.get("grid")
            told = {"data": DataRecord(**values["data"]), "grid": None if grid is None else tuple(grid)}
            return cls(**{**values, **told})
        except (KeyError, TypeError) as error:
            raise UserError(f"{where} is damaged: {error}") from error

    def write(self, path: Path) -> None:
        """Write `run.json`, whole or not at all.

        Raises:
            OSError: if the file system refuses it.
        """
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read `run.json`.

        Raises:
            UserError: if it is missing or damaged.
        """
        try:
            return cls.from_json(json.loads(path.read_text()), path)
        except FileNotFoundError as error:
            raise UserError(f"{path.parent} is not a run: {path.name} is missing") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
