"""Manifest: what a run says of itself to programs, in `run.json` and in every checkpoint."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_type_hints

from hpm.errors import UserError
from hpm.runs.content import require_content
from hpm.runtime.files import read_json, write_json
from hpm.runtime.version import source_version

_FORMAT = 1
_OPTIONAL = (  # runs of before may lack them
    "num_heads",
    "decoder_num_heads",
    "mean",
    "std",
    "target_weights",
    "init_from",
    "plugins",
    "packages",
    "versions",
    "created",
    "description",
    "command",
)


@dataclass(frozen=True)
class SplitRecord:
    """Which images a split has.

    Args:
        images: how many.
        fingerprint: of them and their labels; see `Split.fingerprint`.
    """

    images: int
    fingerprint: str


@dataclass(frozen=True)
class DataRecord:
    """Which images a run is trained on, and which it is scored on.

    Args:
        source: the source's class.
        images: how many training images.
        fingerprint: of them and their labels; see `Split.fingerprint`.
        held_out: the validation and test images, by the split's name, those of the two that the run looks at.
    """

    source: str
    images: int
    fingerprint: str
    held_out: Mapping[str, SplitRecord] = field(default_factory=dict)

    @property
    def train(self) -> SplitRecord:
        """The training images."""
        return SplitRecord(self.images, self.fingerprint)

    @classmethod
    def from_json(cls, content: Any, where: Path) -> DataRecord:
        """Read what `asdict` gave.

        Raises:
            UserError: naming the file and the key, if it is something else.
        """
        own = get_type_hints(SplitRecord)
        require_content(content, where, {"source": str, **own}, {"held_out": dict[str, dict[str, Any]]})
        held_out = content.get("held_out", {})
        for split in (content, *held_out.values()):
            if require_content(split, where, own)["images"] < 1:
                raise UserError(f"{where} is damaged: 'images' = {split['images']} must be at least 1")
        splits = {name: SplitRecord(split["images"], split["fingerprint"]) for name, split in held_out.items()}
        return cls(content["source"], content["images"], content["fingerprint"], splits)


@dataclass(frozen=True)
class EarlierData:
    """Images that a run was trained on before it went on over others.

    Args:
        until_step: steps that were taken over them.
        data: which they were.
    """

    until_step: int
    data: DataRecord


def _versions() -> dict[str, str]:
    import torch  # here, since reading what others wrote needs none

    return {"source": source_version(), "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class Manifest:
    """What other programs ask of a run, so that none of them has to read its configuration.

    Args:
        name: the run's name.
        target: the kind of target whose values the model's head gives, `Target.kind`.
        alpha_share: "hard" or "easy", the patches that alpha is a share of; None where alpha is no share.
        precision: what training computes in.
        data: the images.
        earlier_data: those before, of a run that went on over others, the first first.
        grid: rows and columns of the model's patches; None in a run of before they were told, whose images are square.
        num_heads: of the encoder's last block; None in a run of before they were told, as for the three that follow.
        decoder_num_heads: of the decoders' blocks; None where there are none.
        mean: subtracted from each channel of the images.
        std: what each is divided by.
        target_weights: fingerprint of the weights that the target has of its own; None where it has none.
        init_from: the checkpoint or file whose weights it started from, or None.
        plugins: folders of modules that its configuration imports and that are not installed, by module.
        packages: versions of the installed packages whose parts it uses by their entry points, by name.
        versions: of the source, torch and Python.
        created: when it was started, in UTC.
        description: what its first config says of itself, its leading comment; empty where that is not known.
        command: what started it, without secrets; empty where that is not known.
    """

    name: str
    target: str
    alpha_share: str | None
    precision: str
    data: DataRecord
    grid: tuple[int, int] | None = None
    num_heads: int | None = None
    decoder_num_heads: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    target_weights: str | None = None
    init_from: str | None = None
    earlier_data: Sequence[EarlierData] = ()
    plugins: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=_versions)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    description: str = ""
    command: str = ""

    @property
    def said(self) -> dict[str, Any]:
        """What it tells and weights do not: `grid`, `num_heads`, `decoder_num_heads`, `mean`, `std`, where known."""
        names = ("grid", "num_heads", "decoder_num_heads", "mean", "std")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def completed(self, said: Mapping[str, Any]) -> Manifest:
        """With what a run of before lacks.

        Args:
            said: what it would say today, by the names of its fields.
        """
        return replace(self, **{name: value for name, value in said.items() if getattr(self, name) is None})

    def as_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {"format": _FORMAT, **asdict(self), "grid": None if self.grid is None else list(self.grid)}

    @classmethod
    def from_json(cls, content: Any, where: Path) -> Manifest:
        """Read what `as_json` gave.

        Args:
            content: that.
            where: the file, for errors.

        Raises:
            UserError: if it is no manifest, or a newer version's.
        """
        if not isinstance(content, dict) or type(content.get("format")) is not int:
            raise UserError(f"{where} is not a run's manifest")
        if content["format"] > _FORMAT:
            raise UserError(f"{where} was written by a newer version of curriculum-masking; install that version")
        known = get_type_hints(cls)
        own = {name: known[name] for name in ("name", "target", "alpha_share", "precision")}
        require_content(content, where, own | {"data": dict}, {name: known[name] for name in _OPTIONAL})
        require_content(content, where, {}, {"earlier_data": list[dict[str, Any]], "grid": list[int] | None})
        values = {name: value for name, value in content.items() if name in known}
        values["data"] = DataRecord.from_json(content["data"], where)
        values["earlier_data"] = [_earlier_data(entry, where) for entry in content.get("earlier_data", ())]
        if (grid := content.get("grid")) is not None:
            if len(grid) != 2 or min(grid) < 1:
                raise UserError(f"{where} is damaged: 'grid' = {grid} must be rows and columns of patches")
            values["grid"] = tuple(grid)
        for name in ("num_heads", "decoder_num_heads"):
            if (heads := content.get(name)) is not None and heads < 1:
                raise UserError(f"{where} is damaged: {name!r} = {heads} must be at least 1")
        for name, least in (("mean", -math.inf), ("std", 0.0)):
            told = content.get(name)
            if told is not None and not (told and all(least < value < math.inf for value in told)):
                raise UserError(
                    f"{where} is damaged: {name!r} = {told} must be finite numbers{' above 0' * (name == 'std')}"
                )
        return cls(**values)

    def over(self, data: DataRecord, *, until_step: int) -> Manifest:
        """The manifest of the run as it goes on over other images.

        Args:
            data: which.
            until_step: steps that were taken over those before.
        """
        return replace(self, data=data, earlier_data=[*self.earlier_data, EarlierData(until_step, self.data)])

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
        if not path.exists():
            raise UserError(f"{path.parent} is not a run: {path.name} is missing")
        return cls.from_json(read_json(path), path)


def _earlier_data(entry: Any, where: Path) -> EarlierData:
    require_content(entry, where, {"until_step": int, "data": dict})
    return EarlierData(entry["until_step"], DataRecord.from_json(entry["data"], where))
