"""Two real processes (gloo, on the CPU) train as one does: same samples, crops and masks, same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from record import recorded_lines

from hpm.runs.checkpoint import Checkpoint, list_checkpoints

Hpm = Callable[..., int]
RECORDING = """
Method.curriculum = @RecordingCurriculum()
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @PredictedLoss()
RecordingCurriculum.sampler = @HardestFirst()
Schedule.epochs = 5
Monitoring.log_every = 1
Checkpointing.every = 15
Monitoring.evaluations = [@KNN()]
KNN.train_images = 64
KNN.baselines = True
"""


@pytest.fixture
def recorded(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """50 steps, every one logged and everything drawn recorded."""
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + RECORDING)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


def torchrun(*arguments: object, restarts: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command itself."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--max-restarts",
        str(restarts),
        "-m",
        "hpm",
        *map(str, arguments),
    ]
    return subprocess.run(
        command, env={**os.environ, **environment}, check=False, capture_output=True, text=True, timeout=400
    )


def two(forks: Forks, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command starts, without waiting for imports."""
    return forks.run("hpm", *arguments, env={**os.environ, **environment}, processes=2)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows: list[dict[str, Any]] = [row for row in lines if row["kind"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 51))
    return [row[name] for row in rows for name in ("loss", "prediction_loss", "gradient_norm")]


def drawn(path: Path) -> set[str]:
    return set(recorded_lines(path))


def assert_alike(one: Path, other: Path) -> None:
    """Equal up to the order in which numbers are added."""
    assert losses(one) == pytest.approx(losses(other), abs=1e-5)
    assert drawn(one.with_suffix(".txt")) == drawn(other.with_suffix(".txt"))
    states = [Checkpoint(list_checkpoints(folder / "checkpoints")[0]) for folder in (one, other)]
    assert set(states[0].names()) == set(states[1].names())
    for name in states[0].names():
        # Some biases have no gradient but rounding (a shift of all predicted losses changes no rank), which AdamW
        # makes steps of.
        if name.startswith(("student", "teacher")) and not name.endswith("bias"):
            torch.testing.assert_close(states[0].tensor(name), states[1].tensor(name), atol=1e-4, rtol=1e-3)


@pytest.fixture
def alone(recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run of a single process."""
    monkeypatch.setenv("RECORD", str(tmp_path / "alone.txt"))
    assert hpm("pretrain", recorded, "--output", "alone") == 0
    return tmp_path / "alone"


def test_replicated_and_sharded(
    recorded: Path, alone: Path, hpm: Hpm, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    tmp_path = alone.parent
    ran = two(forks, "pretrain", recorded, "--output", "ddp", RECORD=str(tmp_path / "ddp.txt"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("run folder") == 1
    assert_alike(tmp_path / "ddp", alone)
    assert len(drawn(alone.with_suffix(".txt"))) == 50 * 16

    sharded = ["-b", "Runtime.sharding = 'fsdp'"]
    ran = two(forks, "pretrain", recorded, *sharded, "--output", "fsdp", RECORD=str(tmp_path / "fsdp.txt"))
    assert ran.returncode == 0, ran.stderr
    assert_alike(tmp_path / "fsdp", tmp_path / "ddp")
    newest = list_checkpoints(tmp_path / "fsdp" / "checkpoints")[0]
    assert {path.name for path in newest.glob("part-*")} == {
        "part-00000-of-00002.safetensors",
        "part-00001-of-00002.safetensors",
    }
    for run in ("ddp", "fsdp"):
        metrics = json.loads((tmp_path / run / "summary.json").read_text())["metrics"]
        expected = json.loads((alone / "summary.json").read_text())["metrics"]
        assert metrics["knn/initialization"] == expected["knn/initialization"]
        assert metrics["knn/pretrained"] == pytest.approx(expected["knn/pretrained"], abs=0.05)

    # One process reads what two have written in parts, and goes on as they would have.
    (tmp_path / "fsdp" / "summary.json").unlink()
    for path in list_checkpoints(tmp_path / "fsdp" / "checkpoints")[:1]:
        (path / "state.json").unlink()
    monkeypatch.setenv("RECORD", str(tmp_path / "fsdp.txt"))
    config = tmp_path / "fsdp" / "config.gin"
    assert hpm("pretrain", config, "-b", "Runtime.sharding = 'none'", "--resume", "--output", "fsdp") == 0
    assert_alike(tmp_path / "fsdp", alone)


@pytest.mark.parametrize(("sharding", "depth"), [("none", 1), ("fsdp", 0), ("fsdp", 1)])
def test_dense_prediction_and_probes(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks, sharding: str, depth: int
) -> None:
    """A step passes twice through some parts of the student, in part without gradients; the teacher sees masks."""
    bindings = [
        "PredictedLoss.probes = 2",
        "Method.dense_prediction_every = 2",
        f"MaskedAutoencoder.loss_predictor_depth = {depth}",
    ]
    words = [word for binding in bindings for word in ("-b", binding)]
    monkeypatch.setenv("RECORD", str(tmp_path / "alone.txt"))
    assert hpm("pretrain", recorded, *words, "--output", "alone") == 0
    shared = [*words, "-b", f"Runtime.sharding = '{sharding}'"]
    ran = two(forks, "pretrain", recorded, *shared, "--output", "shared", RECORD=str(tmp_path / "shared.txt"))
    assert ran.returncode == 0, ran.stderr
    assert_alike(tmp_path / "shared", tmp_path / "alone")


@pytest.mark.parametrize("difficulty", ["Attention", "SampledAttention"])
def test_sharded_in_bf16_with_attention(recorded: Path, forks: Forks, difficulty: str) -> None:
    """Attention is read from inside a block, whose parameters are elsewhere until they are gathered."""
    bindings = [
        "Runtime.sharding = 'fsdp'",
        "Runtime.precision = 'bf16'",
        "Schedule.epochs = 2",
        f"RecordingCurriculum.difficulty = @{difficulty}()",
    ]
    ran = two(
        forks,
        "pretrain",
        recorded,
        *(word for b in bindings for word in ("-b", b)),
        "--output",
        "run",
        RECORD=os.devnull,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 20


def test_a_killed_process_is_restarted_and_goes_on(recorded: Path, alone: Path) -> None:
    tmp_path = alone.parent
    ran = torchrun(
        "pretrain",
        recorded,
        "-b",
        "Loading.num_workers = 1",
        "--output",
        "restarted",
        RECORD=str(tmp_path / "restarted.txt"),
        KILL_AT="33",
        restarts=1,
    )
    assert ran.returncode == 0, ran.stderr
    assert "resuming after step 30 of 50" in " ".join(ran.stdout.split())
    assert_alike(tmp_path / "restarted", alone)


def test_two_processes_resumed_within_a_logging_interval(recorded: Path, forks: Forks) -> None:
    """A row is the mean over an interval of what each process saw, of which the checkpoint holds every one's part."""
    settings = ["Schedule.epochs = 2", "Monitoring.log_every = 10", "Monitoring.evaluations = []"]
    words = [word for binding in [*settings, "Checkpointing.every = 7"] for word in ("-b", binding)]
    rows = []
    for name in ("whole", "killed"):
        if name == "killed":
            ran = two(forks, "pretrain", recorded, *words, "--output", name, RECORD=os.devnull, SIGNAL_AT="17 9")
            assert ran.returncode != 0
            assert list_checkpoints(Path(name, "checkpoints"))  # the one after step 7 at least
        ran = two(forks, "pretrain", recorded, *words, "--resume", "--output", name, RECORD=os.devnull)
        assert ran.returncode == 0, ran.stderr
        lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        rows.append([(row["step"], row["loss"], row["gradient_norm"]) for row in lines if row["kind"] == "train"])
    assert [step for step, *_ in rows[0]] == [10, 20]
    assert rows[0] == rows[1]


def test_mistakes_are_told_once(recorded: Path, forks: Forks) -> None:
    ran = two(forks, "pretrain", recorded, "-b", "Schedule.batch_size = 15", "--output", "run", RECORD="none")
    assert ran.returncode != 0
    assert len([line for line in ran.stderr.splitlines() if line.startswith("error: ")]) == 1
    assert "Schedule.batch_size = 15" in ran.stderr
    assert not Path("run").exists()
