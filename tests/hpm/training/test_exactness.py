"""A run that is killed and resumed, run with other workers, or repeated from its saved config, is the same run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks
from record import assert_same_run, recorded_lines

from hpm.runs import checkpoint

PLUGINS = Path(__file__).parents[2] / "plugins"
Hpm = Callable[..., int]
RECORDED = [
    "Method.curriculum = @RecordingCurriculum()",
    "RecordingCurriculum.scheduler = @Ramp()",
    "RecordingCurriculum.difficulty = @PredictedLoss()",
    "RecordingCurriculum.sampler = @HardestFirst()",
    "Monitoring.probe_every = 2",
    "Monitoring.probes = [@KNN()]",
    "KNN.train_images = 64",
    "KNN.test_images = 32",
]


@pytest.fixture
def recorded(tiny_with_plugins: Path) -> Path:
    """The tiny run with a curriculum that records what it draws, and a probe with pictures."""
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + "\n".join(RECORDED) + "\n")
    return tiny_with_plugins


@pytest.fixture
def whole(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    """A run as recorded that nothing happens to, in another process; what it drew is beside it."""
    plugins = os.pathsep.join([str(PLUGINS), str(Path(__file__).parents[3])])
    trained = pretrained(*RECORDED, before="import recording\n", PYTHONPATH=plugins, RECORD="whole.txt")
    shutil.copy(trained.with_name("whole.txt"), tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "whole", symlinks=True))


def drawn(path: Path) -> dict[tuple[int, int], str]:
    """Sample, crop and mask at each step and row, and that none was ever drawn differently."""
    rows: dict[tuple[int, int], str] = {}
    for line in recorded_lines(path):
        step, row, what = line.split(" ", 2)
        assert rows.setdefault((int(step), int(row)), what) == what
    return rows


@pytest.mark.parametrize(
    ("workers", "seed", "scheduler", "setting"),
    [(0, 1, "MetricPaced", "end = 0.9"), (2, 2, "Ramp", "end = 0.9"), (0, 3, "Bandit", "values = [0.0, 0.9]")],
)
def test_killed_and_resumed(
    recorded: Path,
    hpm: Hpm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    seed: int,
    scheduler: str,
    setting: str,
    forks: Forks,
) -> None:
    bindings = ["-b", f"RecordingCurriculum.scheduler = @{scheduler}()", "-b", f"{scheduler}.{setting}"]
    monkeypatch.setenv("RECORD", str(tmp_path / "whole.txt"))
    assert hpm("pretrain", recorded, *bindings, "--output", "whole") == 0

    monkeypatch.setenv("RECORD", str(tmp_path / "killed.txt"))
    bindings += ["-b", f"Loading.num_workers = {workers}"]
    killed_at = random.Random(seed).randrange(1, 39)
    dead = forks.run(
        "hpm", "pretrain", recorded, *bindings, "--output", "killed", env={**os.environ, "KILL_AT": str(killed_at)}
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hpm("pretrain", "--resume", "--output", "killed") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert drawn(tmp_path / "killed.txt") == drawn(tmp_path / "whole.txt")
    assert len(drawn(tmp_path / "killed.txt")) == 40 * 16


def test_killed_at_twenty_random_moments(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    recorded.write_text(
        recorded.read_text() + "Schedule.epochs = 24\nCheckpointing.every = 3\nMonitoring.probe_every = 8\n"
    )
    monkeypatch.setenv("RECORD", str(tmp_path / "whole.txt"))
    assert hpm("pretrain", recorded, "--output", "whole") == 0
    stress = Path(__file__).with_name("kill_resume_stress.py")
    record = {**os.environ, "RECORD": str(tmp_path / "stressed.txt")}
    ran = forks.run(str(stress), recorded, "stressed", 20, 0, env=record)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("killed at step") == ran.stdout.count("killed at write") == 10
    assert_same_run(tmp_path / "whole", tmp_path / "stressed")
    assert drawn(tmp_path / "stressed.txt") == drawn(tmp_path / "whole.txt")


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_save_and_stop(
    recorded: Path,
    whole: Path,
    hpm: Hpm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal_sent: signal.Signals,
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "stopped.txt"))
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL_AT", f"17 {int(signal_sent)}")
        assert hpm("pretrain", recorded, "--output", "stopped") == 75
    told = " ".join(capsys.readouterr().err.split())
    assert f"{signal_sent.name}: saved after step 18; go on with hpm pretrain --resume --output stopped" in told
    assert checkpoint.list_checkpoints(Path("stopped/checkpoints"))[0].name == "checkpoint-00000018"
    # Nothing that was done is done again: the runs draw each image's mask once.
    assert hpm("pretrain", "--resume", "--output", "stopped") == 0
    assert_same_run(whole, tmp_path / "stopped")
    assert len(recorded_lines(tmp_path / "stopped.txt")) == 40 * 16


@pytest.mark.parametrize("saved", ["config.gin", "operative.gin"])
def test_repeated_from_its_saved_config(
    whole: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("RECORD", str(tmp_path / "other.txt"))
    assert hpm("pretrain", whole / saved, "--output", "other") == 0
    assert_same_run(whole, tmp_path / "other")
    assert drawn(tmp_path / "whole.txt") == drawn(tmp_path / "other.txt")


def test_a_complete_run_resumes_to_its_summary(whole: Path, hpm: Hpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("RECORD", os.devnull)
    before = (whole / "metrics.jsonl").read_text()
    assert hpm("pretrain", "--resume", "--output", whole) == 0
    assert (whole / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_every_process_of_a_job(
    recorded: Path, tmp_path: Path, signal_sent: signal.Signals, forks: Forks
) -> None:
    """As clusters send it: the loader's workers must not die of it before the run has saved."""
    stopped = forks.run(
        "hpm",
        "pretrain",
        recorded,
        "-b",
        "Loading.num_workers = 2",
        "--output",
        "run",
        env={**os.environ, "RECORD": os.devnull, "SIGNAL_AT": f"17 {int(signal_sent)}", "SIGNAL_GROUP": "1"},
        start_new_session=True,
        cwd=tmp_path,
    )
    assert stopped.returncode == 75, stopped.stdout + stopped.stderr
    assert checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")[0].name == "checkpoint-00000018"


def test_a_signal_to_workers_while_they_load(tiny: Path, tmp_path: Path) -> None:
    """Whatever they are doing: torch's own handler would end them, and the run with a traceback."""
    words = [
        "Loading.num_workers = 2",
        "Schedule.epochs = 4000",
        "Monitoring.evaluations = []",
        "Checkpointing.every = 9999",
    ]
    command = [sys.executable, "-m", "hpm", "pretrain", str(tiny), "--output", "run"]
    command += [word for text in words for word in ("-b", text)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, start_new_session=True
    ) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not metrics.is_file() or metrics.read_text().count("\n") < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        told, _ = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert "SIGTERM: saved after step" in told
    assert len(checkpoint.list_checkpoints(tmp_path / "run" / "checkpoints")) == 1


def test_what_touches_no_number_may_change(
    recorded: Path,
    whole: Path,
    hpm: Hpm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Workers, how often is saved, where MLflow is: the run goes on bit for bit; what rounds differently is told."""
    monkeypatch.setenv("RECORD", str(tmp_path / "moved.txt"))
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL_AT", f"17 {int(signal.SIGTERM)}")
        assert hpm("pretrain", recorded, "--output", "moved") == 75
    free = ["Loading.num_workers = 1", "Checkpointing.every = 3", "MLflowTracker.experiment = 'other'"]
    bindings = [word for binding in free for word in ("-b", binding)]
    assert hpm("pretrain", recorded, *bindings, "--resume", "--output", "moved") == 0
    assert "up to rounding" not in capsys.readouterr().out
    assert_same_run(whole, tmp_path / "moved")
    assert "Checkpointing.every = 3" in Path("moved/config.gin").read_text()

    shutil.rmtree("moved/checkpoints/checkpoint-00000040")
    Path("moved/summary.json").unlink()
    rounding = [*bindings, "-b", "Schedule.accumulate = 2"]
    assert hpm("pretrain", recorded, *rounding, "--resume", "--output", "moved") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "resuming with Schedule.accumulate: not bound -> 2: the same run up to rounding" in told


def test_resume_in_another_precision_is_refused(
    tiny: Path, hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    low = ["-b", "Runtime.precision = 'bf16'", "-b", "Schedule.epochs = 2"]
    assert hpm("pretrain", tiny, *low, "--output", "run") == 0
    Path("run/summary.json").unlink()
    other = ["-b", "Runtime.precision = 'fp32'", "-b", "Schedule.epochs = 2"]
    assert hpm("pretrain", tiny, *other, "--resume", "--output", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "was trained in bf16, and Runtime.precision gives fp32 here" in told
    assert hpm("pretrain", tiny, *low, "--resume", "--output", "run") == 0


def test_resume_starts_where_there_is_no_run_yet(tiny: Path, hpm: Hpm) -> None:
    """One command for a cluster that starts a job again and again."""
    command = ["pretrain", tiny, "-b", "Schedule.epochs = 2", "--resume", "--output", "run"]
    assert hpm(*command) == 0
    assert hpm(*command) == 0
    assert checkpoint.list_checkpoints(Path("run/checkpoints"))[0].name == "checkpoint-00000020"
