"""The documentation's table of all methods, with what was measured of each.

    python benchmarks/methods_page.py > docs/methods.md

The rows of mask policies, their papers and costs are those of docs/curricula.md; the differences are computed from the
runs in docs/results/zoo and docs/results/zoo_small.
"""

from __future__ import annotations

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import jinja2

from hpm.metrics import half_interval

TEMPLATE = Path(__file__).with_suffix(".md.j2")
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
BASELINE = "random"
# By data set: the file of fresh seeds and test images, that of the screening on validation images, and an older study.
SOURCES = {
    "scenes": ["zoo/confirmed_stamp_scenes", "zoo/screening_stamp_scenes"],
    "Fashion-MNIST": ["zoo/confirmed_fashion_mnist", "zoo/screening_fashion_mnist", "zoo_small/results"],
}
MARKS = {"confirmed": "", "screening": "ˢ", "zoo_small": "ᵒ"}
SIGNIFICANT = {("scenes", "self_guided")}
IMAGES = [
    (
        "self_paced",
        "image_curricula/self_paced",
        "Kumar, Packer and Koller 2010",
        "images of a loss below a rising threshold",
    ),
    (
        "prototypes",
        "image_curricula/prototypes",
        "[2411.10685](https://arxiv.org/abs/2411.10685)",
        "images near the centers of k-means more often, alike by the end",
    ),
    (
        "easy_images_first",
        "image_curricula/easy_images_first",
        "[2012.03107](https://arxiv.org/abs/2012.03107)",
        "the easiest fifth first",
    ),
    ("hard_images", "image_curricula/hard_images", "our own", "images that are reconstructed badly more often"),
    (
        "growing",
        "Trainer.image_size = @Ramp()",
        "[2104.00298](https://arxiv.org/abs/2104.00298), [2404.00509](https://arxiv.org/abs/2404.00509)",
        "small images first",
    ),
]


def main() -> None:
    """Print the page."""
    found = {data: differences(files) for data, files in SOURCES.items()}
    rows = [
        [f"`{name}`", paper, cost, *(cell(found, data, name) if name != BASELINE else "baseline" for data in SOURCES)]
        for configs, paper, cost in policies()
        for name in configs
    ]
    of_images = [
        [f"`{how}`", paper, what, *(cell(found, data, name) for data in SOURCES)] for name, how, paper, what in IMAGES
    ]
    template = jinja2.Template(TEMPLATE.read_text(), keep_trailing_newline=True)
    print(template.render(policies=rows, images=of_images), end="")


def policies() -> list[tuple[list[str], str, str]]:
    """Configs, paper and cost of each row of the guide's table."""
    text = (ROOT / "docs" / "curricula.md").read_text()
    table = text.partition("## The shipped policies")[2].partition("\n\nThe cost is")[0]
    rows = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if names := re.findall(r"`(\w+)`", cells[0]):
            rows.append((names, cells[1], cells[-1]))
    return rows


def differences(files: list[str]) -> dict[str, str]:
    """By variant, the difference to random masks of the first file that has it, written out."""
    written: dict[str, str] = {}
    for file in files:
        values = accuracies(RESULTS / f"{file}.csv", validation="screening" in file)
        mark = next(mark for part, mark in MARKS.items() if part in file)
        for variant, by_seed in values.items():
            shared = sorted(by_seed.keys() & values[BASELINE].keys())
            pairs = [100 * (by_seed[seed] - values[BASELINE][seed]) for seed in shared]
            if variant != BASELINE and variant not in written and len(pairs) > 1:
                written[variant] = f"{statistics.fmean(pairs):+.2f} ± {half_interval(pairs):.2f}{mark}"
    return written


def accuracies(path: Path, *, validation: bool) -> dict[str, dict[str, float]]:
    """The linear probe's accuracy by variant and seed."""
    metric = "validation/linear/pretrained" if validation else "linear/pretrained"
    values: dict[str, dict[str, float]] = defaultdict(dict)
    with path.open() as file:
        for row in csv.DictReader(file):
            values[row["variant"]][row["seed"]] = float(row[metric])
    return values


def cell(found: Mapping[str, Mapping[str, str]], data: str, name: str) -> str:
    """A difference, with an asterisk where it is significant in its study."""
    text = found[data].get(name, "")
    return f"{text} *" if (data, name) in SIGNIFICANT else text


if __name__ == "__main__":
    main()
