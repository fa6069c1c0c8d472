"""What cheaper loss prediction costs in accuracy: exact HPM against its approximations, on Fashion-MNIST.

Every variant is trained on the same images with the same seeds by `hpm pretrain`; a run that is there already is not
repeated, so that the program goes on where it was stopped. Prints JSON: for every variant the mean and the 95 %
interval over seeds of each metric, and the paired difference to the exact one.

    python benchmarks/approximations.py [--seeds 3] [--runs runs/approximations]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from machine import describe_machine

from hpm.metrics import half_interval

VARIANTS: dict[str, list[str]] = {
    "mae": ["MaskedAutoencoder.loss_predictor_depth = None"],
    "exact": [],
    "predictor_depth_1": ["MaskedAutoencoder.loss_predictor_depth = 1"],
    "score_every_4": ["Curriculum.score_every = 4"],
    "both": ["MaskedAutoencoder.loss_predictor_depth = 1", "Curriculum.score_every = 4"],
}
SETTINGS = [
    "MaskedAutoencoder.decoder_depth = 4",
    "MaskedAutoencoder.loss_predictor_depth = 4",
    "FashionMNIST.train_size = 10000",
    "Schedule.epochs = 4",
    "Monitoring.probe_every = 0",
    "Runtime.precision = 'fp32'",
    "Runtime.device = 'cpu'",
    "Monitoring.evaluations = [@Linear(), @LowShot(), @Agreement()]",
    "Linear.train_images = 10000",
    "Linear.test_images = 5000",
    "Linear.strengths = [10.0, 100.0]",
    "LowShot.baselines = False",
    "LowShot.epochs = 20",
    "LowShot.test_images = 5000",
    "MLflowTracker.enabled = False",
]
METRICS = ("low_shot/pretrained", "linear/pretrained", "agreement/teacher", "agreement/student")


def train(variant: str, seed: int, folder: Path) -> dict[str, float]:
    """The final metrics of a run; trained now, or before."""
    if not (folder / "summary.json").is_file():
        curriculum = ["curricula/random"] if variant == "mae" else []
        bindings = [*SETTINGS, *VARIANTS[variant], f"Trainer.seed = {seed}"]
        arguments = [word for binding in bindings for word in ("-b", binding)]
        command = [sys.executable, "-m", "hpm", "pretrain", "fashion_mnist", *curriculum, *arguments]
        subprocess.run([*command, "--resume", "--output", str(folder)], check=True, stdout=sys.stderr, env=os.environ)
    summary = json.loads((folder / "summary.json").read_text())
    return summary["metrics"] | {"training_seconds": summary["training_seconds"]}


def interval(values: list[float]) -> dict[str, object]:
    """Mean and 95 % interval (Student's t) over seeds."""
    half = half_interval(values)
    return {"mean": statistics.mean(values), "half_width_95": half, "values": values}


def main() -> None:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/approximations"))
    options = parser.parse_args()
    seeds = range(options.seeds)
    runs = {  # seed by seed, so that what is there after an interruption is balanced
        (variant, seed): train(variant, seed, options.runs / f"{variant}-{seed}")
        for seed in seeds
        for variant in VARIANTS
    }
    report: dict[str, object] = {}
    for variant in VARIANTS:
        rows = [runs[variant, seed] for seed in seeds]
        exact = [runs["exact", seed] for seed in seeds]
        known = [metric for metric in METRICS if metric in rows[0]]
        report[variant] = {metric: interval([row[metric] for row in rows]) for metric in known} | {
            "minus_exact": {
                metric: interval([row[metric] - other[metric] for row, other in zip(rows, exact, strict=True)])
                for metric in known
            }
        }
    print(json.dumps({"benchmark": "approximations", "variants": report, "machine": describe_machine("cpu")}, indent=2))


if __name__ == "__main__":
    main()
