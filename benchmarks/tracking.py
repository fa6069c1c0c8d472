"""What tracking costs a training run: MLflow with system metrics against none, in alternation. Prints JSON.

Runs of `hpm pretrain quickstart`, one epoch each without evaluations; MLflow writes to an SQLite file, every twentieth
step is logged, and a checkpoint is written twice. What counts is the time that the run itself reports for training.

    python benchmarks/tracking.py [--rounds 5] [--images 10000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine


def train(folder: Path, name: str, images: int, *, tracked: bool) -> float:
    """Seconds of training."""
    bindings = [
        f"MLflowTracker.enabled = {tracked}", f"MLflowTracker.uri = 'sqlite:///{folder}/mlflow.db'",
        f"MLflowTracker.system_metrics = {tracked}", f"DigitScenes.train_size = {images}", "Trainer.epochs = 1",
        "Trainer.probe_every = 0", "Trainer.probes = []", "Trainer.evaluations = []", "Trainer.checkpoint_every = 80",
    ]  # fmt: skip
    command = [sys.executable, "-m", "hpm", "pretrain", "quickstart", "--output", str(folder / name)]
    command += [word for text in bindings for word in ("-b", text)]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / name / "summary.json").read_text())["training_seconds"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train(folder, "warm-up", 640, tracked=True)  # makes the database
        rounds = [
            {
                tracked: train(folder, f"{number}-{tracked}", options.images, tracked=tracked)
                for tracked in (False, True)
            }
            for number in range(options.rounds)
        ]
    ratios = [found[True] / found[False] for found in rounds]
    print(json.dumps({
        "benchmark": "tracking", **vars(options), "seconds": [[found[False], found[True]] for found in rounds],
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "machine": describe_machine("cpu"),
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
