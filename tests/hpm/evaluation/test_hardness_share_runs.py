"""The share of attainable hardness in runs: it changes nothing of them, resumes with them, and two processes agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks

from hpm.evaluation import HardnessShare
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

Hpm = Callable[..., int]
SHARE = "curriculum/hardness_share"
NAMES = [metric.pattern for metric in HardnessShare.metrics]
PROBED = [
    "Monitoring.probe_every = 1",
    "Monitoring.probes = [@HardnessShare()]",
    "Monitoring.evaluations = [@HardnessShare()]",
    "HardnessShare.images = 40",
]
PLAIN = ["Monitoring.probe_every = 0", "Monitoring.evaluations = []"]
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Checkpointing.every = 10"]
CURRICULA = {
    "hpm": [],
    "adversary": ["include 'curricula/adios.gin'"],
    "cached": [
        "Curriculum.difficulty = @Cached()",
        "Cached.estimator = @EdgeDensity()",
        "Cached.period = 'step'",
        "Cached.every = 4",
    ],
    "memory": ["Curriculum.difficulty = @LossMemory()"],
    "position": ["Curriculum.difficulty = @PositionLoss()"],
    "object": ["Curriculum.difficulty = @ObjectShare()"],
    "residual": ["Curriculum.difficulty = @Residual()", "Residual.estimator = @LossMemory()"],
    "asked in every step": [
        "Curriculum.difficulty = @Cached()",
        "Cached.estimator = @EdgeDensity()",
        "Cached.period = 'step'",
        "Cached.every = 1",
    ],
}


def configured(tiny: Path, name: str) -> tuple[Path, list[str]]:
    bindings = CURRICULA[name]
    includes = [line for line in bindings if line.startswith("include")]
    tiny.write_text(tiny.read_text() + "".join(f"{line}\n" for line in includes))
    return tiny, [line for line in bindings if line not in includes]


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


def rows(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", CURRICULA)
def test_a_run_with_it_is_the_run_without_and_resumes(
    name: str, tiny: Path, hpm: Hpm, same_end: Callable[[Path], None]
) -> None:
    config, bindings = configured(tiny, name)
    for folder, measured in (("with", PROBED), ("without", PLAIN)):
        assert hpm("pretrain", config, *words(*SHORT, *bindings, *measured), "--output", folder) == 0
    ends = [Checkpoint(list_checkpoints(Path(folder, "checkpoints"))[0]) for folder in ("with", "without")]
    assert set(ends[0].names()) == set(ends[1].names())
    for tensor in ends[0].names():
        torch.testing.assert_close(ends[0].tensor(tensor), ends[1].tensor(tensor), rtol=0, atol=0, equal_nan=True)
    losses = [[row["loss"] for row in rows(folder) if row["kind"] == "train"] for folder in ("with", "without")]
    assert losses[0] == losses[1]
    (probe,) = [row for row in rows("with") if row["kind"] == "probe"]
    (final,) = [row for row in rows("with") if row["kind"] == "final"]
    for row in (probe, final):
        # On training images alone, so under one name.
        assert [key for key in row if key not in ("step", "time", "kind")] == NAMES
    assert probe[SHARE] != final[SHARE] != 0
    assert json.loads(Path("with/summary.json").read_text())["metrics"] == {name: final[name] for name in NAMES}
    same_end(Path("with"))
    assert [{**row, "time": 0} for row in rows("half") if row["kind"] == "final"] == [{**final, "time": 0}]
    Path("with/summary.json").unlink()  # as if it had been killed while it was evaluated
    assert hpm("pretrain", "--resume", "--output", "with") == 0
    again = [row for row in rows("with") if row["kind"] == "final"]
    assert {**again[-1], "time": 0} == {**final, "time": 0}


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_measure_what_one_does(tiny: Path, hpm: Hpm, forks: Forks, sharding: str) -> None:
    bindings = words(*SHORT, *PROBED)
    assert hpm("pretrain", tiny, *bindings, "--output", "one") == 0
    sharded = words(f"Runtime.sharding = '{sharding}'")
    ran = forks.run("hpm", "pretrain", tiny, *bindings, *sharded, "--output", "two", env={**os.environ}, processes=2)
    assert ran.returncode == 0, ran.stderr
    for kind in ("probe", "final"):
        one, two = (next(row for row in rows(folder) if row["kind"] == kind) for folder in ("one", "two"))
        for name in NAMES:
            assert two[name] == pytest.approx(one[name], abs=1e-2), name


def test_without_a_run_held_out_images_stand_in(tiny: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, *words(*SHORT, *PROBED), "--output", "run") == 0
    told = " ".join(capsys.readouterr().out.split())
    share = json.loads(Path("run/summary.json").read_text())["metrics"][SHARE]
    assert f"{round(100 * abs(share))}% of the attainable extra loss (position alone" in told
    assert hpm("evaluate", "run", "--protocol", "hardness-share", "-b", "HardnessShare.images = 40") == 0
    metrics = json.loads(Path("run/evaluation-hardness-share.json").read_text())[-1]["metrics"]
    assert set(metrics) == {*NAMES, *(f"validation/{name}" for name in NAMES)}
    assert hpm("visualize", "run", "--timeline") == 0
