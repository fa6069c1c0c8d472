"""A worker decides by the outcome that a run leaves, whatever the run printed and whatever its exit code is."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from rich.console import Console

from hpm.config import parse_config
from hpm.planning.plan import make_plan
from hpm.runs.manifest import DataRecord, EarlierData, Manifest, SplitRecord
from hpm.runs.outcome import Outcome
from hpm.tracking.mlflow import MLflowTracker
from studies.analysis.results import RESULTS, study_results
from studies.definition.ablation import Ablation
from studies.definition.base import Definition, PlannedRun
from studies.definition.search import Search
from studies.execution.finish import finish, write_best_configs
from studies.execution.launcher import WorkedStudy
from studies.execution.options import StudyOptions
from studies.execution.placement import Placement
from studies.execution.queue import ERROR, enqueue
from studies.execution.run_process import RunProcess
from studies.execution.signals import Stopped
from studies.execution.storage import open_storage, open_study
from studies.execution.worker import Worker
from studies.reporting.mlflow import StudyTracker

# A process in the place of `hpm pretrain`: what it does in each try stands in tries.json.
RUN = """
import json, os, signal, sys, time
from pathlib import Path

tries = json.loads(Path("tries.json").read_text())
now, *later = tries
Path("tries.json").write_text(json.dumps(later or [now]))
Path("words.json").write_text(json.dumps(sys.argv[1:]))
print(now.get("prints", ""), flush=True)
outcome = Path(os.environ["HPM_OUTCOME"])

def stop(number, frame):
    outcome.write_text(json.dumps({"kind": "interrupted", "message": "SIGTERM", "retryable": True}))
    sys.exit(75)

if now.get("waits"):
    signal.signal(signal.SIGTERM, stop)
    Path("started").touch()
    time.sleep(60)
if "metrics" in now:
    folder = Path(sys.argv[sys.argv.index("--output") + 1])
    folder.mkdir(parents=True)
    summary = {"metrics": now["metrics"], "images": 64, "training_seconds": 2.0}
    summary |= {"data": "DigitScenes", "device": "cpu", "commit": "abc", **now.get("summary", {})}
    if "manifest" in now:
        (folder / "run.json").write_text(json.dumps(now["manifest"]))
    (folder / "summary.json").write_text(json.dumps(summary))
if "outcome" in now:
    outcome.write_text(json.dumps(now["outcome"]))
if now.get("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(now.get("code", 0))
"""


class StandIn(Placement):
    """Starts that process."""

    def command(self) -> list[str]:
        return [sys.executable, "run.py"]


Work = Callable[..., optuna.Study]


def work_on(
    study: optuna.Study,
    storage: RDBStorage,
    definition: Definition,
    tries: Sequence[dict[str, Any]],
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Have a worker work through a study whose runs do in each try what is said."""
    Path("tries.json").write_text(json.dumps(tries))
    Worker(
        study,
        storage,
        definition,
        StudyOptions(configs=["s.gin"], output=Path("runs"), poll=0.02),
        tracker=StudyTracker(MLflowTracker(enabled=False), "s", definition),
        placement=StandIn(),
        report=report,
    ).work()


@pytest.fixture
def work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Has a worker work through a study of one variant and one seed, whose run does in each try what is said."""
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(RUN)
    definition = Ablation(base=["tiny.gin"], variants={"a": []}, seeds=[0], metric="ridge/pretrained")
    storage = open_storage("sqlite:///s.db", retries=2)
    study = open_study(storage, "s", definition, {"kind": "ablation"})
    enqueue(study, definition)

    def run(*tries: dict[str, Any], imports: tuple[str, ...] = ()) -> optuna.Study:
        definition.imports = imports
        work_on(study, storage, definition, tries)
        return study

    return run


COMPLETE = {"outcome": {"kind": "complete"}, "metrics": {"ridge/pretrained": 0.5}}
RETRYABLE = {"kind": "error", "message": "another process is writing", "retryable": True}
FINAL = {"kind": "stopped", "message": "losses are not finite", "retryable": False}


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def test_a_complete_run(work: Work) -> None:
    study = work({**COMPLETE, "prints": "error: what a run prints is for people", "code": 1})
    (trial,) = study.get_trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    (result,) = trial.user_attrs["results"]
    assert result["cost"]["images"] == 64
    plan = make_plan(parse_config(["tiny.gin"], []))
    assert result["cost"]["flops"] == pytest.approx(64 * plan.flops / (plan.steps * plan.batch_size))


def test_each_trial_tells_how_many_are_done_and_how_long_the_others_take(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(RUN)
    definition = Ablation(base=["tiny.gin"], variants={"a": []}, seeds=[0, 1, 2], metric="ridge/pretrained")
    storage = open_storage("sqlite:///s.db")
    study = open_study(storage, "s", definition, {"kind": "ablation"})
    enqueue(study, definition)
    lines: list[str] = []
    work_on(study, storage, definition, [COMPLETE], lines.append)
    first, second, last = lines
    assert "(1 of 3 trials done, about " in first
    assert "(2 of 3 trials done, about " in second
    assert first.endswith(" left)")
    assert "done" not in last


def test_a_trial_keeps_the_skipped_steps_and_the_images_of_its_run(work: Work) -> None:
    data = DataRecord("DigitScenes", 9, "4567", {"test": SplitRecord(2, "89ab")})
    earlier = [EarlierData(3, DataRecord("DigitScenes", 8, "0123"))]
    manifest = Manifest("a", "pixels", None, "fp32", data, earlier_data=earlier).as_json()
    study = work({**COMPLETE, "summary": {"skipped_steps": 20}, "manifest": manifest})
    (run,) = study_results(study)
    assert (run.skipped_steps, run.fingerprints) == (20, {"training": "0123 4567", "test": "89ab"})


def test_a_damaged_manifest_is_named(work: Work) -> None:
    study = work({**COMPLETE, "manifest": []})
    assert states(study) == ["FAIL"]
    assert study.get_trials()[0].user_attrs[ERROR] == "a-seed0: runs/a-seed0/run.json is not a run's manifest"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_what_is_not_retryable_fails_with_its_message(work: Work, code: int) -> None:
    study = work({"outcome": FINAL, "code": code, "prints": "is being written by another process"})
    assert states(study) == ["FAIL"]
    assert study.get_trials()[0].user_attrs[ERROR] == "a-seed0: losses are not finite"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ({"outcome": RETRYABLE, "prints": "error: 1", "code": 2}, "a-seed0: another process is writing"),
        ({"killed": True, "prints": "error: 1\nstopped: 2"}, "a-seed0 died with exit code -9: error: 1 | stopped: 2"),
        ({"code": 2}, "a-seed0 died with exit code 2: it printed nothing"),
    ],
)
def test_what_is_retryable_or_left_no_outcome_is_tried_again(work: Work, first: dict[str, Any], reason: str) -> None:
    study = work(first, COMPLETE)
    assert states(study) == ["FAIL", "COMPLETE"]
    died, again = study.get_trials()
    assert died.user_attrs[ERROR] == reason
    assert again.system_attrs["retry_history"] == [0]
    assert again.params == died.params


def test_a_run_that_dies_every_time_is_given_up(work: Work) -> None:
    assert states(work({"killed": True})) == ["FAIL"] * 3


def test_the_outcome_of_an_earlier_try_does_not_count(work: Work) -> None:
    file = Path("runs/logs/a-seed0.outcome.json")
    file.parent.mkdir(parents=True)
    Outcome("stopped", "an earlier try").write(file)
    assert states(work({"killed": True}, COMPLETE)) == ["FAIL", "COMPLETE"]


def test_a_run_that_could_not_write_its_outcome_is_complete_by_its_summary(work: Work) -> None:
    """The disk was full."""
    without_outcome = {name: value for name, value in COMPLETE.items() if name != "outcome"}
    assert states(work(without_outcome)) == ["COMPLETE"]


@pytest.mark.parametrize("end", [{"killed": True}, {"code": 1}])
def test_a_summary_alone_completes_nothing(work: Work, end: dict[str, Any]) -> None:
    """It may be an earlier try's."""
    without_outcome = {name: value for name, value in COMPLETE.items() if name != "outcome"}
    assert states(work({**without_outcome, **end}))[0] == "FAIL"


def test_exit_code_0_alone_completes_nothing(work: Work) -> None:
    assert states(work({"code": 0}, COMPLETE)) == ["FAIL", "COMPLETE"]


def test_a_run_gets_the_studys_imports_in_a_file_of_its_own(work: Work) -> None:
    """Workers that wrote one file together took it away from each other."""
    work(COMPLETE, imports=("import json",))
    file = Path("runs/logs/a-seed0.imports.gin")
    assert file.read_text() == "import json\n"
    assert json.loads(Path("words.json").read_text())[1:3] == ["tiny.gin", str(file)]


def test_a_run_without_the_metric_fails(work: Work) -> None:
    study = work({**COMPLETE, "metrics": {"knn/pretrained": 0.5, "ridge/pretrained": float("nan")}})
    assert states(study) == ["FAIL"]
    assert study.get_trials()[0].user_attrs[ERROR] == "a-seed0 has no ridge/pretrained; it has knn/pretrained"


def test_a_stopped_worker_gives_its_trial_back(work: Work) -> None:
    def stop() -> None:
        while not Path("started").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop, daemon=True)
    thread.start()
    with pytest.raises(Stopped, match="SIGTERM"):
        work({"waits": True})
    thread.join()
    study = work(COMPLETE)
    assert states(study) == ["COMPLETE"]


def test_a_setting_is_trained_once(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.py").write_text(RUN)
    metric = "validation/ridge/pretrained"
    space = {"Ramp.shape": "Categorical(['linear', 'cosine'])"}
    first = [{"Ramp.shape": "linear"}, {"Ramp.shape": "linear"}]
    definition = Search(base=["tiny.gin"], space=space, metric=metric, first=first)
    storage = open_storage("sqlite:///s.db")
    study = open_study(storage, "s", definition, {"kind": "search", "space": space})
    enqueue(study, definition, trials=2)
    skipped = {"summary": {"skipped_steps": 2}}
    tries = [{"outcome": {"kind": "complete"}, "metrics": {metric: value}, **skipped} for value in (0.5, 0.6, 0.7)]
    work_on(study, storage, definition, tries)
    assert [(trial.params["Ramp.shape"], trial.values) for trial in study.get_trials()] == [
        ("linear", [0.5]),
        ("linear", [0.5]),
        ("cosine", [0.6]),
    ]
    assert [(run.variant, run.metrics[metric]) for run in study_results(study)] == [
        ("trial-0000", 0.5),
        ("trial-0002", 0.6),
    ]
    (best,) = write_best_configs(study, definition, tmp_path)
    head = best.read_text().splitlines()
    assert head[1] == "# Warning: steps were skipped, since their gradient was not finite: trial-0002 seed 0 (2)."


def test_a_study_ends_before_its_baseline_has_a_complete_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definition = Ablation(base=["tiny.gin"], variants={"hard": [], "random": []}, metric="m", baseline="random")
    options = StudyOptions(configs=["s.gin"], storage="sqlite:///s.db")
    study = open_study(open_storage(options.storage), "s", definition, {"baseline": "random"})
    kept = {"variant": "hard", "seed": 0, "metrics": {"m": 0.5}, "cost": {}, "folder": "runs/s/hard-seed0"}
    kept |= {"data": "D", "device": "cpu", "commit": "x"}
    study.add_trial(optuna.create_trial(value=0.5, user_attrs={RESULTS: [kept]}))
    tracker = StudyTracker(MLflowTracker(enabled=False), "s", definition)
    text = StringIO()
    finish(WorkedStudy(study, definition, tracker), options, Console(file=text, width=160))
    assert "no complete run of the baseline random has m yet, so there is no difference of hard" in text.getvalue()
    assert "no baseline yet" in Path("runs/s/results.md").read_text()


def test_a_real_run_leaves_an_outcome(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / "mine.txt").touch()
    run = PlannedRun("a", ("tiny.gin",), (), seed=0, variant="a")
    process = RunProcess(run, folder, tmp_path / "logs" / "a.txt", [], Placement())
    while (code := process.wait(10)) is None:
        pass
    process.stop()
    outcome = process.outcome()
    assert (code, outcome.kind, outcome.retryable) == (2, "error", False)
    assert "is not empty; choose another --output" in outcome.message
    assert outcome.message in " ".join(process.log_tail().split())
