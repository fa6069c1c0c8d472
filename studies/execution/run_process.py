"""One run of the trainer as a process: `hpm pretrain`, watched through what it writes."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from hpm.errors import OUTCOME_VARIABLE
from hpm.runs.manifest import Manifest
from hpm.runs.metrics_file import parse_row
from hpm.runs.outcome import Outcome
from hpm.runs.run_folder import RunFolder
from hpm.runtime.signals import end_with_parent
from studies.definition.base import PlannedRun
from studies.execution.placement import Placement

_LAST_LINES = 5
_SECONDS_TO_SAVE = 120  # what a run that is told to stop has


class RunProcess:
    """A run that has been started, or goes on from its newest checkpoint.

    Args:
        run: what to train.
        path: the run's folder.
        log: the file that takes what the run prints. Beside it, the run says how it ended.
        bindings: what the study adds to the run's own.
        placement: where it computes.
        imports: a config that imports the study's own modules; None where it has none.
    """

    def __init__(
        self,
        run: PlannedRun,
        path: Path,
        log: Path,
        bindings: list[str],
        placement: Placement,
        *,
        imports: Path | None = None,
    ) -> None:
        self.folder = RunFolder(path)
        self.log = log
        self._outcome_file = log.with_suffix(".outcome.json").absolute()
        self._probes_read = 0  # bytes of the run's metrics
        self._probes_file = 0  # which file that was
        log.parent.mkdir(parents=True, exist_ok=True)
        self._outcome_file.unlink(missing_ok=True)
        self._output: IO[str] = log.open("a")
        self._log_start = log.stat().st_size  # what stands before is of earlier tries
        # A group of its own: Ctrl-C reaches the worker alone, which stops its run in order.
        self._process = subprocess.Popen(
            self._command(run, bindings, placement, imports),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env={**placement.environment(), OUTCOME_VARIABLE: str(self._outcome_file)},
            start_new_session=True,
            # Else somebody would find the run folder in use.
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),
        )

    def _command(self, run: PlannedRun, bindings: list[str], placement: Placement, imports: Path | None) -> list[str]:
        first, *others = run.configs
        words = [*placement.command(), "pretrain", first]
        if imports is not None:
            words.append(str(imports))
        words += others
        for binding in [*run.bindings, f"Trainer.seed = {run.seed}", *bindings]:
            words += ["-b", binding]
        return [*words, "--output", str(self.folder.path), "--resume"]

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None where the run goes on after so many seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """Let the run save and end; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_SECONDS_TO_SAVE)
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
            if stat.st_ino != self._probes_file or stat.st_size < self._probes_read:  # a run that goes on writes anew
                self._probes_read = 0
                self._probes_file = stat.st_ino
            file.seek(self._probes_read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._probes_read += len(whole)
        rows = map(parse_row, whole.splitlines())
        return [row for row in rows if row is not None and row["kind"] == "probe"]

    def outcome(self) -> Outcome | None:
        """How the run said that it ended; None where it could not say so, e.g. because it was killed.

        A run that ended well and left its summary is complete, though the disk had no room for its outcome.
        """
        told = Outcome.read(self._outcome_file)
        if told is None and self._process.poll() == 0 and self.folder.summary.is_file():
            return Outcome.of(None)
        return told

    def summary(self) -> dict[str, Any]:
        """The final figures of a complete run.

        Raises:
            UserError: if they are damaged.
        """
        return self.folder.read_summary()

    def fingerprints(self) -> dict[str, str]:
        """Those of the run's images, as its manifest has them; none where it has no manifest.

        Of training images there are several where the run went on over others.

        Raises:
            UserError: if the manifest is damaged.
        """
        if not self.folder.manifest.exists():
            return {}
        manifest = Manifest.read(self.folder.manifest)
        earlier = [before.data.fingerprint for before in manifest.earlier_data]
        held_out = {name: split.fingerprint for name, split in manifest.data.held_out.items()}
        return {"training": " ".join([*earlier, manifest.data.fingerprint]), **held_out}

    def log_tail(self) -> str:
        """What the run printed last, for people."""
        text = self.log.read_bytes()[self._log_start :].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:]) or "it printed nothing"
