"""StudyOptions: what a study is started with on a machine, on the command line and in each worker.

Importing this module imports nothing heavy, so that `hpm-study --help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from hpm.commands._completion import complete_config
from hpm.errors import UserError
from hpm.runtime.files import check_folder, expanded

DEFAULT_STORAGE = "sqlite:///runs/studies.db"
_MOST_PROCESSES = 1_024
_MOST_RETRIES = 1_000
_MOST_SECONDS = 1_000_000  # more than eleven days

StorageOption = Annotated[
    str, typer.Option(envvar="HPM_STUDY_STORAGE", help="sqlite:///FILE, or postgresql://... for several machines.")
]


def require_count(option: str, value: int, least: int, most: int) -> None:
    """Refuse a number that is out of range: a slip of the finger would start a thousand processes.

    Args:
        option: its name, without dashes.
        value: what was given.
        least: the smallest number that will do.
        most: the largest.

    Raises:
        UserError: naming the option and both ends.
    """
    if not least <= value <= most:
        raise UserError(f"--{option} {value} must be {least:,} to {most:,}")


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """The options of `ablate` and `search`; the help of each says what it is."""

    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...", autocompletion=complete_config, help="The study's gin file; more go over it."
        ),
    ]
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
    output: Annotated[
        Path | None, typer.Option(parser=expanded, help="The folder of its runs; by default runs/STUDY.")
    ] = None
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
        for option, seconds in (("timeout", self.timeout), ("poll", self.poll)):
            if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
                raise UserError(f"--{option} {seconds} must be a number, 0 or more")
        require_count("workers", self.workers, 1, _MOST_PROCESSES)
        require_count("processes", self.processes, 1, _MOST_PROCESSES)
        require_count("retries", self.retries, 0, _MOST_RETRIES)
        require_count("heartbeat", self.heartbeat, 1, _MOST_SECONDS)
        require_count("grace", self.grace, 1, _MOST_SECONDS)
        if self.grace <= self.heartbeat:
            raise UserError(f"--grace {self.grace} must be more than --heartbeat {self.heartbeat}")

    def command(self, name: str, trials: int | None) -> str:
        """The command that starts the study, as far as what it finds depends on it.

        Args:
            name: "ablate" or "search".
            trials: of a search, how many it is to have in all.
        """
        words = ["hpm-study", name, *self.configs]
        for text in self.bindings:
            words += ["-b", text]
        given = {
            "trials": trials,
            "study": self.study,
            "storage": None if self.storage == DEFAULT_STORAGE else self.storage,
            "output": self.output,
        }
        for option, value in given.items():
            words += [] if value is None else [f"--{option}", str(value)]
        return shlex.join(words)

    def to_json(self) -> str:
        """The options as a worker gets them."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> StudyOptions:
        """Read what `to_json` gave."""
        values: dict[str, Any] = json.loads(text)
        output = None if values["output"] is None else Path(values["output"])
        return cls(**{**values, "output": output})
