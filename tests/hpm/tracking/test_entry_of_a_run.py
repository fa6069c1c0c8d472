"""What a run's own entry in MLflow says: its name, data sets, source and description."""

from __future__ import annotations

import getpass
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tracked_runs import Eager, start

from hpm.runs.manifest import DataRecord, Manifest, SplitRecord
from hpm.runs.title import header_of, run_title, settings_title
from hpm.tracking.note import note_of
from hpm.tracking.settings import with_own_tags

Hpm = Callable[..., int]
ROOT = Path(__file__).parents[3]


def entry(uri: str) -> Run:
    """The only run of a store."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("curriculum-masking").experiment_id])
    return run


def datasets(run: Run) -> list[tuple[str, str, str]]:
    """Name, digest and purpose of a run's data sets."""
    return sorted((one.dataset.name, one.dataset.digest, one.tags[0].value) for one in run.inputs.dataset_inputs)


def test_an_entry_says_what_was_trained_on_what(
    hpm: Hpm, tiny: Path, uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its server was away at first; what is sent later is the same, and is there once however often it is sent."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tiny.write_text(f"# A run\n# for tests.\n#\n#   hpm pretrain tiny.gin\n\n{tiny.read_text()}")
    shorter = ("-b", "Schedule.epochs = 2", "-b", "MLflowTracker.enabled = True")
    assert hpm("pretrain", "tiny.gin", "curricula/random", *shorter) == 0
    (folder,) = Path("runs").glob("tiny-*")
    for _ in range(2):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        capsys.readouterr()
        assert hpm("pretrain", "--resume", "--output", folder) == 0
        assert "open http://127.0.0.1:9" not in capsys.readouterr().out
        state = json.loads((folder / "mlflow.json").read_text())
        (folder / "mlflow.json").write_text(json.dumps(state | {"ended": False, "sent": 0}))
    run = entry(uri)
    assert run.info.run_name == "tiny + random, Schedule.epochs=2"
    manifest = Manifest.read(folder / "run.json")
    images = manifest.data
    expected = [("DigitScenes", images.fingerprint, "training")]
    expected += [("DigitScenes", split.fingerprint, name) for name, split in images.held_out.items()]
    assert datasets(run) == sorted(expected)
    trained = next(one for one in run.inputs.dataset_inputs if one.tags[0].value == "training")
    assert json.loads(trained.dataset.profile) == {"images": 160, "image_size": "16 x 16 x 3"}
    assert json.loads(trained.dataset.source)["DigitScenes.train_size"] == "160"
    tags = run.data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert tags["mlflow.source.name"] == "hpm pretrain"
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags.get("mlflow.source.git.commit", "") == head
    assert tags["mlflow.user"] == getpass.getuser()
    command = "hpm pretrain tiny.gin curricula/random -b 'Schedule.epochs = 2' -b 'MLflowTracker.enabled = True'"
    assert tags["mlflow.note.content"] == f"A run\nfor tests.\n\n    hpm pretrain tiny.gin\n\nMade by\n\n    {command}"


def test_a_run_that_goes_on_over_other_images_shows_both(uri: str, folder: Path) -> None:
    first = DataRecord("ImageFolder", 100, "a" * 16, {"test": SplitRecord(10, "c" * 16)})
    manifest = Manifest("run", "pixels", "hard", "fp32", first)
    manifest.write(folder / "run.json")
    start(Eager(uri=uri), folder).finish("FAILED")
    assert datasets(entry(uri)) == [("ImageFolder", "a" * 16, "training"), ("ImageFolder", "c" * 16, "test")]
    manifest.over(DataRecord("ImageFolder", 120, "b" * 16), until_step=30).write(folder / "run.json")
    start(Eager(uri=uri), folder).finish("FINISHED")
    digests = {digest for _, digest, _ in datasets(entry(uri))}
    assert digests == {"a" * 16, "b" * 16, "c" * 16}


@pytest.mark.parametrize(
    ("configs", "settings", "title"),
    [
        (["quickstart"], {}, "quickstart"),
        (["quickstart", "attention"], {}, "quickstart + attention"),
        (["quickstart"], {"Ramp.end": "0.7", "Ramp.shape": "cosine"}, "quickstart, Ramp.end=0.7, Ramp.shape=cosine"),
        (
            ["a"],
            {f"Part.p{n}": "1" * 20 for n in range(9)},
            f"a, Part.p0={'1' * 20}, Part.p1={'1' * 20}, Part.p2={'1' * 20}…",
        ),
        (["a" * 200], {}, f"{'a' * 99}…"),
    ],
)
def test_titles(configs: list[str], settings: dict[str, str], title: str) -> None:
    assert run_title(configs, settings) == title
    assert len(title) <= 100


def test_settings_are_rounded_in_titles() -> None:
    assert (
        settings_title({"Ramp.end": 1 / 3, "Ramp.steps": 3, "A.b": "@C()"}) == "Ramp.end=0.3333, Ramp.steps=3, A.b=@C()"
    )


def test_a_config_without_a_comment_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.gin").write_text("A.b = 1  # no header\n# nor this\n")
    assert header_of(tmp_path / "a.gin") == ""


def test_a_description_is_cut_to_what_mlflow_keeps_and_holds_no_secret() -> None:
    long = note_of("word\n" * 5000, command="hpm pretrain a")
    assert len(long) < 8000
    assert long.endswith("(cut: it is longer)")
    assert note_of("word " * 5000).startswith("word word"), "a line alone is cut, too"
    assert "hunter2" not in note_of("see https://me:hunter2@host/", command="hpm -b 'x = \"http://a:hunter2@b\"'")


def test_a_description_of_ones_own_is_kept(recwarn: pytest.WarningsRecorder) -> None:
    bound = {"mlflow.note.content": "mine", "mlflow.user": "me"}
    tags = with_own_tags(bound, {"mlflow.note.content": "theirs", "mlflow.user": "root", "seed": "0"})
    assert tags == {**bound, "seed": "0"}
    assert not recwarn.list
