"""Does difficulty find the digit? Localization of all estimators' scores on DigitScenes, after HPM at quickstart scale.

Trains the quickstart under `curricula/hpm_easy_to_hard` once for each seed by `hpm pretrain`, without its own
evaluations; a run that is there already is not repeated, so that the program goes on where it was stopped. Or takes
finished runs. Prints JSON: for every estimator and metric the mean and the 95 % interval over runs, and draws the same
as a picture.

    python benchmarks/localization.py [--seeds 3] [--output runs/localization]
    python benchmarks/localization.py --runs runs/quickstart-1 runs/quickstart-2
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import describe_machine
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hpm.evaluation import Localization
from hpm.evaluation.localization import METRICS
from hpm.inference.loading import load_model
from hpm.metrics import half_interval

SETTINGS = [
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
    "Monitoring.probe_every = 0",
    "Runtime.device = 'cpu'",
    "Runtime.precision = 'fp32'",
    "MLflowTracker.enabled = False",
]
TITLES = {"auroc": "AUROC", "average_precision": "average precision", "pointing_game": "pointing game"}
COLORS = {"teacher": "#56B4E9", "student": "#E69F00", "": "#BBBBBB"}  # Okabe and Ito's, told apart by color-blind eyes


def train(seed: int, folder: Path) -> Path:
    """A finished run of the quickstart; trained now, or before."""
    if not (folder / "summary.json").is_file():
        arguments = [word for binding in [*SETTINGS, f"Trainer.seed = {seed}"] for word in ("-b", binding)]
        command = [sys.executable, "-m", "hpm", "pretrain", "quickstart", "curricula/hpm_easy_to_hard", *arguments]
        subprocess.run([*command, "--resume", "--output", str(folder)], check=True, stdout=sys.stderr)
    return folder


def evaluate(folder: Path, images: int) -> dict[str, float]:
    """A run's metrics: `object_share`, and `SCORES/METRIC` for all scores."""
    context = replace(load_model(folder).context(), splits=("test",))
    metrics = Localization(images=images)(context)
    return {name.removeprefix("localization/"): value for name, value in metrics.items()}


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval (Student's t) over runs; of one run there is no interval."""
    half = half_interval(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "half_width_95": half, "values": values}


def summarize(rows: list[dict[str, float]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores -> metric -> interval; highest AUROC first. Scores that some run lacks are left out."""
    names = dict.fromkeys(name.rsplit("/", 1)[0] for name in rows[0] if name != "object_share")
    known = [name for name in names if all(f"{name}/auroc" in row for row in rows)]
    known.sort(key=lambda name: -statistics.mean(row[f"{name}/auroc"] for row in rows))
    return {name: {metric: interval([row[f"{name}/{metric}"] for row in rows]) for metric in METRICS} for name in known}


def draw(scores: dict[str, dict[str, dict[str, Any]]], path: Path, *, runs: int, images: int) -> None:
    """Bars with runs and intervals, one panel for each metric, and a line at what random scores reach."""
    figure = Figure(figsize=(11, 0.42 * len(scores) + 1.6), layout="constrained")
    labels = [name.replace("/", ": ").replace("_", " ") for name in scores]
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for panel, (metric, title) in zip(panels, TITLES.items(), strict=True):
        for place, (name, values) in enumerate(scores.items()):
            mean, half, each = (values[metric][key] for key in ("mean", "half_width_95", "values"))
            whose = name.split("/")[0] if "/" in name else ""
            panel.barh(place, mean, xerr=half, color=COLORS[whose], height=0.7, capsize=3, ecolor="black")
            panel.plot(each, [place] * len(each), "o", color="white", markeredgecolor="black", markersize=4)
            panel.text(0.02, place - 0.17, f"{mean:.2f}", va="center", fontsize=9, fontweight="bold")
        panel.axvline(scores["random"][metric]["mean"], color="black", linestyle="--", linewidth=1)
        panel.set(title=title, xlim=(0, 1.02), yticks=range(len(labels)), yticklabels=labels)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.suptitle("Which patches hold the digit? Scores of difficulty estimators against the truth")
    spread = f"circles: {runs} runs, with the 95 % interval of their mean; " if runs > 1 else ""
    figure.supxlabel(f"mean over {images:,} held-out images; {spread}dashed: random scores", fontsize=9)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Train or load, evaluate, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/localization"), help="where runs are trained")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs to take instead")
    parser.add_argument("--images", type=int, default=2000, help="of the test split, at most")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/localization.png"))
    options = parser.parse_args()
    runs = options.runs or [train(seed, options.output / f"seed-{seed}") for seed in range(options.seeds)]
    images = min(options.images, len(load_model(runs[0]).source.test()))
    rows = [evaluate(folder, images) for folder in runs]
    scores = summarize(rows)
    draw(scores, options.plot, runs=len(runs), images=images)
    report = {
        "benchmark": "localization",
        "config": "quickstart curricula/hpm_easy_to_hard",
        "runs": [str(folder) for folder in runs],
        "images": images,
        "object_share": interval([row["object_share"] for row in rows]),
        "scores": scores,
        "machine": describe_machine("cpu"),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
