"""What encoders pre-trained on StampScenes are worth for classification, segmentation and detection: one table.

Random masks, hard blocks, and labels (the same encoder, trained by the classes of all scenes that the others were
pre-trained on, as often), with several seeds, beside the network that nothing has trained and raw pixels. Writes
OUT/tasks.csv, a figure a line, and OUT/pictures, and prints the table in Markdown. Runs and results that are there
already are not made again, so that the same command goes on after a kill.

    python benchmarks/dense_tasks.py --runs runs/dense_tasks --out docs/results/stamp_scenes --workers 2
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from hpm.inference.export import write_timm
from hpm.inference.loading import load_model
from hpm.metrics import half_interval
from hpm.runtime.files import replacing
from studies.analysis.power import least_detectable
from studies.analysis.statistics import FEWEST_PAIRS

MASKS = {"random masks": "random", "hard blocks": "hpm_memory_blocks"}
CLASSES = ("linear", "finetune")
DENSE = ("segmentation", "segmentation-finetune", "detection", "unsupervised-segmentation")
BASELINES = {  # what measures them too, by protocol
    "linear": "Linear",
    "finetune": "FineTune",
    "segmentation": "Segmentation",
    "segmentation-finetune": "FineTuneSegmentation",
    "detection": "Detection",
}
ONE_SEED = ("finetune", "segmentation-finetune", "detection")  # trained from scratch with the first seed alone
SUPERVISED, UNTRAINED, PIXELS = "labels", "not pre-trained", "raw pixels"
ENCODERS = (*MASKS, SUPERVISED, UNTRAINED, PIXELS)
DATA = ("data/stamp_scenes",)
SUPERVISED_TRAINING = (
    "StampScenes.train_size = 20000",
    "FineTune.patience = None",
    "FineTune.epochs = 8",
    "FineTune.blr = 8e-3",
    "FineTune.layer_decay = 1.0",
)
NETWORKS = {
    "initialization": UNTRAINED,
    "scratch": UNTRAINED,
    "scratch_equal_compute": f"{UNTRAINED}, equal compute",
    "raw_pixels": PIXELS,
}
LOADING = Lock()  # gin holds one configuration for all threads
ROWS = {
    "supervised": "trained on all labels, accuracy",
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


def pretrain(runs: Path, masks: str, seed: int, settings: Sequence[str]) -> Path:
    """A run of one kind of masks, which knows no class; trained now, or before."""
    run = runs / f"{masks}-{seed}"
    if not (run / "summary.json").is_file():
        silent = bind("MLflowTracker.enabled = False", "Monitoring.probes = []", "Monitoring.evaluations = []")
        words = ("pretrain", "stamp_scenes", f"curricula/{masks}", "--resume", "--output", run)
        call(*words, *bind(f"Trainer.seed = {seed}"), *silent, *settings, log=run.with_suffix(".log"))
    return run


def supervise(runs: Path, seed: int, settings: Sequence[str]) -> Path:
    """The encoder that learned from labels: the untrained network of a run, fine-tuned on what that run saw."""
    folder = runs / f"labels-{seed}"
    untrained, trained = folder / "untrained", folder / "finetune-pretrained"
    if not (trained / "model.safetensors").is_file():
        if not untrained.is_dir():
            folder.mkdir(exist_ok=True)
            with LOADING, replacing(untrained) as partial:
                loaded = load_model(runs / f"{MASKS['random masks']}-{seed}")
                write_timm(loaded.context().initial(), loaded.source, "avg", {"format": "pt"}, partial)
        words = ("evaluate", untrained, *DATA, "evaluation/stamp_scenes", "--protocol", "finetune", "--keep")
        call(*words, *bind(*SUPERVISED_TRAINING), *bind(f"Trainer.seed = {seed}"), *settings, log=folder / "log")
    return trained


def evaluate(model: Path, config: str, protocol: str, settings: Sequence[str]) -> None:
    """Judge a model by a protocol, unless it was done before."""
    if not any(figures_of(model, protocol)):
        data = () if (model / "config.gin").is_file() else DATA
        call("evaluate", model, *data, config, "--protocol", protocol, *settings, log=log_of(model))


def work(runs: Path, encoder: str, seed: int, settings: Sequence[str], *, first: bool) -> None:
    """Train and judge one encoder of one seed; with random masks the baselines too.

    What takes longest beside the comparison of masks is measured with the first seed alone: training from scratch, and
    detection after labels.
    """
    if encoder == SUPERVISED:
        model = supervise(runs, seed, settings)
        settings = [*bind(f"Trainer.seed = {seed}"), *settings]
    else:
        model = runs / f"{MASKS[encoder]}-{seed}"
    for protocol in (*CLASSES, *DENSE):
        if encoder == SUPERVISED and (protocol == "finetune" or (protocol == "detection" and not first)):
            continue  # it was fine-tuned, on more labels
        config = "evaluation/stamp_scenes" if protocol in CLASSES else "evaluation/stamp_scenes_dense"
        baselines = encoder == "random masks" and protocol in BASELINES and (first or protocol not in ONE_SEED)
        own = bind(f"{BASELINES[protocol]}.baselines = True") if baselines else []
        evaluate(model, config, protocol, [*own, *settings])


def log_of(model: Path) -> Path:
    """Where commands about a model write what they say."""
    return model.parent / "log" if model.parent.name.startswith("labels-") else model.with_suffix(".log")


def figures_of(model: Path, protocol: str) -> Iterator[tuple[str, float]]:
    """The metrics on test scenes of a model's newest evaluation, none where it was not evaluated."""
    folder = model if (model / "config.gin").is_file() else model.parent
    file = folder / f"evaluation-{protocol}.json"
    entries = json.loads(file.read_text()) if file.is_file() else []
    own = [entry for entry in entries if entry["model"] == model.name or folder == model]
    for name, metric in own[-1]["metrics"].items() if own else ():
        if not name.startswith("validation/") and not name.endswith("_top5") and "mean" in metric:
            yield name, metric["mean"]


def collect(runs: Path, seeds: Iterable[int]) -> Iterator[Figure]:
    """All results that are there."""
    for seed in seeds:
        labels = runs / f"labels-{seed}"
        for _, value in figures_of(labels / "untrained", "finetune"):
            yield Figure(SUPERVISED, seed, "supervised", value)
        models = {encoder: runs / f"{masks}-{seed}" for encoder, masks in MASKS.items()}
        for encoder, model in (models | {SUPERVISED: labels / "finetune-pretrained"}).items():
            for protocol in (*CLASSES, *DENSE):
                for name, value in figures_of(model, protocol):
                    yield figure(encoder, seed, name, value)


def figure(encoder: str, seed: int, name: str, value: float) -> Figure:
    """A metric of an evaluation; what its name says of the network becomes the encoder."""
    parts = name.split("/")
    network = next((part for part in parts if part == "pretrained" or part in NETWORKS), None)
    return Figure(
        NETWORKS.get(network or "", encoder), seed, "/".join(part for part in parts if part != network), value
    )


def write(figures: Iterable[Figure], file: Path) -> None:
    """One line each."""
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(Figure._fields)
        writer.writerows(sorted(figures))


def read(file: Path) -> list[Figure]:
    """What `write` wrote."""
    with file.open(newline="") as lines:
        return [
            Figure(row["encoder"], int(row["seed"]), row["metric"], float(row["value"]))
            for row in csv.DictReader(lines)
        ]


def copy_pictures(runs: Path, seed: int, folder: Path) -> None:
    """What is masked at the end of training, and what was found after random masks and from scratch."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(
        max((runs / f"{MASKS['hard blocks']}-{seed}" / "pictures").glob("step-*.png")), folder / "masks.png"
    )
    for protocol in DENSE:
        shutil.copyfile(
            runs / f"{MASKS['random masks']}-{seed}" / f"evaluation-{protocol}.png", folder / f"{protocol}.png"
        )


def cell(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and half the 95 % interval over seeds, in percent."""
    if not values:
        return ""
    mean = f"{100 * statistics.fmean(values):{'+' if signed else ''}.2f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {100 * half_interval(values):.2f}"


def least_effect(differences: Sequence[float]) -> str:
    """The true difference, in percent, that a paired t-test at 5 % would have found with a probability of 80 %."""
    pairs = len(differences)
    if pairs < FEWEST_PAIRS or not (variance := statistics.variance(differences)):
        return ""
    return f"{100 * least_detectable(variance, pairs, pairs - 1, 0.05):.1f}"


def table(figures: Iterable[Figure]) -> str:
    """In Markdown: a row for each task, a column for each encoder, and the two masks' paired difference.

    Beside it stands what difference these seeds could have shown.
    """
    values: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for of in figures:
        values[of.metric, of.encoder][of.seed] = of.value
    columns = [*ENCODERS, "hard blocks - random masks", "least detectable"]
    lines = [f"| test scenes, % | {' | '.join(columns)} |", "| --- |" + " ---: |" * len(columns)]
    for metric, label in ROWS.items():
        cells = [cell(list(values[metric, encoder].values())) for encoder in ENCODERS]
        random, hard = (values[metric, encoder] for encoder in MASKS)
        paired = [hard[seed] - random[seed] for seed in sorted(hard.keys() & random.keys())]
        cells += [cell(paired, signed=True), least_effect(paired)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
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
    runs, seeds = options.runs, options.seeds
    settings = bind(f"StampScenes.cache_dir = '{runs / 'scenes'}'", *options.binding)
    with ThreadPoolExecutor(options.workers) as pool:
        for run in [pool.submit(pretrain, runs, kind, seed, settings) for seed in seeds for kind in MASKS.values()]:
            run.result()
        jobs = [
            pool.submit(work, runs, encoder, seed, settings, first=seed == seeds[0])
            for seed in seeds
            for encoder in (*MASKS, SUPERVISED)
        ]
        for job in jobs:
            job.result()
    figures = list(collect(runs, seeds))
    options.out.mkdir(parents=True, exist_ok=True)
    write(figures, options.out / "tasks.csv")
    copy_pictures(runs, seeds[0], options.out / "pictures")
    print(table(figures))


if __name__ == "__main__":
    main()
