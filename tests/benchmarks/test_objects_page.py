"""The tables on the page about hard patches and objects are what `benchmarks/localization.py` makes of its JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from localization import TITLES, summarize, table  # noqa: E402

FOLDER = ROOT / "docs" / "results" / "stamp_scenes"
PAGE = (FOLDER / "objects.md").read_text()


def committed(name: str) -> str:
    return table(json.loads((FOLDER / f"localization_{name}.json").read_text())["scores"])


def test_the_page_shows_what_was_measured() -> None:
    assert committed("published") in PAGE
    random, hard = PAGE.split("*random masks*")[1].split("*hard blocks*")
    for part, name in ((random, "random"), (hard, "hard_blocks")):
        lines = [line for line in part.splitlines() if line.startswith("| student/")]
        assert len(lines) == 3
        assert set(lines) <= set(committed(name).splitlines())


def test_scores_are_in_the_order_of_their_auroc_and_those_that_some_run_lacks_are_left_out() -> None:
    def run(**auroc: float) -> dict[str, float]:
        named = {name.replace("__", "/"): value for name, value in auroc.items()}
        row = {f"localization/{name}/auroc": value for name, value in named.items()}
        for metric in TITLES:
            protocol, measure = metric.split("/")
            row |= {f"{protocol}/{name}/{measure}": value for name, value in named.items()}
        return row | {"unsupervised_segmentation/object_share": 0.2, "unsupervised_segmentation/position/iou": 0.1}

    scores = summarize(
        [run(student__true_loss=0.6, center=0.7, student__features=0.9), run(center=0.7, student__true_loss=1.0)]
    )
    assert list(scores) == ["student/true_loss", "center"]
    assert scores["student/true_loss"]["localization/auroc"]["mean"] == pytest.approx(0.8)
    # 12.706 standard errors of 0.2.
    assert table(scores).splitlines()[2:] == [
        "| student/true_loss | 80.0 ± 254.1 | 80.0 ± 254.1 | 80.0 ± 254.1 |",
        "| center | 70.0 | 70.0 | 70.0 |",
    ]
