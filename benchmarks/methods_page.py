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

from hpm.metrics import half_interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
BASELINE = "random"
# By data set: the file of fresh seeds and test images, that of the screening on validation images, and an older study.
SOURCES = {
    "scenes": ["zoo/confirmed_stamp_scenes", "zoo/screening_stamp_scenes"],
    "Fashion-MNIST": ["zoo/confirmed_fashion_mnist", "zoo/screening_fashion_mnist", "zoo_small/results"],
}
MARKS = {"confirmed": "", "screening": "ˢ", "zoo_small": "ᵒ"}
HEAD = """\
# All methods

Every published method that can be trained here, with its paper, the part or config that it is, what a step costs, and what was
measured of it. This page is made by `python benchmarks/methods_page.py`.

## Mask policies

Each is a config in `curricula/`: `hpm pretrain quickstart curricula/NAME`. [Curricula](curricula.md#the-shipped-policies) says which difficulty, sampler and
schedule it is made of, and in what it differs from what was published.

**Cost** is the time of a training step relative to random masks, of a small model on a CPU thread. **Scenes** and **Fashion-MNIST** are
differences to random masks in the accuracy of a linear probe, in percent points, ± half a 95 % interval over the seeds, paired by
seed. Figures without a mark are of fresh seeds and test images. ˢ marks a screening with three seeds on validation images, which chose
what went on: where several curricula are compared, the largest difference is too large. ᵒ marks an older study of five seeds whose
masks have changed a little since. An asterisk marks a difference that is significant after correction for all comparisons of its
study; [the pages behind](results/zoo/README.md) have every test, and the smallest effect that could have been found. Empty means not measured.

| config | paper | cost | scenes | Fashion-MNIST |
| --- | --- | ---: | ---: | ---: |
"""
SIGNIFICANT = {("scenes", "self_guided")}
TAIL = """
Hard blocks (`hpm_memory_blocks`) were studied more closely: on larger scenes they gained 4.30 ± 0.60 points over random masks with twenty fresh
seeds ([Does it help to mask what is hard?](results/hardness/README.md)), and nothing in fine-tuning ([What encoders are worth](results/stamp_scenes/README.md)).

## Which images, and how large

| config | paper | what it does | scenes | Fashion-MNIST |
| --- | --- | --- | ---: | ---: |
"""
IMAGES = [
    ("image_curricula/self_paced", "Kumar, Packer and Koller 2010", "shows images whose loss is below a rising threshold"),
    (
        "image_curricula/prototypes",
        "[2411.10685](https://arxiv.org/abs/2411.10685)",
        "shows images near the centers of k-means more often, alike by the end",
    ),
    ("image_curricula/easy_images_first", "[2012.03107](https://arxiv.org/abs/2012.03107)", "the easiest fifth first"),
    ("image_curricula/hard_images", "our own", "shows images more often that are reconstructed badly"),
    (
        "`Trainer.image_size = @Ramp()`",
        "[2104.00298](https://arxiv.org/abs/2104.00298), [2404.00509](https://arxiv.org/abs/2404.00509)",
        "small images first",
    ),
]
OF_IMAGES = {"`Trainer.image_size = @Ramp()`": "growing"}
REST = """
## Targets and models

| method | paper | part or recipe | cost of a step |
| --- | --- | --- | ---: |
| MAE | [2111.06377](https://arxiv.org/abs/2111.06377) | `MaskedAutoencoder`, `NormalizedPixels`; `recipes/mae_vit_base_800` | 0.8 |
| SimMIM | [2111.09886](https://arxiv.org/abs/2111.09886) | `SimMIM`, `Pixels`; `recipes/simmim_vit_base_800`, `recipes/simmim_swin_base_100` | 2.4 |
| CrossMAE | [2401.14391](https://arxiv.org/abs/2401.14391) | `CrossMAE`; `recipes/cross_mae_vit_base_800` | 0.7 |
| BootMAE | [2207.07116](https://arxiv.org/abs/2207.07116) | `BootMAE`; `recipes/bootmae_vit_base_800` | 2.0 |
| MaskFeat | [2112.09133](https://arxiv.org/abs/2112.09133) | `HOG`; `recipes/maskfeat_vit_base_300` | |
| features of the teacher | [2207.07116](https://arxiv.org/abs/2207.07116) | `TeacherFeatures` | 1.6 |
| ConMIM | [2205.09616](https://arxiv.org/abs/2205.09616) | `PatchContrast`; `recipes/conmim_vit_base_800` | 1.5 |
| iBOT, without the loss between class tokens | [2111.07832](https://arxiv.org/abs/2111.07832) | `DistilledTokens`; `recipes/ibot_vit_base_400` | 3.9 |
| CAPI | [2502.08769](https://arxiv.org/abs/2502.08769) | `OnlineClusters`; `recipes/capi_vit_large_6400` | 1.8 |
| HPM with a frozen network's features | [2304.05919](https://arxiv.org/abs/2304.05919) | `TimmFeatures`; `recipes/hpm_dino_vit_base_200` | |
| Pixio | [2512.15715](https://arxiv.org/abs/2512.15715) | `recipes/pixio_vit_huge_400` | |
| semi-supervised | our own | `SemiSupervised` | 1.4 |

Costs are of [the same benchmark](targets.md#what-they-cost), relative to random masks with HPM's predictor and moving average.
[Five settings of target and model under two curricula](results/frameworks/README.md) were compared with three seeds: no difference between curricula was seen in any.

## Ways to predict the loss

| part | paper | measured |
| --- | --- | --- |
| `RelativeLoss` | HPM, [2304.05919](https://arxiv.org/abs/2304.05919) | Spearman correlation with the true loss 0.75 to 0.76 |
| `AbsoluteLoss` | HPM's ablation | the same |
| `ListwiseLoss` | ListMLE, Xia et al. 2008 | the same |
| `ContrastiveLoss` | InfoNCE, [1807.03748](https://arxiv.org/abs/1807.03748) | 0.04 lower |

[The study](results/prediction_loss/README.md) has more, and what it says of features: three seeds do not tell.
"""


def main() -> None:
    """Print the page."""
    found = {data: differences(files) for data, files in SOURCES.items()}
    print(HEAD, end="")
    for configs, paper, cost in policies():
        for name in configs:
            cells = [cell(found, data, name) if name != BASELINE else "baseline" for data in SOURCES]
            print(f"| `{name}` | {paper} | {cost} | {' | '.join(cells)} |")
    print(TAIL, end="")
    for config, paper, what in IMAGES:
        name = OF_IMAGES.get(config, config.rpartition("/")[2])
        shown = config if config.startswith("`") else f"`{config}`"
        print(f"| {shown} | {paper} | {what} | {' | '.join(cell(found, data, name) for data in SOURCES)} |")
    print(REST, end="")


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
