"""What several runs of one config have learnt: a table of `hpm evaluate`'s results, mean and 95 % interval over runs.

Prints Markdown. Pre-trained weights stand beside the same network without pre-training and beside raw pixels, and the
gain is paired run by run.

    for seed in 0 1 2; do
        hpm pretrain fashion_mnist --output runs/fm-$seed -b "Trainer.seed = $seed"
        hpm evaluate runs/fm-$seed evaluation/fashion_mnist --protocol knn,linear,finetune
    done
    python benchmarks/representations.py runs/fm-0 runs/fm-1 runs/fm-2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

from hpm.metrics import half_interval

PROTOCOLS = {"knn": "k-NN", "linear": "linear probe", "finetune": "fine-tuning"}
WITHOUT = ("initialization", "scratch")  # what protocols call the same network without pre-training
Metrics = dict[str, float]


def metrics_of(run: Path, protocol: str) -> Metrics:
    """Of the newest evaluation of a run's folder: `{"pretrained": 0.81, ...}`."""
    file = run / f"evaluation-{protocol}.json"
    if not file.is_file():
        sys.exit(f"{run} has no {file.name}; call `hpm evaluate {run} ... --protocol {protocol}` first")
    entry = json.loads(file.read_text())[-1]
    return {name.split("/", 1)[1]: metric["mean"] for name, metric in entry["metrics"].items()}


def cell(values: list[float], *, signed: bool = False) -> str:
    """In percent."""
    values = [100 * value for value in values]
    mean = f"{statistics.fmean(values):{'+' if signed else ''}.2f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {half_interval(values):.2f}"


def row(protocol: str, found: list[Metrics]) -> str:
    """Of the table."""
    without = next((name for name in WITHOUT if name in found[0]), None)
    pretrained = [metrics["pretrained"] for metrics in found]
    cells = [PROTOCOLS[protocol], cell(pretrained)]
    if without is None:
        cells += ["", ""]
    else:
        others = [metrics[without] for metrics in found]
        cells += [cell(others), cell([a - b for a, b in zip(pretrained, others, strict=True)], signed=True)]
    cells.append(cell([metrics["raw_pixels"] for metrics in found]) if "raw_pixels" in found[0] else "")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--protocol", default=",".join(PROTOCOLS))
    options = parser.parse_args()
    print(f"| top-1, %, {len(options.runs)} runs | pre-trained | not pre-trained | gain | raw pixels |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for protocol in options.protocol.split(","):
        print(row(protocol, [metrics_of(run, protocol) for run in options.runs]))


if __name__ == "__main__":
    main()
