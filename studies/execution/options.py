"""StudyOptions: what a study is started with on a machine, on the command line and in each worker.

Importing this module imports nothing heavy, so that `hpm-study --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from hpm.errors import UserError
from hpm.runtime.files import check_folder

DEFAULT_STORAGE = "sqlite:///runs/studies.db"

StorageOption = Annotated[
    str, typer.Option(envvar="HPM_STUDY_STORAGE", help="sqlite:///FILE, or postgresql://... for several machines.")
]


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """The options of `ablate` and `search`; the help of each says what it is."""

    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="The study's gin file; more go over it.")]
    bindings: Annotated[
        list[str],
        typer.Option(
            "--binding",
            "-b",
            help="A gin binding of the study, 'Ablation.seeds = [0]', or of all its runs, 'Schedule.epochs = 1'.",
        ),
    ] = field(default_factory=list)
    study: Annotated[str | None, typer.Option(help="Its name; by default the first config's.")] = None
    storage: StorageOption = DEFAULT_STORAGE
    output: Annotated[Path | None, typer.Option(help="The folder of its runs; by default runs/STUDY.")] = None
    workers: Annotated[
        int, typer.Option(help="Runs that train at the same time; more than there are GPUs share them.")
    ] = 1
    processes: Annotated[
        int, typer.Option(help="Processes, and devices, of each run; more than one through torchrun.")
    ] = 1
    timeout: Annotated[float | None, typer.Option(help="Seconds after which no further trial is started.")] = None
    heartbeat: Annotated[int, typer.Option(help="Seconds between a running trial's signs of life.")] = 60
    grace: Annotated[int, typer.Option(help="Seconds without one after which another worker takes over.")] = 300
    retries: Annotated[int, typer.Option(help="How often a trial is tried again whose worker or run died.")] = 3
    poll: Annotated[float, typer.Option(hidden=True, help="Seconds between a worker's looks at its run.")] = 1.0

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study or Path(self.configs[0]).stem

    @property
    def folder(self) -> Path:
        """The folder of the study's runs."""
        return self.output or Path("runs") / self.name

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UserError: naming the option.
        """
        if any(part in ("", ".", "..") for part in self.name.split("/")) or len(self.name) > 200:
            raise UserError(f"--study {self.name} names a folder within runs/; give a short name without '..'")
        check_folder("--output" if self.output else "the study's folder", self.folder)
        for option, value, least in (
            ("timeout", self.timeout, 0),
            ("retries", self.retries, 0),
            ("poll", self.poll, 0),
        ):
            if value is not None and not (math.isfinite(value) and value >= least):
                raise UserError(f"--{option} {value} must be a number, {least} or more")
        if self.workers < 1 or self.processes < 1:
            raise UserError(f"--workers {self.workers} and --processes {self.processes} must be at least 1")
        if self.heartbeat < 1 or self.grace <= self.heartbeat:
            raise UserError(
                f"--grace {self.grace} must be more than --heartbeat {self.heartbeat}, and that at least 1 second"
            )

    def to_json(self) -> str:
        """The options as a worker gets them."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> StudyOptions:
        """Read what `to_json` gave."""
        values: dict[str, Any] = json.loads(text)
        output = None if values["output"] is None else Path(values["output"])
        return cls(**{**values, "output": output})
