"""`hpm evaluate` on real runs: what is printed, kept and sent, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from PIL import Image

from hpm.inference.evaluation_results import summarize, tables
from hpm.metrics import half_interval

ADDITIONS = [
    "Monitoring.probe_every = 2",
    "Monitoring.probes = [@KNN()]",
    "Monitoring.evaluations = [@final/KNN(), @LowShot(), @Agreement()]",
    "KNN.k = 5",
    "KNN.train_images = 100",
    "KNN.test_images = 40",
    "final/KNN.baselines = True",
    "LowShot.labels = 50",
    "LowShot.epochs = 1",
    "LowShot.draws = 1",
    "LowShot.batch_size = 10",
    "Agreement.images = 16",
]
Hpm = Callable[..., int]


@pytest.fixture(scope="module")
def trained(pretrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A run with a teacher, tracked, whose configuration binds other evaluations, some of them in a scope."""
    uri = f"sqlite:///{shutil.copy(empty_mlflow, tmp_path_factory.mktemp('tracked') / 'mlflow.db')}"
    return pretrained(*ADDITIONS, "MLflowTracker.enabled = True", f"MLflowTracker.uri = '{uri}'")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def results(folder: Path, protocol: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"evaluation-{protocol}.json").read_text())


def test_protocols_of_a_run(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("evaluate", run, "--protocol", "knn,linear,low-shot", "--seeds", 3, "-b", "KNN.k = [3, 5]") == 0
    shown = capsys.readouterr().out
    for text in (
        "knn/pretrained/k3",
        "linear/pretrained",
        "low_shot/gain",
        "95 % interval",
        "Linear is the same for every seed",
    ):
        assert text in shown
    (knn,) = results(run, "knn")
    assert (knn["weights"], knn["step"], knn["bindings"]) == ("student", 40, ["KNN.k = [3, 5]"])
    assert knn["parameters"]["KNN.k"] == "[3, 5]"
    names = {"knn/pretrained/k3", "knn/pretrained/k5"}
    assert set(knn["metrics"]) == names | {f"validation/{name}" for name in names}
    assert "interval" not in knn["metrics"]["knn/pretrained/k3"]
    (low_shot,) = results(run, "low-shot")
    assert low_shot["parameters"]["LowShot.draws"] == "3"
    pretrained = low_shot["metrics"]["low_shot/pretrained"]
    assert len(pretrained["values"]) == 3
    assert pretrained["interval"] == half_interval(pretrained["values"])


def test_the_same_figures_as_at_the_end_of_training(hpm: Hpm, run: Path) -> None:
    assert hpm("evaluate", run, "--protocol", "knn", "--protocol", "agreement", "-b", "KNN.baselines = True") == 0
    final = json.loads((run / "summary.json").read_text())["metrics"]
    for protocol in ("knn", "agreement"):
        for name, metric in results(run, protocol)[0]["metrics"].items():
            assert metric["mean"] == final[name], name


def test_the_teacher_and_a_checkpoint(hpm: Hpm, run: Path) -> None:
    checkpoint = run / "checkpoints" / "checkpoint-00000035"
    for target, weights in ((run, "student"), (run, "teacher"), (checkpoint, "student")):
        assert hpm("evaluate", target, "--protocol", "linear", "--weights", weights) == 0
    entries = results(run, "linear")
    assert [(entry["step"], entry["weights"]) for entry in entries] == [
        (40, "student"),
        (40, "teacher"),
        (35, "student"),
    ]
    assert hpm("evaluate", run / "checkpoints" / "latest", "--protocol", "linear") == 0
    assert [entry["model"] for entry in results(run, "linear")].count("latest") == 0
    assert len(results(run, "linear")) == 3  # the same as of the run


def test_nothing_is_overwritten_silently(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bindings in ([], ["-b", "KNN.k = 3"], []):
        assert hpm("evaluate", run, "--protocol", "knn", *bindings) == 0
    assert [entry["bindings"] for entry in results(run, "knn")] == [["KNN.k = 3"], []]
    assert capsys.readouterr().out.count("replaces the result of") == 1
    (run / "evaluation-knn.json").write_text("{ cut off")
    assert hpm("evaluate", run, "--protocol", "knn") == 2
    assert "evaluation-knn.json cannot be read" in capsys.readouterr().err
    assert (run / "evaluation-knn.json").read_text() == "{ cut off"


def test_results_go_to_the_runs_entry_in_mlflow(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    tags = ["-b", "MLflowTracker.tags = {'x': 'http://me:hunter2@host/'}"]
    assert hpm("evaluate", run, "--protocol", "agreement", "--seeds", 2, *tags) == 0
    assert "hunter2" not in (run / "evaluation-agreement.json").read_text()
    known = json.loads((run / "mlflow.json").read_text())
    sent = MlflowClient(tracking_uri=known["uri"]).get_run(known["run_id"]).data.metrics
    metric = results(run, "agreement")[0]["metrics"]["agreement/student"]
    assert sent["evaluate/student/agreement/student"] == metric["mean"]
    assert sent["evaluate/student/agreement/student/interval"] == metric["interval"]

    (run / "mlflow.json").write_text(json.dumps(known | {"run_id": "0" * 32}))
    capsys.readouterr()
    assert hpm("evaluate", run, "--protocol", "knn") == 0  # the results are on disk all the same
    assert "MLflow does not have all of these results" in capsys.readouterr().out
    assert results(run, "knn")


_FULL_DISK = """
import resource, sys
from hpm.cli import main

def fill(event, values):
    if event == "open" and "evaluation-knn" in str(values[0]):  # from now on no file grows
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

sys.addaudithook(fill)
main()
"""


def test_a_disk_without_room_prints_the_results(run: Path) -> None:
    command = [sys.executable, "-c", _FULL_DISK, "evaluate", run, "--protocol", "knn"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "could not be written" in " ".join(ran.stdout.split()), ran.stderr
    assert '"knn/pretrained"' in ran.stdout


def test_a_published_file(hpm: Hpm, run: Path, tiny: Path, tmp_path: Path) -> None:
    from hpm.runs.checkpoint import Checkpoint

    weights = Checkpoint(run / "checkpoints" / "checkpoint-00000040").state_dict("student")
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(weights, folder / "weights.pth")
    sizes = ["-b", "KNN.k = 5", "-b", "KNN.train_images = 100", "-b", "KNN.test_images = 40"]
    assert hpm("evaluate", folder / "weights.pth", "--protocol", "knn") == 2  # no images
    assert hpm("evaluate", folder / "weights.pth", tiny, "--protocol", "knn", *sizes) == 0
    (entry,) = results(folder, "knn")
    assert (entry["model"], entry["configs"]) == ("weights.pth", [str(tiny)])
    assert hpm("evaluate", run, "--protocol", "knn", *sizes) == 0
    assert entry["metrics"] == results(run, "knn")[0]["metrics"]


def test_a_protocols_config_goes_over_the_runs(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    config = tmp_path / "protocol.gin"
    config.write_text("# figures\nKNN.k = 7\nKNN.baselines = True\n")
    assert hpm("evaluate", run, config, "--protocol", "knn", "-b", "KNN.k = 9") == 0
    parameters = results(run, "knn")[0]["parameters"]
    assert (parameters["KNN.k"], parameters["KNN.baselines"]) == ("9", "True")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--protocol", "knn,svm"],
            "--protocol svm is unknown; choose from agreement, classifier, detection, diagnostics, finetune",
        ),
        (["--protocol", "knn,knn"], "names one twice"),
        (["--weights", "both"], "--weights both is unknown; choose student or teacher"),
        (["--seeds", "0"], "--seeds 0 must be 1 to 1,000"),
        (["--protocol", "knn", "-b", "KNN.k = 200", "-b", "KNN.train_images = None"], "KNN.k = 200 is more than the"),
        (["--protocol", "knn", "-b", "LowShot.labels = 20"], "LowShot.labels (-b) is bound, but nothing in this run"),
        (["-b", "MaskedAutoencoder.depth = 2"], "does not fit this model"),
        (["-b", "Trainer.method = @Uniform()"], "Trainer.method must be a Method, got Uniform"),
        (["-b", "Trainer.source = @Uniform()"], "Trainer.source must be an ImageSource, got Uniform"),
        (["-b", "Trainer.runtime = @Schedule()"], "Trainer.runtime must be a Runtime or None, got Schedule"),
        (["--protocol", "finetune"], "FineTune.batch_size = 1024 must be 1 to 160, the number of"),
        (["--protocol", "low-shot", "-b", "LowShot.fraction = 0.1"], "set one to None"),
    ],
)
def test_refuses(hpm: Hpm, trained: Path, arguments: list[str], message: str, capsys: Any) -> None:
    assert hpm("evaluate", trained, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_folder_at_the_root_is_no_checkpoint(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("evaluate", "/nothing") == 2
    assert (
        "/nothing does not exist; a model is a run's folder, one of its checkpoint-* folders" in capsys.readouterr().err
    )


def images(root: Path, **classes: tuple[int, int]) -> Path:
    """Folders of training and test images, so many of each class."""
    for name, counts in classes.items():
        for split, count in zip(("train", "val"), counts, strict=True):
            for number in range(count):
                (root / split / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("kind", ["unlabeled", "one class", "other classes"])
def test_refuses_data_that_cannot_serve(hpm: Hpm, trained: Path, tmp_path: Path, kind: str, capsys: Any) -> None:
    root = tmp_path / "images"
    if kind == "unlabeled":
        for split in ("train", "val"):
            (root / split).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(root / split / "0.png")
        message = "KNN needs labels, and the images of ImageFolder have none"
    elif kind == "one class":
        images(root, cats=(4, 2))
        message = "KNN needs at least two classes, ImageFolder has 1"
    else:
        images(root, cats=(4, 2), dogs=(4, 0), birds=(0, 2))
        message = "must hold the same classes"
    folder = [f"ImageFolder.root = '{root}'", "ImageFolder.img_size = 16", "Trainer.source = @ImageFolder()"]
    bindings = [word for binding in folder for word in ("-b", binding)]
    assert hpm("evaluate", trained, "--protocol", "knn", "-b", "KNN.k = 1", *bindings) == 2
    assert message in capsys.readouterr().err


def test_other_data_than_it_was_trained_on(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    """Fewer images than a batch of the run."""
    root = images(tmp_path / "images", cats=(4, 2), dogs=(4, 2))
    folder = [f"ImageFolder.root = '{root}'", "ImageFolder.img_size = 16", "Trainer.source = @ImageFolder()"]
    bindings = [word for binding in folder for word in ("-b", binding)]
    assert hpm("evaluate", run, "--protocol", "knn", "-b", "KNN.k = 1", *bindings) == 0
    assert results(run, "knn")[0]["data"] == "ImageFolder"


FINE_TUNE = [
    "FineTune.epochs = 6",
    "FineTune.batch_size = 16",
    "FineTune.warmup_epochs = 1",
    "FineTune.precision = 'fp32'",
]


def test_a_killed_fine_tuning_goes_on(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGKILL after some epoch; the same command ends with the same figures, and leaves no progress behind."""
    arguments = ["evaluate", str(run), "--protocol", "finetune"]
    arguments += [word for binding in FINE_TUNE for word in ("-b", binding)]
    command = [sys.executable, "-u", "-m", "hpm", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch 2/6" in line:
                break
        process.send_signal(signal.SIGKILL)
    assert not (run / "evaluation-finetune.json").exists()
    assert hpm(*arguments) == 0
    assert "going on after epoch" in capsys.readouterr().out.replace("\n", " ")
    assert not list((run / "evaluation").glob("*"))
    (broken,) = results(run, "finetune")
    assert hpm(*arguments) == 0
    assert "going on" not in capsys.readouterr().out
    (whole,) = results(run, "finetune")
    assert broken["metrics"] == whole["metrics"]


def test_two_processes_write_one_result(run: Path, forks: Forks) -> None:
    process = forks.run("hpm", "evaluate", run, "--protocol", "knn", processes=2)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count(" knn/pretrained") == 1
    assert len(results(run, "knn")) == 1


def test_summaries() -> None:
    summary = summarize({"a": [0.5, 0.7], "c": [1.0]})
    assert set(summary) == {"a", "c"}
    assert summary["a"]["interval"] == pytest.approx(0.1 * 12.7062, rel=1e-4)
    assert summary["c"] == {"mean": 1.0, "values": [1.0]}


def test_a_config_may_bind_protocols_that_are_not_asked_for(
    hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "several.gin").write_text("KNN.k = 3\nLinear.train_images = 60\nFineTune.epochs = 2\n")
    assert hpm("evaluate", run, "several.gin", "--protocol", "knn") == 0
    assert results(run, "knn")[-1]["parameters"]["KNN.k"] == "3"
    assert hpm("evaluate", run, "several.gin", "--protocol", "knn", "-b", "Linear.train_images = 70") == 2
    assert "Linear.train_images (-b) is bound, but nothing in this run uses Linear" in capsys.readouterr().err
    (tmp_path / "wrong.gin").write_text("KNN.kk = 3\n")
    assert hpm("evaluate", run, "wrong.gin", "--protocol", "knn") == 2
    assert "kk" in capsys.readouterr().err


def test_data_without_test_images_are_scored_on_validation_images(
    hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / f"{number}.png")
    source = ["Trainer.source = @ImageFolder()", f"ImageFolder.root = '{tmp_path / 'images'}'"]
    words = [word for binding in [*source, "ImageFolder.img_size = 16"] for word in ("-b", binding)]
    assert hpm("evaluate", run, "--protocol", "agreement", *words) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "has no val or test folder beside a train folder, so there is nothing to evaluate on; " in told
    assert "ImageFolder.validation_images = N puts N of the training images aside, 1 to 2" in told
    assert hpm("evaluate", run, "--protocol", "agreement", *words, "-b", "ImageFolder.validation_images = 1") == 0
    assert "there are no test images: evaluations score validation images" in " ".join(capsys.readouterr().out.split())
    measured = results(run, "agreement")[-1]["metrics"]
    assert measured
    assert all(name.startswith("validation/") for name in measured)
    linear = ["--protocol", "linear", *words, "-b", "ImageFolder.validation_images = 1"]
    assert hpm("evaluate", run, *linear) == 2
    assert "Linear needs labels" in " ".join(capsys.readouterr().err.split())


def test_how_often_is_said_once(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("LowShot", "low_shot.LowShot"):
        assert hpm("evaluate", run, "--protocol", "knn,low-shot", "--seeds", "2", "-b", f"{name}.draws = 5") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "--seeds 2 and LowShot.draws = 5 (-b) do not go together; leave one of them out" in told


def test_what_is_measured_of_several_things_has_columns() -> None:
    metrics = {
        f"{split}unsupervised_segmentation/{scores}/{what}": 0.25
        for split in ("validation/", "")
        for scores in ("center", "student/true_loss")
        for what in ("iou", "area")
    } | {"unsupervised_segmentation/object_share": 0.1}
    validation, test = tables("unsupervised-segmentation", summarize({name: [x] for name, x in metrics.items()}))
    assert validation.title == "unsupervised-segmentation, validation images"
    assert [column.header for column in test.columns] == ["", "iou", "area"]
    assert [list(column.cells) for column in test.columns] == [
        ["center", "student/true_loss"],
        ["25.00 %", "25.00 %"],
        ["0.25", "0.25"],
    ]
    assert (validation.caption, test.caption) == (None, "object_share: 0.1000")


def test_other_metrics_have_a_line_each() -> None:
    metrics = {
        "finetune/pretrained": [0.5, 0.7],
        "finetune/pretrained/blr": [1e-3, 2e-3],
        "finetune/scratch": [0.4, 0.4],
    }
    (table,) = tables("finetune", summarize(metrics))
    assert [column.header for column in table.columns] == ["metric", "mean", "95 % interval", "values"]
    assert list(table.columns[0].cells) == list(metrics)
