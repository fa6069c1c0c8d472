"""Every shipped curriculum trains, resumes exactly, says how hard it is, and is the same in two processes as in one."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpm.runs import checkpoint

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tests" / "plugins"))

from every_curriculum import bindings, curricula, train  # noqa: E402
from forks import Forks  # noqa: E402

Hpm = Callable[..., int]


@pytest.mark.parametrize("name", curricula())
def test_it_trains_and_resumes_exactly(name: str, tiny: Path, hpm: Hpm) -> None:
    judged = ("Monitoring.evaluations = [@HardnessShare()]", "HardnessShare.images = 16")
    words = [word for text in (*bindings(name), *judged) for word in ("-b", text)]
    assert hpm("pretrain", tiny, f"curricula/{name}", *words, "--output", "whole") == 0
    rows = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["loss"]) for row in rows if row["kind"] == "train")
    (final,) = [row for row in rows if row["kind"] == "final"]
    assert math.isfinite(final["curriculum/hardness_share_position"])
    # Numbers of parts are no difficulty, and without a difficulty hard patches are any patches.
    assert ("curriculum/hardness_share" in final) == (name not in ("semmae", "evolved_hierarchy"))
    blocks = ("beit", "simmim", "i_jepa", "pixio", "capi")
    drawn_without = ("random", "um_mae", "colormae", "coma", "cross_mae", "r2mae", *blocks)
    assert (final.get("curriculum/hardness_share") == 0) == (name in drawn_without)
    shutil.copytree("whole", "half", symlinks=True)
    for left in ("half/checkpoints/checkpoint-00000020", "half/summary.json"):
        shutil.rmtree(left) if Path(left).is_dir() else Path(left).unlink()
    assert hpm("pretrain", "--resume", "--output", "half") == 0
    whole, half = (
        checkpoint.Checkpoint(checkpoint.list_checkpoints(Path(run, "checkpoints"))[0]) for run in ("whole", "half")
    )
    assert whole.values["step"] == half.values["step"] == 20
    assert whole.values["curriculum"] == half.values["curriculum"]
    assert set(whole.names()) == set(half.names())
    for tensor in whole.names():
        torch.testing.assert_close(whole.tensor(tensor), half.tensor(tensor), rtol=0, atol=0, equal_nan=True)


def test_trained_maskers_learn_and_are_kept(tiny: Path, hpm: Hpm) -> None:
    words = [word for text in bindings("adamae") for word in ("-b", text)]
    assert hpm("pretrain", tiny, "curricula/adamae", *words, "--output", "run") == 0
    first, last = (
        checkpoint.Checkpoint(Path(f"run/checkpoints/checkpoint-000000{step}")).state_dict("curriculum")
        for step in (10, 20)
    )
    assert all(not torch.equal(first[name], last[name]) for name in first)
    assert hpm("evaluate", "run", "--protocol", "diagnostics", "-b", "Diagnostics.images = 20") == 0


def test_two_processes_train_as_one_does(tiny: Path, forks: Forks) -> None:
    steps = 12
    program = ROOT / "tests" / "plugins" / "every_curriculum.py"
    ran = forks.run(str(program), tiny, steps, cwd=tiny.parent, processes=2)
    assert ran.returncode == 0, ran.stderr
    together = json.loads(ran.stdout.strip().splitlines()[-1])
    for name in curricula():
        losses, drawn = train(str(tiny), name, steps)
        assert together[name][0] == pytest.approx(losses, rel=1e-3), name
        # Scores that are all but equal may change places by the order in which numbers are added.
        same = [one == other for one, other in zip(together[name][1], drawn, strict=True)]
        assert sum(same) >= 0.97 * len(same), name


@pytest.mark.parametrize(
    "binding",
    [
        "MaskedAutoencoder.loss_predictor_depth = 0",
        "Method.prediction_loss = @ListwiseLoss()",
        "Method.prediction_loss = @ContrastiveLoss()",
        "Method.prediction_loss = @AbsoluteLoss()",
    ],
)
def test_ways_of_predicting_the_loss(binding: str, tiny: Path, hpm: Hpm) -> None:
    words = [word for text in (*bindings("hpm_easy_to_hard"), binding) for word in ("-b", text)]
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert all(math.isfinite(row["prediction_loss"]) for row in trained)
    assert hpm("evaluate", "run", "--protocol", "agreement", "-b", "Agreement.images = 16") == 0


def test_a_cache_is_not_asked_for_by_what_reads_a_run(tiny: Path, hpm: Hpm) -> None:
    """It is of the training images, and other commands have others."""
    words = [word for text in bindings("amt") for word in ("-b", text)]
    assert hpm("pretrain", tiny, "curricula/amt", *words, "--output", "run") == 0
    other = ["-b", "DigitScenes.train_size = 64"]
    assert hpm("evaluate", "run", "--protocol", "knn", "-b", "KNN.train_images = 60", *other) == 0
    assert hpm("evaluate", "run", "--protocol", "diagnostics", "-b", "Diagnostics.images = 16", *other) == 0
