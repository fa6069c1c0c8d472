"""Runs of a contrast with hard negatives: planned, trained by two processes as by one, evaluated, exported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks

from hpm.config import parse_config
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

BINDINGS = [
    "Method.target = @PatchContrast()",
    "PatchContrast.beta = @rise/Ramp()",
    "rise/Ramp.end = 1.0",
    "Schedule.epochs = 2",
    "HorizonDecay.fraction = 0.2",
    "Monitoring.log_every = 1",
    "Monitoring.evaluations = [@Negatives()]",
    "Negatives.images = 20",
]
WORDS = [word for text in BINDINGS for word in ("-b", text)]


def rows(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == "train"]


def test_two_processes_train_as_one_and_what_comes_out_is_used(
    tiny: Path, hpm: Callable[..., int], forks: Forks, capsys: pytest.CaptureFixture
) -> None:
    assert hpm("pretrain", tiny, *WORDS, "--output", "alone") == 0
    accumulated = [*WORDS, "-b", "Schedule.accumulate = 2"]
    for name, words in (("shared", WORDS), ("accumulated", accumulated)):
        ran = forks.run("hpm", "pretrain", tiny, *words, "--output", name, env=dict(os.environ), processes=2)
        assert ran.returncode == 0, ran.stderr
        for metric in ("reconstruction_loss", "gradient_norm"):
            values = [[row[metric] for row in rows(Path(folder))] for folder in ("alone", name)]
            assert len(values[0]) == 20
            assert values[1] == pytest.approx(values[0], rel=1e-4)
        one, two = (Checkpoint(list_checkpoints(Path(folder, "checkpoints"))[0]) for folder in ("alone", name))
        for tensor in one.names():
            # AdamW makes steps of rounding where a bias has no gradient but that.
            if tensor.startswith(("student", "teacher")) and not tensor.endswith("bias"):
                torch.testing.assert_close(two.tensor(tensor), one.tensor(tensor), atol=1e-4, rtol=1e-3)
    metrics = json.loads(Path("alone/summary.json").read_text())["metrics"]
    assert metrics["negatives/similarity_10"] < metrics["negatives/similarity_99"]

    small = ["-b", "KNN.train_images = 20", "-b", "KNN.test_images = 20"]
    assert hpm("evaluate", "alone", "--protocol", "negatives,knn,hardness-share", *small) == 0
    (again,) = json.loads(Path("alone/evaluation-negatives.json").read_text())
    found = {name: values["mean"] for name, values in again["metrics"].items()}
    assert found == pytest.approx({name: metrics[name] for name in found}, rel=1e-5)
    assert hpm("visualize", "alone", "--count", "1") == 0
    assert hpm("export", "alone", "--out", "exported") == 0
    assert hpm("evaluate", "exported", "--protocol", "knn", *small, tiny) == 0
    capsys.readouterr()
    assert hpm("evaluate", "exported", "--protocol", "negatives", tiny) == 2
    assert "negatives can say nothing of" in " ".join(capsys.readouterr().err.split())


def test_a_target_that_compares_no_patches_has_no_negatives(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture
) -> None:
    words = [word for text in BINDINGS[3:] for word in ("-b", text)]
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    told = " ".join("".join(capsys.readouterr()).split())
    assert "Negatives measures nothing of Method.target = NormalizedPixels, which compares no patches" in told
    metrics = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert not [name for name in metrics if "negatives/" in name]


def test_the_averages_features_are_planned_as_the_targets(tiny: Path) -> None:
    made = make_plan(parse_config([str(tiny)], BINDINGS[:3]))
    same = make_plan(parse_config([str(tiny)], ["Method.target = @TeacherFeatures()"]))
    assert made.multiply_adds["target"] == same.multiply_adds["target"] > 0
    # The difficulty that measures the loss itself is counted too, without data and without autocast.
    hardest = make_plan(parse_config([str(tiny)], [*BINDINGS[:3], "Curriculum.difficulty = @TrueLoss()"]))
    assert hardest.multiply_adds["teacher"] > same.multiply_adds["target"]
