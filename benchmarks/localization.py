"""Is what is hard the object? What difficulty estimators find after HPM as published, on photographs or digits.

Trains `stamp_scenes` or `quickstart` under `curricula/hpm_easy_to_hard`, with a loss predictor and a moving average,
once for each seed by `hpm pretrain`, without its own evaluations; a run that is there already is not repeated, so that
the program goes on where it was stopped. Or takes finished runs. Writes JSON: for every estimator and metric the mean
and the 95 % interval over runs, on test scenes; draws the same as a picture, and prints it as a table in Markdown.

    python benchmarks/localization.py stamp_scenes --out localization.json [--seeds 3] [--output runs/localization]
    python benchmarks/localization.py quickstart --out localization.json --runs runs/quickstart-1 runs/quickstart-2
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

from hpm.evaluation import Localization, UnsupervisedSegmentation
from hpm.inference.loading import load_model
from hpm.metrics import half_interval

SETTINGS = [
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
    "Monitoring.probe_every = 0",
    "MaskedAutoencoder.loss_predictor_depth = 1",
    "Method.ema_decay = @HorizonDecay()",
    "Runtime.device = 'cpu'",
    "Runtime.precision = 'fp32'",
    "MLflowTracker.enabled = False",
]
TITLES = {
    "localization/auroc": "AUROC of the object's patches",
    "unsupervised_segmentation/iou": "IoU with the object's pixels",
    "unsupervised_segmentation/corloc": "objects whose box is found (CorLoc)",
}
COLORS = {"teacher": "#56B4E9", "student": "#E69F00", "": "#BBBBBB"}  # Okabe and Ito's, told apart by color-blind eyes


def train(config: str, seed: int, folder: Path) -> Path:
    """A finished run; trained now, or before."""
    if not (folder / "summary.json").is_file():
        arguments = [word for binding in [*SETTINGS, f"Trainer.seed = {seed}"] for word in ("-b", binding)]
        command = [sys.executable, "-m", "hpm", "pretrain", config, "curricula/hpm_easy_to_hard", *arguments]
        subprocess.run([*command, "--resume", "--output", str(folder)], check=True, stdout=sys.stderr)
    return folder


def evaluate(folder: Path, images: int) -> dict[str, float]:
    """A run's metrics on test scenes; the share of pixels that is taken for the object is chosen on others."""
    context = replace(load_model(folder).context(), splits=("test",))
    return Localization(images=images)(context) | UnsupervisedSegmentation(images=images)(context)


def interval(values: list[float]) -> dict[str, Any]:
    """Mean and 95 % interval (Student's t) over runs; of one run there is no interval."""
    half = half_interval(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "half_width_95": half, "values": values}


def summarize(rows: list[dict[str, float]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores -> metric, as in `TITLES` -> interval; highest AUROC first. Scores that some run lacks are left out."""
    split = [name.split("/") for name in set.intersection(*map(set, rows))]
    names = {"/".join(words[1:-1]) for words in split if words[-1] == "auroc"}

    def of(name: str, metric: str) -> list[float]:
        protocol, measure = metric.split("/")
        return [row[f"{protocol}/{name}/{measure}"] for row in rows]

    found = {name: {metric: interval(of(name, metric)) for metric in TITLES} for name in names}
    return dict(sorted(found.items(), key=lambda item: (-item[1]["localization/auroc"]["mean"], item[0])))


def draw(scores: dict[str, dict[str, dict[str, Any]]], path: Path, *, data: str, runs: int, images: int) -> None:
    """Bars with runs and intervals, one panel for each metric, and a line at what random scores reach."""
    figure = Figure(figsize=(11, 0.42 * len(scores) + 1.6), layout="constrained")
    labels = [name.replace("/", ": ").replace("_", " ") for name in scores]
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for panel, (metric, title) in zip(panels, TITLES.items(), strict=True):
        for place, (name, values) in enumerate(scores.items()):
            mean, half, each = (values[metric][key] for key in ("mean", "half_width_95", "values"))
            whose = name.split("/")[0] if "/" in name else ""
            panel.barh(place, mean, xerr=half, color=COLORS[whose], height=0.7, capsize=3, ecolor="black")
            panel.plot(each, [place] * len(each), "o", color="white", markeredgecolor="black", markersize=4)
            panel.text(1.0, place, f"{mean:.2f}", va="center", ha="right", fontsize=9, fontweight="bold")
        panel.axvline(scores["random"][metric]["mean"], color="black", linestyle="--", linewidth=1)
        panel.set_title(title, fontsize=10)
        panel.set(xlim=(0, 1.02), yticks=range(len(labels)), yticklabels=labels)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    figure.suptitle("Is what is hard the object? Scores of difficulty estimators against the truth")
    spread = f"circles: {runs} runs, with the 95 % interval of their mean; " if runs > 1 else ""
    figure.supxlabel(f"mean over {images:,} test scenes of {data}; {spread}dashed: random scores", fontsize=9)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def table(scores: dict[str, dict[str, dict[str, Any]]]) -> str:
    """In Markdown, in percent: a row for each estimator, a column for each metric."""
    heads = [metric.rsplit("/", 1)[1] for metric in TITLES]
    lines = [f"| %, test scenes | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
    for name, values in scores.items():
        cells = []
        for metric in TITLES:
            mean, half = values[metric]["mean"], values[metric]["half_width_95"]
            cells.append(f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if half else ""))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train or load, evaluate, draw, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", choices=("stamp_scenes", "quickstart"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/localization"), help="where runs are trained")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs to take instead")
    parser.add_argument("--images", type=int, default=2000, help="of the test split, at most")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file")
    parser.add_argument("--plot", type=Path, default=Path("docs/images/localization.png"))
    options = parser.parse_args()
    runs = options.runs or [
        train(options.config, seed, options.output / f"{options.config}-{seed}") for seed in range(options.seeds)
    ]
    source = load_model(runs[0]).source
    images = min(options.images, len(source.test()))
    rows = [evaluate(folder, images) for folder in runs]
    scores = summarize(rows)
    draw(scores, options.plot, data=type(source).__name__, runs=len(runs), images=images)
    report = {
        "benchmark": "localization",
        "config": None if options.runs else f"{options.config} curricula/hpm_easy_to_hard",
        "runs": [folder.name for folder in runs],
        "images": images,
        "object_share": interval([row["unsupervised_segmentation/object_share"] for row in rows]),
        "scores": scores,
        "machine": describe_machine("cpu"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(table(scores))


if __name__ == "__main__":
    main()
