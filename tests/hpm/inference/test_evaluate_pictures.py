"""`hpm evaluate` with protocols that have something to show: results of classes, pictures, and what becomes of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotated import save_mosaics
from forks import Forks
from PIL import Image

Hpm = Callable[..., int]
PROTOCOLS = ("segmentation", "unsupervised-segmentation", "rankme")
SIZES = ["-b", "Segmentation.train_images = 60", "-b", "Segmentation.test_images = 20"]
OBJECTS = ["-b", "UnsupervisedSegmentation.images = 20"]


@pytest.fixture(scope="module")
def trained(pretrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A tracked run of which nothing was evaluated."""
    uri = f"sqlite:///{shutil.copy(empty_mlflow, tmp_path_factory.mktemp('tracked') / 'mlflow.db')}"
    return pretrained("MLflowTracker.enabled = True", f"MLflowTracker.uri = '{uri}'")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may write to."""
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def results(folder: Path, protocol: str) -> list[dict[str, Any]]:
    return json.loads((folder / f"evaluation-{protocol}.json").read_text())


def is_ours(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return picture.format == "PNG" and picture.info["Software"] == "curriculum-masking"


def test_what_is_kept_of_each_protocol(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    capsys.readouterr()
    assert hpm("evaluate", run, "--protocol", ",".join(PROTOCOLS), *SIZES, *OBJECTS) == 0
    told = "".join(capsys.readouterr().out.split())
    assert {path.name for path in run.glob("evaluation-*")} == {
        *(f"evaluation-{protocol}.json" for protocol in PROTOCOLS),
        "evaluation-segmentation.png",
        "evaluation-unsupervised-segmentation.png",
    }
    entries = {protocol: results(run, protocol)[0] for protocol in PROTOCOLS}
    segmentation = entries["segmentation"]
    measured = {name for name, metric in segmentation["metrics"].items() if "mean" in metric}
    assert segmentation["per_class"].keys() == measured
    assert segmentation["metrics"].keys() - measured == {
        "segmentation/knn/pretrained/k",
        "segmentation/linear/pretrained/strength",
    }
    for name, of_classes in segmentation["per_class"].items():
        assert of_classes.keys() <= {"background", *map(str, range(10))}
        assert np.mean(list(of_classes.values())) == pytest.approx(segmentation["metrics"][name]["mean"])
    assert "per_class" not in entries["unsupervised-segmentation"] | entries["rankme"]
    for protocol in PROTOCOLS[:2]:
        assert is_ours(run / f"evaluation-{protocol}.png")
        assert f"picture:{run}/evaluation-{protocol}.png" in told
    assert f"{100 * segmentation['metrics']['segmentation/knn/pretrained']['mean']:.2f}%" in told

    known = json.loads((run / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=known["uri"])
    sent = client.get_run(known["run_id"]).data.metrics
    for entry in entries.values():
        for name, metric in entry["metrics"].items():
            assert sent[f"evaluate/student/{name}"] == metric["values"][0]
    pictures = {Path(item.path).name for item in client.list_artifacts(known["run_id"], "pictures")}
    assert {"evaluation-segmentation.png", "evaluation-unsupervised-segmentation.png"} <= pictures


def test_a_picture_is_replaced_but_nobody_elses(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mlflow import MlflowClient

    path = run / "evaluation-segmentation.png"
    untracked = ["-b", "MLflowTracker.enabled = False"]
    assert hpm("evaluate", run, "--protocol", "segmentation", *SIZES, *untracked) == 0
    first = path.read_bytes()
    assert hpm("evaluate", run, "--protocol", "segmentation", *SIZES, *untracked, "-b", "Segmentation.k = (7,)") == 0
    assert path.read_bytes() != first  # of the last entry
    assert is_ours(path)

    Image.new("RGB", (3, 3)).save(path)
    theirs = path.read_bytes()
    capsys.readouterr()
    assert hpm("evaluate", run, "--protocol", "segmentation", *SIZES) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "could not be written" in told
    assert "was drawn by something else; give a new name, or remove it" in told
    assert path.read_bytes() == theirs
    assert len(results(run, "segmentation")) == 3
    known = json.loads((run / "mlflow.json").read_text())
    sent = MlflowClient(tracking_uri=known["uri"]).list_artifacts(known["run_id"], "pictures")
    assert [item for item in sent if item.path.endswith(path.name) and item.file_size == len(theirs)] == []


def test_a_checkpoint_and_a_published_file(hpm: Hpm, run: Path, tiny: Path, tmp_path: Path) -> None:
    """A checkpoint's go to its run's folder, a file's beside it; the teacher's figures are its own."""
    import torch

    from hpm.runs.checkpoint import Checkpoint

    checkpoint = run / "checkpoints" / "checkpoint-00000035"
    for words in ([checkpoint], [checkpoint, "--weights", "teacher"]):
        assert hpm("evaluate", *words, "--protocol", "unsupervised-segmentation", *OBJECTS) == 0
    student, teacher = (entry["metrics"] for entry in results(run, "unsupervised-segmentation"))
    assert student != teacher
    assert student["unsupervised_segmentation/pixels/iou"] == teacher["unsupervised_segmentation/pixels/iou"]
    assert is_ours(run / "evaluation-unsupervised-segmentation.png")

    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(Checkpoint(checkpoint).state_dict("student"), folder / "weights.pth")
    assert hpm("evaluate", folder / "weights.pth", tiny, "--protocol", "segmentation", *SIZES) == 0
    assert is_ours(folder / "evaluation-segmentation.png")
    assert results(folder, "segmentation")[0]["per_class"]


def masked_images(root: Path) -> list[str]:
    """Mosaics in a folder, of which one training image cannot be read; the bindings that read it."""
    save_mosaics(root, train=100, val=6, test=7)
    (root / "train" / "images" / "50.png").write_text("no picture")
    bindings = [
        "Trainer.source = @SegmentationFolder()",
        f"SegmentationFolder.root = '{root}'",
        "SegmentationFolder.img_size = 16",
        "Segmentation.baselines = True",
        "Segmentation.strengths = (1.0,)",
        "MLflowTracker.enabled = False",
    ]
    return [word for binding in bindings for word in ("-b", binding)]


def test_two_processes_find_what_one_finds_and_skip_the_same_image(
    hpm: Hpm, run: Path, tmp_path: Path, forks: Forks, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image that cannot be read is the first of the second process's."""
    command = ("evaluate", run, "--protocol", "segmentation,rankme", *masked_images(tmp_path / "masked"))
    assert hpm(*command) == 0
    told = "".join(capsys.readouterr().out.split())
    assert told.count("50.png") == 1
    alone = {protocol: results(run, protocol)[-1] for protocol in ("segmentation", "rankme")}
    (run / "evaluation-segmentation.png").unlink()
    ran = forks.run("hpm", *command, processes=2)
    assert ran.returncode == 0, ran.stderr
    assert "".join(ran.stdout.split()).count("50.png") == 1
    assert ran.stdout.count("results:") == 2
    assert is_ours(run / "evaluation-segmentation.png")
    together = {protocol: results(run, protocol)[-1] for protocol in alone}
    for protocol, entry in alone.items():
        assert together[protocol]["metrics"].keys() == entry["metrics"].keys()
        for name, metric in entry["metrics"].items():
            if "mean" in metric:
                assert together[protocol]["metrics"][name]["mean"] == pytest.approx(metric["mean"], abs=0.01), name
    assert alone["segmentation"]["per_class"]["segmentation/knn/raw_pixels"].keys() == {"sky", "sea", "sand"}
    assert alone["segmentation"]["metrics"]["segmentation/knn/raw_pixels"]["mean"] > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["segmentation", "-b", "Segmentation.k = (1, 961)"],
            "k = (1, 961) asks for more than the 960 training patches",
        ),
        (["segmentation", "-b", "Segmentation.classifiers = ('svm',)"], "Segmentation.classifiers = ('svm',) must be"),
        (["segmentation", "-b", "Segmentation.k = 5"], "Segmentation.k = 5 (-b) has the wrong type: Sequence[int]"),
        (["unsupervised-segmentation", "-b", "UnsupervisedSegmentation.areas = (0.1, 2.0)"], "must lie in (0, 1)"),
        (["rankme", "-b", "RankMe.pool = 'max'"], "RankMe.pool = 'max' is unknown; choose 'mean', 'token'"),
    ],
)
def test_refuses(hpm: Hpm, trained: Path, arguments: list[str], message: str, capsys: Any) -> None:
    protocol, *words = arguments
    sizes = SIZES if protocol == "segmentation" else []
    assert hpm("evaluate", trained, "--protocol", protocol, *sizes, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("segmentation", "Segmentation needs the class of every pixel, which ImageFolder does not know; use Segment"),
        ("unsupervised-segmentation", "UnsupervisedSegmentation needs images whose objects are annotated, and ImageF"),
    ],
)
def test_refuses_images_that_are_not_annotated(
    hpm: Hpm, trained: Path, tmp_path: Path, capsys: Any, protocol: str, message: str
) -> None:
    for part in ("train", "val"):
        (tmp_path / "images" / part / "a").mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "images" / part / "a" / "0.png")
    folder = [
        "Trainer.source = @ImageFolder()",
        f"ImageFolder.root = '{tmp_path / 'images'}'",
        "ImageFolder.img_size = 16",
    ]
    words = [word for binding in folder for word in ("-b", binding)]
    assert hpm("evaluate", trained, "--protocol", protocol, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
