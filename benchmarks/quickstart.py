"""The quickstart: random masks and a curriculum side by side, with three seeds, as Markdown.

How hard were the masks, what did the network learn, what did it cost? Trains `hpm pretrain quickstart` as it is and
under `curricula/random`, once for each seed, as many runs at a time as there are cores, one thread each; means and 95 %
intervals over seeds. A complete run that is there already is not repeated, one that was stopped goes on, and one of
other settings is refused.

    python benchmarks/quickstart.py [--seeds 3] [--output runs/quickstart-seeds]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hpm.evaluation.convergence import NOT_CONVERGED
from hpm.metrics import half_interval

# What each run adds to the quickstart. The networks that it is held against are the same for both, and trained once.
RUNS = {"random": ["curricula/random", "-b", "LowShot.baselines = False"], "curriculum": []}
_ACCURACY = "low_shot/pretrained"
ROWS = {
    "extra loss of the patches with the densest edges, % of the attainable": ("curriculum/hardness_share_edges", 100.0),
    "extra loss of all masked patches, % of the attainable": ("curriculum/hardness_share_mask", 100.0),
    "fine-tuned on 100 labels, test accuracy, %": (_ACCURACY, 100.0),
    "seconds of pre-training": ("training_seconds", 1.0),
}
BASELINES = {
    "low_shot/scratch": "from scratch",
    "low_shot/scratch_equal_compute": "from scratch, equal compute",
    "low_shot/raw_pixels": "raw pixels, logistic regression",
}


def train(name: str, seed: int, folder: Path, bindings: Sequence[str]) -> dict[str, float]:
    """A run's final metrics, and its seconds of training."""
    words = [word for binding in (f"Trainer.seed = {seed}", *bindings) for word in ("-b", binding)]
    command = ["hpm", "pretrain", "quickstart", *RUNS[name], *words, "--output", str(folder), "--resume"]
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.parent / f"{folder.name}.txt"
    # Of a run that is begun anew, what an earlier one said counts no more; see `print_unconverged`.
    with log.open("a" if folder.exists() else "w") as file:
        code = subprocess.run(
            [sys.executable, "-m", *command],
            check=False,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).returncode
    if code:
        sys.exit(f"{folder.name} ended with code {code}; {log} says why:\n{log.read_text()[-1000:].strip()}")
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    print(f"{folder.name}: {folder}, pictures in {folder / 'pictures'}", file=sys.stderr, flush=True)
    return {**found["metrics"], "training_seconds": found["training_seconds"]}


def cell(values: Sequence[float], sign: str = "") -> str:
    """Mean and interval."""
    half = f" ± {half_interval(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{half}"


def differences(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Seed by seed."""
    return [mine - theirs for mine, theirs in zip(one, other, strict=True)]


def print_tables(found: dict[str, list[dict[str, float]]]) -> None:
    """What the runs found, and whether their accuracies differ."""
    seeds = len(found["random"])
    print(f"| {seeds} seeds | random masks | curriculum | difference |")
    print("| --- | ---: | ---: | ---: |")
    called_hard = cell([100 * run["curriculum/hardness_share"] for run in found["curriculum"]])
    print(f"| extra loss of the patches called hard, % of the attainable | no patch is | {called_hard} | |")
    for label, (metric, scale) in ROWS.items():
        random, curriculum = ([scale * run[metric] for run in found[name]] for name in RUNS)
        print(f"| {label} | {cell(random)} | {cell(curriculum)} | {cell(differences(curriculum, random), '+')} |")
    print()
    accuracies = {name: [100 * run[_ACCURACY] for run in found[name]] for name in RUNS}
    gains = differences(accuracies["curriculum"], accuracies["random"])
    apart = seeds > 1 and abs(statistics.fmean(gains)) > half_interval(gains)
    told = "differ" if apart else "cannot be told apart: every seed draws other labels, and the draw moves them too"
    print(f"By {seeds} seed{'s' * (seeds > 1)} the two accuracies {told}.")
    print()
    print("| test accuracy, %, without pre-training | | curriculum minus this |")
    print("| --- | ---: | ---: |")
    for metric, label in BASELINES.items():
        if all(metric in run for run in found["curriculum"]):
            baseline = [100 * run[metric] for run in found["curriculum"]]
            print(f"| {label} | {cell(baseline)} | {cell(differences(accuracies['curriculum'], baseline), '+')} |")


def print_unconverged(found: dict[str, list[dict[str, float]]], output: Path) -> None:
    """How many of the fine-tunings that go on until they have converged had not."""
    to_converge = (_ACCURACY, "low_shot/scratch")
    tunings = sum(metric in run for runs in found.values() for run in runs for metric in to_converge)
    logs = [output / f"{name}-seed-{seed}.txt" for name, runs in found.items() for seed in range(len(runs))]
    told = {(log, line) for log in logs for line in log.read_text().splitlines() if NOT_CONVERGED in line}
    if told:
        print()
        print(f"{len(told)} of {tunings} fine-tunings {NOT_CONVERGED} when their epochs were used up ({output}/*.txt).")


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart-seeds"))
    parser.add_argument("-b", "--binding", action="append", default=[])
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error(f"--seeds {options.seeds} must be 1 or more")
    started = time.monotonic()
    cells = [(name, seed) for seed in range(options.seeds) for name in RUNS]
    print(f"{len(cells)} runs; what each says is in {options.output}/*.txt", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        runs = {
            (name, seed): workers.submit(train, name, seed, options.output / f"{name}-seed-{seed}", options.binding)
            for name, seed in cells
        }
        found = {name: [runs[name, seed].result() for seed in range(options.seeds)] for name in RUNS}
    print_tables(found)
    print_unconverged(found, options.output)
    print(f"in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
