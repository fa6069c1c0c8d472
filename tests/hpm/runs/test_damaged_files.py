"""A file of a run folder that is damaged is named in a sentence, and stops only what needs it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hpm.runs.checkpoint import checksum_of_file, checksum_of_text
from hpm.runs.outcome import Outcome
from hpm.runs.run_folder import RunFolder
from hpm.tracking.entry import metrics_of_rows

Hpm = Callable[..., int]

DAMAGE = {
    "cut": b"{",
    "empty": b"",
    "no text": b"\xff\xfe\x00",
    "a list": b"[1]",
    "nested": b"[" * 200_000,
    "other types": b'{"format": 1, "data": [3], "metrics": [3], "uri": 5}',
}
NEWEST = Path("checkpoints", "checkpoint-00000020")
damaged = pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)


@pytest.fixture
def run(pretrained: Callable[..., Path], hpm: Hpm, tmp_path: Path) -> Path:
    """A copy of a complete run of 20 steps."""
    shutil.copytree(pretrained("Schedule.epochs = 2"), tmp_path / "run", symlinks=True)
    return Path("run")


@damaged
def test_a_damaged_manifest_is_made_good_by_a_checkpoint(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    whole = json.loads((run / "run.json").read_text())
    (run / "run.json").write_bytes(content)
    (run / "summary.json").unlink()
    assert hpm("visualize", run, "--timeline") == 0
    assert hpm("pretrain", "--resume", "--output", run) == 0
    told = capsys.readouterr().out
    assert f"what {run / NEWEST} holds of it is taken instead" in told
    assert f"{run / 'run.json'}" in told
    assert json.loads((run / "run.json").read_text()) == whole


def test_a_damaged_manifest_without_a_checkpoint_is_refused(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "run.json").write_text("{")
    shutil.rmtree(run / "checkpoints")
    assert hpm("pretrain", "--resume", "--output", run) == 2
    assert f"error: {run / 'run.json'} cannot be read" in capsys.readouterr().err


@damaged
def test_a_damaged_summary_is_made_anew(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    whole = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_bytes(content)
    assert hpm("pretrain", "--resume", "--output", run) == 0
    told = capsys.readouterr().out
    assert f"{run / 'summary.json'}" in told
    assert "evaluated once more" in told
    assert json.loads((run / "summary.json").read_text())["metrics"] == whole["metrics"]


def test_a_damaged_summary_without_a_checkpoint_starts_nothing_anew(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "summary.json").write_text("{")
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    assert hpm("pretrain", "--resume", "--output", run) == 2
    assert "there is no checkpoint to evaluate once more" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


@damaged
def test_what_a_resume_does_not_need_does_not_stop_it(hpm: Hpm, run: Path, content: bytes) -> None:
    for name in ("metrics.jsonl", "mlflow.json", "unreadable.txt", "evaluation-knn.json"):
        (run / name).write_bytes(content)
    (run / "summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", run) == 0


@pytest.mark.parametrize(
    ("name", "value", "everywhere", "code"),
    [
        ("epoch", "[1]", False, 0),
        ("prediction_accuracy", "1e999", False, 0),
        ("epoch", "1e-320", True, 0),
        ("time", "null", True, 0),
        ("alpha", "null", True, 2),
    ],
)
def test_rows_of_metrics_with_odd_values_end_no_reader(
    hpm: Hpm, run: Path, name: str, value: str, everywhere: bool, code: int
) -> None:
    """Whatever somebody wrote there: it is drawn, sent and counted as far as it is what training writes."""
    before = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {name: "@"} if everywhere or row["step"] == 8 else row for row in before]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows).replace('"@"', value))
    metrics = RunFolder(run).metrics
    assert metrics.count_skipped() == 0
    assert all(metric.timestamp >= 0 for metric in metrics_of_rows(metrics.rows()))
    assert hpm("visualize", run, "--timeline", "--out", "timeline.png") == code


def test_a_resume_counts_no_step_as_skipped_of_which_nothing_is_known(hpm: Hpm, run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    changed = [row | {"skipped_steps": [1] if row["step"] == 4 else None} for row in rows]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    (run / "summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", run) == 0
    assert RunFolder(run).read_summary(shown=True)["skipped_steps"] == 0


@damaged
def test_a_damaged_configuration_is_named(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (run / "config.gin").write_bytes(content)
    (run / "summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", run) == 2
    told = capsys.readouterr().err
    assert "config.gin" in told or "not bound" in told  # an empty one is a configuration of nothing


@damaged
def test_damaged_results_are_found_before_the_work(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (run / "evaluation-knn.json").write_bytes(content)
    assert hpm("evaluate", run, "--protocol", "knn") == 2
    told = capsys.readouterr()
    assert f"{run / 'evaluation-knn.json'}" in told.err
    assert "Move it away" in told.err
    assert "knn: " not in told.out


@damaged
def test_a_damaged_checkpoint_leads_to_the_one_before(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (run / NEWEST / "state.json").write_bytes(content)
    (run / "summary.json").unlink()
    assert hpm("visualize", run, "--out", "sheet.png") == 0
    assert f"{run / NEWEST} is damaged" in capsys.readouterr().out
    assert hpm("pretrain", "--resume", "--output", run) == 0
    told = capsys.readouterr().out
    assert f"{run / NEWEST} is damaged" in told
    assert "resuming after step 14 of 20" in told


def test_a_run_without_a_whole_checkpoint_does_not_lose_its_metrics(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in run.glob("checkpoints/checkpoint-*/state.json"):
        state.write_text("{")
    (run / "summary.json").unlink()
    before = (run / "metrics.jsonl").read_bytes()
    assert hpm("pretrain", "--resume", "--output", run) == 2
    told = capsys.readouterr().err
    assert "run holds no whole checkpoint" in told
    assert "remove run/checkpoints, and --resume starts again from the beginning" in told
    assert (run / "metrics.jsonl").read_bytes() == before


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint's values, and give it the checksum of what it holds then."""
    state = json.loads((folder / "state.json").read_text())
    del state["checksum"]
    change(state["values"])
    for name in state["parts"]:
        state["parts"][name] = checksum_of_file(folder / name)
    (folder / "state.json").write_text(json.dumps(state | {"checksum": checksum_of_text(state)}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, None) for key in ("step", "seconds", "logged_step", "precision", "curriculum", "scaler")),
        *(("step", value) for value in (10**9, 21, -1, True, "20", 20.0, 10**30)),
        ("seconds", "x"),
        ("seconds", -1.0),
        ("logged_step", 10**9),
        ("manifest", []),
        ("manifest", {"format": 99}),
        ("curriculum", {"scheduler": 5}),
        ("scaler", {}),
    ],
)
def test_values_that_no_run_saves_are_refused(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], key: str, value: object
) -> None:
    rewrite(run / NEWEST, lambda values: values.pop(key) if value is None else values.update({key: value}))
    (run / "summary.json").unlink()
    before = (run / "metrics.jsonl").read_bytes()
    assert hpm("pretrain", "--resume", "--output", run) == 2
    told = capsys.readouterr().err
    assert f"{run / NEWEST / 'state.json'}" in told
    assert "newer version" in told if value == {"format": 99} else repr(key) in told
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_step_beyond_the_schedule_is_refused(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / NEWEST).rename(run / "checkpoints" / "checkpoint-1000000000")
    rewrite(run / "checkpoints" / "checkpoint-1000000000", lambda values: values.update(step=10**9))
    (run / "summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", run) == 2
    assert "'step' = 1000000000 is beyond the 20 steps of this run" in capsys.readouterr().err


WEIGHT = "student.encoder.blocks.0.attn.qkv.weight"


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT].long()}),
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT] > 0}),
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT][:3].clone()}),
        lambda tensors: tensors.update({WEIGHT: tensors[WEIGHT] * torch.nan}),
        lambda tensors: tensors.pop(WEIGHT),
    ],
    ids=["whole numbers", "booleans", "shape", "not finite", "missing"],
)
def test_weights_of_another_kind_are_refused(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    (part,) = (run / NEWEST).glob("*.safetensors")
    tensors = load_file(part)
    change(tensors)
    save_file(tensors, part)
    rewrite(run / NEWEST, lambda values: None)
    (run / "summary.json").unlink()
    for words in (("pretrain", "--resume", "--output", run), ("visualize", run, "--out", "sheet.png")):
        assert hpm(*words) == 2
        told = capsys.readouterr().err
        assert f"{run / NEWEST}" in told
        assert WEIGHT.removeprefix("student.") in told


@damaged
def test_an_outcome_that_is_damaged_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "outcome.json").write_bytes(content)
    assert Outcome.read(tmp_path / "outcome.json") is None


def test_names_that_are_no_text_are_noted_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    name = os.fsdecode(b"cat/\xff.png")
    run.unreadable.write_bytes(b"by hand: \xfe\n")
    assert run.add_unreadable({name: "cut", "dog\r.png": "cut"}) == ["cat/\\udcff.png: cut", "dog .png: cut"]
    assert run.add_unreadable({name: "cut"}) == []
    assert run.count_unreadable() == 3


def test_a_mark_that_editors_put_before_a_text_is_no_damage(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(run / NEWEST)
    texts = [path for path in run.rglob("*") if path.suffix in (".json", ".jsonl", ".gin") and path.is_file()]
    for path in texts:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    for name in ("run.json", "config.gin", "summary.json", "metrics.jsonl", "state.json"):
        assert name in {path.name for path in texts}
    assert hpm("pretrain", "--resume", "--output", run) == 0
    assert hpm("visualize", run, "--timeline") == 0
    (run / "summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", run) == 0
    shown = capsys.readouterr()
    assert "damaged" not in shown.out + shown.err
    assert len((run / "metrics.jsonl").read_text().splitlines()) == len(rows)
