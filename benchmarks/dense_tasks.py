"""What encoders pre-trained on StampScenes are worth for classification, segmentation and detection: one table.

Random masks, hard blocks, and labels (the network that fine-tuning trains from scratch), with several seeds, beside the
network that nothing has trained and raw pixels. Writes RESULTS/results.csv, a figure a line, and prints the table in
Markdown. Runs and results that are there already are not made again, so that the same command goes on after a kill.

    python benchmarks/dense_tasks.py --runs runs/dense_tasks --out docs/results/stamp_scenes --workers 2
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from hpm.metrics import half_interval, unit_of

MASKS = {"random masks": "random", "hard blocks": "hpm_memory_blocks"}
CLASSES = ("linear", "finetune")
DENSE = ("segmentation", "segmentation-finetune", "detection", "unsupervised-segmentation")
BASELINES = ("Linear", "FineTune", "Segmentation", "FineTuneSegmentation", "Detection")
SUPERVISED, UNTRAINED, PIXELS = "labels", "not pre-trained", "raw pixels"
ENCODERS = (*MASKS, SUPERVISED, UNTRAINED, PIXELS)
NETWORKS = {"initialization": UNTRAINED, "scratch": UNTRAINED, "raw_pixels": PIXELS}
ROWS = {
    "linear": "linear probe, accuracy",
    "finetune": "fine-tuning, accuracy",
    "segmentation/linear": "segmentation, linear on frozen tokens, mIoU",
    "segmentation/knn": "segmentation, k-NN on frozen tokens, mIoU",
    "segmentation_finetune": "segmentation, fine-tuned, mIoU",
    "detection/box_ap": "detection, AP of boxes",
    "detection/mask_ap": "detection, AP of masks",
    "unsupervised_segmentation/student/true_loss/iou": "true loss against objects, IoU",
    "unsupervised_segmentation/student/features/iou": "features against objects, IoU",
}


class Figure(NamedTuple):
    """A line of the results: a metric on test scenes, of one encoder and seed."""

    encoder: str
    seed: int
    metric: str
    value: float


def call(*words: object, log: Path) -> None:
    """Run `hpm`, its output in a file of its own; a failure ends the benchmark and names the file."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        ended = subprocess.run(
            [sys.executable, "-m", "hpm", *map(str, words)], stdout=file, stderr=file, env=environment, check=False
        )
    if ended.returncode:
        raise SystemExit(f"hpm {words[0]} ended with {ended.returncode}; see {log}")


def bind(*bindings: str) -> list[str]:
    """As the command line takes them."""
    return [word for text in bindings for word in ("-b", text)]


def work(runs: Path, masks: str, seed: int, settings: Sequence[str]) -> None:
    """Train and judge the encoder of one kind of masks and one seed; with random masks the others of that seed too."""
    run = runs / f"{masks}-{seed}"
    log, common = run.with_suffix(".log"), bind(f"StampScenes.cache_dir = '{runs / 'scenes'}'", *settings)
    seeded = bind(f"Trainer.seed = {seed}")
    if not (run / "summary.json").is_file():
        tracking = bind("MLflowTracker.enabled = False", "Monitoring.evaluations = []")
        call(
            "pretrain",
            "stamp_scenes",
            f"curricula/{masks}",
            "--resume",
            "--output",
            run,
            *seeded,
            *tracking,
            *common,
            log=log,
        )
    alone = masks == MASKS["random masks"]
    baselines = bind(*(f"{part}.baselines = True" for part in BASELINES)) if alone else []
    steps: list[tuple[Path, tuple[str, ...], tuple[str, ...]]] = [
        (run, ("evaluation/stamp_scenes",), CLASSES),
        (run, ("evaluation/stamp_scenes_dense",), DENSE),
    ]
    if alone:
        supervised = run / "finetune-scratch"
        steps += [
            (supervised, ("data/stamp_scenes", "evaluation/stamp_scenes"), ("linear",)),
            (supervised, ("data/stamp_scenes", "evaluation/stamp_scenes_dense"), DENSE),
        ]
    for model, configs, protocols in steps:
        for protocol in protocols:
            if any(figures_of(model, protocol)):
                continue
            own = [*baselines, *(["--keep"] if alone and protocol == "finetune" else [])] if model == run else seeded
            call("evaluate", model, *configs, "--protocol", protocol, *own, *common, log=log)


def figures_of(model: Path, protocol: str) -> Iterator[tuple[str, float]]:
    """The metrics on test scenes of a model's newest evaluation, none where it was not evaluated."""
    folder = model if (model / "config.gin").is_file() else model.parent
    file = folder / f"evaluation-{protocol}.json"
    entries = json.loads(file.read_text()) if file.is_file() else []
    own = [entry for entry in entries if (entry["model"] == model.name) == (folder != model)]
    for name, metric in own[-1]["metrics"].items() if own else ():
        if not name.startswith("validation/") and "mean" in metric:
            yield name, metric["mean"]


def collect(runs: Path, seeds: Iterable[int]) -> Iterator[Figure]:
    """All results that are there."""
    for seed in seeds:
        for encoder, masks in MASKS.items():
            run = runs / f"{masks}-{seed}"
            models = {encoder: run} | ({SUPERVISED: run / "finetune-scratch"} if masks == "random" else {})
            for of, model in models.items():
                for protocol in (*CLASSES, *DENSE):
                    for name, value in figures_of(model, protocol):
                        yield from figure(of, seed, name, value)


def figure(encoder: str, seed: int, name: str, value: float) -> Iterator[Figure]:
    """A metric of an evaluation; what its name says of the network becomes the encoder."""
    parts = name.split("/")
    network = next((part for part in parts if part == "pretrained" or part in NETWORKS), None)
    metric = "/".join(part for part in parts if part != network)
    if encoder == SUPERVISED and (network in NETWORKS or "loss" in name):
        return  # another's, or of a decoder that nothing has trained
    of = NETWORKS.get(network or "", encoder)
    yield Figure(of, seed, metric, value)
    if name == "finetune/scratch":  # training on labels alone is what supervised pre-training was
        yield Figure(SUPERVISED, seed, metric, value)


def cell(metric: str, values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and half the 95 % interval over seeds, as people read the metric."""
    if not values:
        return ""
    scale = unit_of(metric).scale
    mean = f"{scale * statistics.fmean(values):{'+' if signed else ''}.2f}"
    return mean if len(values) < 2 or len(set(values)) == 1 else f"{mean} ± {scale * half_interval(values):.2f}"


def table(figures: Iterable[Figure]) -> str:
    """In Markdown: a row for each task, a column for each encoder, and the paired difference of the two masks."""
    values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for of in figures:
        values[of.metric, of.encoder][of.seed] = of.value
    lines = [f"| test scenes, % | {' | '.join(ENCODERS)} | hard blocks - random masks |", "| --- |" + " ---: |" * 6]
    for metric, label in ROWS.items():
        declared = metric.replace("detection/", "detection/pretrained/") if "detection" in metric else metric
        declared = declared if "unsupervised" in declared or "/pretrained/" in declared else f"{declared}/pretrained"
        cells = [cell(declared, list(values[metric, encoder].values())) for encoder in ENCODERS]
        random, hard = (values[metric, encoder] for encoder in MASKS)
        paired = [hard[seed] - random[seed] for seed in sorted(hard.keys() & random.keys())]
        lines.append(f"| {label} | {' | '.join(cells)} | {cell(declared, paired, signed=True)} |")
    return "\n".join(lines)


def main() -> None:
    """Train, evaluate, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/dense_tasks"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000, 1001, 1002])
    parser.add_argument("--workers", type=int, default=1, help="encoders at once, each on a core")
    parser.add_argument("-b", "--binding", action="append", default=[], help="over every configuration")
    options = parser.parse_args()
    with ThreadPoolExecutor(options.workers) as pool:
        jobs = [
            pool.submit(work, options.runs, masks, seed, options.binding)
            for seed in options.seeds
            for masks in MASKS.values()
        ]
        for job in jobs:
            job.result()
    figures = list(collect(options.runs, options.seeds))
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Figure._fields)
        writer.writerows(sorted(figures))
    print(table(figures))


if __name__ == "__main__":
    main()
