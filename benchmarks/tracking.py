"""What tracking costs a training run: of the training thread, and of the processor beside it. Prints JSON.

One run of `hpm pretrain quickstart` without evaluations: MLflow writes to an SQLite file and measures the system, every
twentieth step is logged, a checkpoint with its metrics is sent every 80. Timing whole runs with and without tracking
would need many to find a hundredth. Instead every call that training makes to the tracker is timed, which is what
tracking adds where a core is free; and the processor time of the tracker's threads is added up, which is what it adds
at most where none is. What comes once is told apart: starting, above all the import of MLflow, for which training
waits, and opening the run beside training.

    python benchmarks/tracking.py [--images 10000] [--epochs 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from machine import describe_machine

from hpm.config import parse_config
from hpm.runs.run_folder import RunFolder
from hpm.runtime.console import make_console
from hpm.tracking.mlflow import MLflowTracker


class TimedTracker(MLflowTracker):
    """Adds up seconds: of the training thread in its calls, and of the processor in its own thread."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seconds = dict.fromkeys(("starting", "calls", "opening", "delivering", "system metrics"), 0.0)
        self.calls = 0

    def start(self, folder: Path, **told: Any) -> None:
        """Timed by the clock: training begins after it."""
        started = time.perf_counter()
        super().start(folder, **told)
        self.seconds["starting"] += time.perf_counter() - started

    def send(self, rows: Sequence[dict[str, Any]], files: Sequence[Path] = ()) -> None:
        """Timed by the clock."""
        started = time.perf_counter()
        super().send(rows, files)
        self.calls += 1
        self.seconds["calls"] += time.perf_counter() - started

    def _open(self) -> None:
        started = time.thread_time()
        super()._open()
        self.seconds["opening"] += time.thread_time() - started

    def _deliver(self, closing: bool) -> None:
        watched = _processor_seconds("SystemMetricsMonitor")  # whose thread ends with the run
        self.seconds["system metrics"] = max(watched, self.seconds["system metrics"])
        before, started = self.seconds["opening"], time.thread_time()
        super()._deliver(closing)
        self.seconds["delivering"] += time.thread_time() - started - (self.seconds["opening"] - before)


def _processor_seconds(name: str) -> float:
    """Of this process's threads of that name."""
    wanted = {thread.native_id for thread in threading.enumerate() if thread.name.startswith(name)}
    return sum(found.user_time + found.system_time for found in psutil.Process().threads() if found.id in wanted)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{name}/mlflow.db"
        config = parse_config(
            ["quickstart"],
            [
                f"DigitScenes.train_size = {options.images}",
                f"Schedule.epochs = {options.epochs}",
                "Schedule.warmup_epochs = 0",
                "Monitoring.probe_every = 0",
                "Monitoring.probes = []",
                "Monitoring.evaluations = []",
                "Checkpointing.every = 80",
                "MLflowTracker.enabled = False",
            ],
        )
        trainer = config.build()
        tracker = trainer.tracker = TimedTracker(uri=uri, system_metrics=True)
        folder = RunFolder(Path(name, "run"))
        folder.create(config.text(), config.operative_text(), trainer.manifest("tracking", {}))
        started = time.process_time()
        summary = trainer.fit(folder, make_console(file=sys.stderr), name="tracking", parameters=config.parameters())
        processor = time.process_time() - started
    training, told = summary["training_seconds"], {key: round(value, 4) for key, value in tracker.seconds.items()}
    print(
        json.dumps(
            {
                "benchmark": "tracking",
                **vars(options),
                "training_seconds": training,
                "processor_seconds": processor,
                "steps": summary["steps"],
                "calls": tracker.calls,
                "seconds": told,
                "share_of_training": {
                    "in the training thread": tracker.seconds["calls"] / training,
                    "of the processor beside it, at most": (
                        tracker.seconds["delivering"] + tracker.seconds["system metrics"]
                    )
                    / training,
                },
                "machine": describe_machine("cpu"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
