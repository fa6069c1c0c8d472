"""The quickstart with three seeds: what pre-training is worth, mean and 95 % interval over seeds, as Markdown.

Runs `hpm pretrain quickstart` once for each seed, up to two at a time for each core, one thread each. A run that is
there already is not repeated.

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

from hpm.evaluation import half_interval

ROWS = {
    "low_shot/pretrained": "pre-trained",
    "low_shot/scratch": "from scratch",
    "low_shot/scratch_equal_compute": "from scratch, equal compute",
    "low_shot/raw_pixels": "raw pixels, logistic regression",
}


def train(seed: int, folder: Path, bindings: Sequence[str]) -> dict[str, float]:
    """A run's final metrics."""
    summary = folder / "summary.json"
    if not summary.is_file():
        words = [word for binding in (f"Trainer.seed = {seed}", *bindings) for word in ("-b", binding)]
        folder.parent.mkdir(parents=True, exist_ok=True)
        log = folder.parent / f"{folder.name}.txt"
        with log.open("w") as file:
            code = subprocess.run(
                [sys.executable, "-m", "hpm", "pretrain", "quickstart", "--output", str(folder), "--resume", *words],
                check=False,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            ).returncode
        if code:
            sys.exit(f"seed {seed} ended with code {code}; {log} says why")
    metrics: dict[str, float] = json.loads(summary.read_text())["metrics"]
    print(f"seed {seed}: {folder}, pictures in {folder / 'pictures'}", file=sys.stderr, flush=True)
    return metrics


def cell(values: Sequence[float], sign: str = "") -> str:
    """Mean and interval, in percent."""
    values = [100 * value for value in values]
    half = f" ± {half_interval(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.1f}{half}"


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/quickstart-seeds"))
    parser.add_argument("-b", "--binding", action="append", default=[])
    options = parser.parse_args()
    started = time.monotonic()
    print(f"{options.seeds} runs; what each says is in {options.output}/seed-*.txt", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(min(options.seeds, 2 * (os.cpu_count() or 1))) as workers:
        runs = [
            workers.submit(train, seed, options.output / f"seed-{seed}", options.binding)
            for seed in range(options.seeds)
        ]
        found = [run.result() for run in runs]
    print(f"| test accuracy, %, {options.seeds} seeds | | pre-trained minus this |")
    print("| --- | ---: | ---: |")
    for metric, name in ROWS.items():
        if all(metric in metrics for metrics in found):
            values = [metrics[metric] for metrics in found]
            gains = [metrics["low_shot/pretrained"] - value for metrics, value in zip(found, values, strict=True)]
            print(f"| {name} | {cell(values)} | {'' if not any(gains) else cell(gains, '+')} |")
    print(f"in {time.monotonic() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
