"""The table that people decide by: pairing, warnings, formats, and the pictures and page made from it."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from hpm.errors import UserError
from studies.analysis.comparison import Comparison, compare, csv_text, markdown
from studies.analysis.results import Result
from studies.reporting.figures import draw
from studies.reporting.report import write_report

Make = Callable[..., list[Result]]


def results(
    variant: str, values: list[float], *, source: str = "s", images: float = 1000, **more: object
) -> list[Result]:
    defaults = {"data": "FashionMNIST", "device": "cpu", "commit": "abc"}
    return [
        Result(
            source,
            variant,
            seed,
            {"low_shot/pretrained": value},
            {"images": images, "training_seconds": 10.0, "flops": 1e12},
            **{**defaults, **more},
        )
        for seed, value in enumerate(values)
    ]


RANDOM, HARD = [0.70, 0.72, 0.71, 0.69, 0.73], [0.75, 0.77, 0.75, 0.74, 0.78]


@pytest.fixture
def made() -> Comparison:
    return compare(results("random", RANDOM) + results("hard", HARD), "low_shot/pretrained", against="random")


def test_rows_and_differences(made: Comparison) -> None:
    assert [row.variant for row in made.rows] == ["hard", "random"]
    hard, random = made.rows
    assert random.difference is None
    assert hard.difference.estimate.mean == pytest.approx(0.048)
    assert hard.difference.significant
    assert made.warnings == []
    assert hard.cost == {"images": 1000, "training_seconds": 10.0, "flops": 1e12}


def test_a_loss_is_better_where_it_is_lower() -> None:
    made = compare(results("a", [0.5, 0.6]) + results("b", [0.3, 0.2]), "low_shot/pretrained", direction="minimize")
    assert [row.variant for row in made.rows] == ["b", "a"]


GROUPS = ["hog_random", "hog_hard", "simmim_random", "simmim_swin_random", "simmim_swin_hard", "simmim_hard"]


def test_each_group_has_its_baseline() -> None:
    """'simmim_swin_hard' belongs to the longest name that it begins like."""
    values = {name: [value + number for value in RANDOM] for number, name in enumerate(GROUPS)}
    runs = [run for name, found in values.items() for run in results(name, found)]
    made = compare(runs, "low_shot/pretrained", against="*_random")
    found = {row.variant: (row.baseline, row.difference) for row in made.rows}
    assert {name for name in GROUPS if found[name][1] is None} == {name for name in GROUPS if "random" in name}
    assert {name: found[name][0] for name in GROUPS if "hard" in name} == {
        "hog_hard": "hog_random",
        "simmim_swin_hard": "simmim_swin_random",
        "simmim_hard": "simmim_random",
    }
    assert found["simmim_hard"][1].estimate.mean == pytest.approx(3)
    assert markdown(made).count("| baseline |") == 3
    # Three comparisons are corrected for, not five.
    assert found["hog_hard"][1].corrected == pytest.approx(min(1, 3 * found["hog_hard"][1].p), abs=1e-12)


def test_a_star_after_what_all_groups_begin_with() -> None:
    names = ["small_hog_random", "small_hog_hard", "small_pixels_random"]
    runs = [run for name in names for run in results(name, RANDOM)]
    made = compare(runs, "low_shot/pretrained", against="small_*_random")
    assert {row.variant: row.baseline for row in made.rows}["small_hog_hard"] == "small_hog_random"


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ("*_none", "fits no variant; choose one of hog_random"),
        ("simmim_*m", "gives hog_random no baseline; its name must begin like one of"),
        ("*_*", "more than one star"),
    ],
)
def test_baselines_that_do_not_fit(against: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)):
        compare([run for name in GROUPS for run in results(name, RANDOM)], "low_shot/pretrained", against=against)


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (results("b", RANDOM[:3]), "fewer than 5 seeds: b"),
        (results("b", RANDOM[:3]), "other seeds than the baseline: b"),
        (results("b", RANDOM, images=2000), "budgets differ: variants were trained on 1,000 to 2,000 images"),
        (results("b", RANDOM, data="DigitScenes"), "data differ: DigitScenes, FashionMNIST"),
        (results("b", RANDOM, device="H100"), "devices differ: H100, cpu"),
        (results("b", RANDOM, commit="def"), "source versions differ: abc, def"),
        (results("b", RANDOM[:1]) + results("b", RANDOM, config="x"), "the configuration changed between runs: b"),
        (results("b", RANDOM[:1]) + results("b", RANDOM), "several runs of one seed: b"),
        ([Result("s", "b", 0, {}, {}, "FashionMNIST", "cpu", "abc")], "1 of 6 runs have no low_shot/pretrained"),
    ],
)
def test_warns(others: list[Result], told: str) -> None:
    made = compare(results("a", RANDOM) + others, "low_shot/pretrained")
    assert any(told in warning for warning in made.warnings)


def test_several_studies_keep_their_names() -> None:
    both = results("random", RANDOM, source="one") + results("random", HARD, source="two")
    made = compare(both, "low_shot/pretrained", against="one/random")
    assert {row.variant for row in made.rows} == {"one/random", "two/random"}
    with pytest.raises(UserError, match="--against random is the name of several variants"):
        compare(both, "low_shot/pretrained", against="random")


def test_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match="--metric knn/pretrained was measured in no run; low_shot/pretrained"):
        compare(results("a", RANDOM), "knn/pretrained")
    with pytest.raises(UserError, match="--against b is no variant; choose one of a"):
        compare(results("a", RANDOM), "low_shot/pretrained", against="b")


def test_markdown_and_csv(made: Comparison) -> None:
    text = markdown(made)
    assert "| hard | 5 | 75.80 ± " in text
    assert "| +4.80 ± " in text
    assert "| baseline |" in text
    rows = list(csv.DictReader(io.StringIO(csv_text(made))))
    assert len(rows) == 10
    assert {float(row["low_shot/pretrained"]) for row in rows if row["variant"] == "hard"} == set(HARD)


def test_pictures_and_report(made: Comparison, tmp_path: Path) -> None:
    """From runs with metrics on disk; the page needs nothing beside itself."""
    with_folders = []
    for number, result in enumerate(made.results):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [
            {"step": step, "kind": kind, "epoch": step / 10, "alpha": step / 40, "ridge/pretrained": 0.1 * step}
            for step, kind in ((10, "train"), (15, "probe"), (20, "train"), (25, "probe"))
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with_folders.append(Result(**{**vars(result), "folder": folder}))
    made = compare(with_folders, "low_shot/pretrained", against="random")
    figures = draw(made, tmp_path / "figures")
    assert [path.name for path in figures] == ["differences.png", "training.png", "alpha.png", "compute.png"]
    for path in figures:
        with Image.open(path) as image:
            assert image.size[0] > 900
    page = write_report(
        tmp_path / "report.html",
        made,
        figures,
        title="a <study>",
        command="hpm-study ablate x",
        definition={"kind": "x"},
    ).read_text()
    assert "a &lt;study&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)
