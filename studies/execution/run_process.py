"""One run of the trainer as a process: `hpm pretrain`, watched through what it writes into its folder."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hpm.runs.run_folder import RunFolder
from studies.definition.base import PlannedRun

_PR_SET_PDEATHSIG = 1
_LAST_LINES = 5


@dataclass(frozen=True)
class Placement:
    """Where a worker's runs compute.

    Args:
        devices: CUDA devices by number; empty for the CPU.
        processes: of each run; more than one through `torchrun`.
        threads: of each process on the CPU.
    """

    devices: tuple[int, ...] = ()
    processes: int = 1
    threads: int | None = None

    def environment(self) -> dict[str, str]:
        """What a run's processes get."""
        environment = dict(os.environ)
        if self.devices:
            visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            chosen = [visible[device] if visible else str(device) for device in self.devices]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment

    def command(self) -> list[str]:
        """What starts `hpm`."""
        if self.processes == 1:
            return [sys.executable, "-m", "hpm"]
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.processes}",
            "-m",
            "hpm",
        ]


class RunProcess:
    """A run that has been started, or goes on from its newest checkpoint.

    Args:
        run: what to train.
        path: the run's folder.
        log: takes what the run prints.
        extra: bindings that the study adds.
        placement: where it computes.
        imports: a config that imports the study's own modules; None where it has none.
    """

    def __init__(
        self,
        run: PlannedRun,
        path: Path,
        log: Path,
        extra: list[str],
        placement: Placement,
        *,
        imports: Path | None = None,
    ) -> None:
        self.folder = RunFolder(path)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._read, self._file = 0, 0  # bytes of the run's metrics, and which file that was
        self._output: IO[str] = log.open("a")
        self._log_start = log.stat().st_size  # what stands before is of earlier tries
        bindings = [*run.bindings, f"Trainer.seed = {run.seed}", *extra]
        first, *others = run.configs
        configs = [first, *([str(imports)] if imports is not None else []), *others]
        command = [
            *placement.command(),
            "pretrain",
            *configs,
            *(word for text in bindings for word in ("-b", text)),
            "--output",
            str(path),
            "--resume",
        ]
        # A group of its own: Ctrl-C reaches the worker alone, which stops its run in order.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=placement.environment(),
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None where the run goes on after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """Let the run save and end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()
        finally:
            self._output.close()
            with suppress(ProcessLookupError, PermissionError):  # processes that a dead torchrun left
                os.killpg(self._process.pid, signal.SIGKILL)

    def new_probes(self) -> list[dict[str, Any]]:
        """Rows of probes that have been written since the last call; after a resume, older ones again."""
        path = self.folder.metrics.path
        if not path.is_file():
            return []
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._file or stat.st_size < self._read:  # a run that goes on writes another
                self._read = 0
                self._file = stat.st_ino
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return [row for line in whole.splitlines() if (row := json.loads(line))["kind"] == "probe"]

    def summary(self) -> dict[str, Any] | None:
        """The final figures; None where the run is not complete."""
        return json.loads(self.folder.summary.read_text()) if self.folder.summary.is_file() else None

    def log_tail(self) -> str:
        """What the run printed last."""
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("error:", "stopped:"))]
        return told[-1] if told else " | ".join(lines[-_LAST_LINES:]) or "it printed nothing"


def end_with_parent() -> None:
    """Have the kernel end this process when the worker dies, so that nobody else finds its run folder in use."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
