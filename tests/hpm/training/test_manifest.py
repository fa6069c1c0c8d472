"""What a run says of itself to other programs: its manifest, and how a command ended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from PIL import Image

from hpm.errors import UserError
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.runs.manifest import Manifest
from hpm.runs.metrics_file import MetricsFile
from hpm.runs.outcome import Outcome

Hpm = Callable[..., int]
SHORT = ("-b", "Schedule.epochs = 1", "-b", "Schedule.warmup_epochs = 0", "-b", "Schedule.blr = 1e-4")
PLUGIN = """
import gin

from curriculum import Scheduler


@gin.register
class Half(Scheduler):
    \"\"\"Alpha is 0.5.\"\"\"

    def __call__(self, progress: float) -> float:
        return 0.5
"""


def make_images(folder: Path, count: int) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (20, 20, 3), generator=torch.Generator().manual_seed(number))
                Image.fromarray(pixels.byte().numpy()).save(folder / split / name / f"{number}.png")


def test_a_run_and_its_checkpoints_say_what_they_are(hpm: Hpm, tiny: Path) -> None:
    assert hpm("pretrain", tiny, *SHORT, "-b", "Curriculum.polarity = 'easiest'", "--output", "run") == 0
    manifest = Manifest.read(Path("run/run.json"))
    assert (manifest.name, manifest.target, manifest.alpha_share) == ("run", "pixels", "easy")
    assert (manifest.precision, manifest.init_from, manifest.data.images) == ("fp32", None, 160)
    assert (manifest.grid, manifest.num_heads, manifest.decoder_num_heads) == ((4, 4), 2, 2)
    assert (len(manifest.said["mean"]), len(manifest.said["std"])) == (3, 3)
    (newest, *_) = list_checkpoints(Path("run/checkpoints"))
    assert Checkpoint(newest).manifest == manifest
    assert hpm("pretrain", tiny, *SHORT, "--init-from", newest, "--output", "second") == 0
    assert Manifest.read(Path("second/run.json")).init_from == str(newest.resolve())


def test_the_kind_of_target_is_known_whatever_the_config_looks_like(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first run's target is bound by a macro."""
    tiny.write_text(f"{tiny.read_text()}\nTARGET = @HOG()\nMethod.target = %TARGET\nHOG.cell = 4\n")
    assert hpm("pretrain", tiny, *SHORT, "--output", "hog") == 0
    (newest, *_) = list_checkpoints(Path("hog/checkpoints"))
    assert hpm("pretrain", tiny, *SHORT, "-b", "TARGET = @Pixels()", "--init-from", newest, "--output", "pixels") == 0
    assert "the head starts from initialization: it reconstructs HOG" in " ".join(capsys.readouterr().out.split())
    assert hpm("pretrain", tiny, *SHORT, "--init-from", newest, "--output", "again") == 0
    assert "the head starts from initialization" not in capsys.readouterr().out


def test_a_model_is_loaded_from_any_folder(
    hpm: Hpm, tiny: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its own modules are found where they lay when it was trained, and its images are not looked for."""
    images = tmp_path / "images"
    make_images(images, 9)
    work = tmp_path / "work"
    work.mkdir()
    (work / "half_of_it.py").write_text(PLUGIN)
    bindings = [f"ImageFolder.root = '{images}'", "Trainer.source = @ImageFolder()", "ImageFolder.img_size = 16"]
    tiny.write_text("import half_of_it\n" + tiny.read_text() + "Curriculum.scheduler = @Half()\n" + "\n".join(bindings))
    monkeypatch.chdir(work)
    assert hpm("pretrain", tiny, *SHORT, "--output", tmp_path / "run") == 0
    assert Manifest.read(tmp_path / "run" / "run.json").plugins == {"half_of_it": str(work)}
    shutil.rmtree(images)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    make_images(elsewhere / "images", 8)
    moved = f"ImageFolder.root = '{elsewhere / 'images'}'"
    # In processes of their own, which have not imported the module yet.
    for command in (
        ("export", str(tmp_path / "run"), "--out", "exported"),
        ("evaluate", str(tmp_path / "run"), "--protocol", "knn", "-b", moved, "-b", "KNN.k = 1"),
    ):
        forks.run("hpm", *command, cwd=elsewhere).check_returncode()


def test_a_run_goes_on_with_the_same_images_alone(
    hpm: Hpm, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    make_images(images, 10)
    bindings = [f"ImageFolder.root = '{images}'", "Trainer.source = @ImageFolder()", "ImageFolder.img_size = 16"]
    words = [*SHORT[2:], *(word for binding in bindings for word in ("-b", binding)), "--output", "run", "--resume"]
    assert hpm("pretrain", tiny, "-b", "Schedule.epochs = 1", *words) == 0
    Path("run/summary.json").unlink()
    moved = tmp_path / "moved"
    images.rename(moved)
    assert hpm("pretrain", "--resume", "--output", "run", "-b", f"ImageFolder.root = '{moved}'") == 0
    Path("run/summary.json").unlink()
    for path in (moved / "train" / "cat").iterdir():
        path.rename(path.with_name(f"another-{path.name}"))
    assert hpm("pretrain", "--resume", "--output", "run", "-b", f"ImageFolder.root = '{moved}'") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "was trained on 18 images of ImageFolder, and these are other ones, 18 of ImageFolder" in told


def put_other_images(images: Path) -> None:
    """Other images of the same names, in files of another size."""
    for path in images.glob("train/dog/*.png"):
        Image.new("RGB", (40, 40), "red").save(path)


@pytest.fixture
def folder_run(hpm: Hpm, tiny: Path, tmp_path: Path) -> Path:
    """A run of two steps on 20 images in folders, as if it had been stopped before it was evaluated."""
    make_images(tmp_path / "images", 10)
    bindings = [f"ImageFolder.root = '{tmp_path / 'images'}'", "Trainer.source = @ImageFolder()"]
    bindings += ["ImageFolder.img_size = 16", "Schedule.batch_size = 8", "Loading.num_workers = 0"]
    bindings += ["Monitoring.probes = []", "Monitoring.evaluations = [@KNN()]", "KNN.k = 1"]
    words = (word for binding in bindings for word in ("-b", binding))
    assert hpm("pretrain", tiny, *SHORT, *words, "--output", "run") == 0
    Path("run/summary.json").unlink()
    return tmp_path / "images"


def add_ten(images: Path) -> None:
    for number in range(10):
        shutil.copy(images / "train/cat/0.png", images / f"train/cat/more-{number}.png")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "more": (add_ten, "18 images of ImageFolder, and these are other ones, 27 of ImageFolder"),
    "other content": (put_other_images, "18 images of ImageFolder"),
    "other test images": (lambda images: (images / "val/cat/0.png").unlink(), "20 test images, and these are other"),
}


@pytest.mark.parametrize("before_a_checkpoint", [False, True], ids=["", "before a checkpoint"])
@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_a_run_does_not_go_on_over_other_images_unasked(
    hpm: Hpm,
    folder_run: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    told: str,
    before_a_checkpoint: bool,
) -> None:
    if before_a_checkpoint:
        shutil.rmtree("run/checkpoints")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    change(folder_run)
    assert hpm("pretrain", "--resume", "--output", "run") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert told in message
    first = json.loads(before[Path("run/run.json")])["data"]
    split = first["held_out"]["test"] if "test images" in told else first
    assert f"fingerprint {split['fingerprint']} then" in message
    assert "--other-images" in message
    assert {path: path.read_bytes() for path in before} == before
    assert hpm("pretrain", "--resume", "--other-images", "--output", "run") == 0
    manifest = json.loads(Path("run/run.json").read_text())
    assert manifest["data"] != first
    assert manifest["earlier_data"] == [{"until_step": 0 if before_a_checkpoint else 2, "data": first}]
    assert Manifest.read(Path("run/run.json")).as_json() == manifest
    Path("run/summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", "run") == 0


def test_other_images_go_with_a_resume(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, "--other-images", "--output", "run") == 2
    assert "--other-images goes with --resume" in capsys.readouterr().err


def test_a_run_whose_checkpoints_are_all_damaged_starts_again_from_its_initial_weights(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, *SHORT, "--output", "first") == 0
    (newest, *_) = list_checkpoints(Path("first/checkpoints"))
    assert hpm("pretrain", tiny, *SHORT, "--init-from", newest, "--output", "second") == 0
    ends = [row["loss"] for row in MetricsFile(Path("second/metrics.jsonl")).rows() if "loss" in row]
    Path("second/summary.json").unlink()
    for path in list_checkpoints(Path("second/checkpoints")):
        (path / "state.json").write_text("{")
    assert hpm("pretrain", "--resume", "--output", "second") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"remove second/checkpoints, and --resume starts again from {newest.resolve()}" in told
    shutil.rmtree("second/checkpoints")
    assert hpm("pretrain", "--resume", "--output", "second") == 0
    assert [row["loss"] for row in MetricsFile(Path("second/metrics.jsonl")).rows() if "loss" in row] == ends


def test_damaged_manifests_are_named(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    for text, reason in (
        (None, "run.json is missing"),
        ("{", "cannot be read"),
        ("[]", "is not a run's manifest"),
        ('{"format": 99}', "newer version"),
        ('{"format": 1}', "is damaged"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(UserError, match=reason):
            Manifest.read(path)


def test_how_a_command_ended(hpm: Hpm, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "outcome.json"
    monkeypatch.setenv("HPM_OUTCOME", str(path))
    assert hpm("pretrain", tiny, *SHORT, "--output", "run") == 0
    assert Outcome.read(path) == Outcome("complete")
    assert hpm("pretrain", tiny, "--output", "run") == 2
    ended = Outcome.read(path)
    assert ended is not None
    assert (ended.kind, ended.retryable) == ("error", False)
    assert "already holds a run" in ended.message
    lost = ["-b", "Optimization.max_skipped = 1", "-b", "Schedule.blr = 1e30"]
    assert hpm("pretrain", tiny, *lost, "--output", "lost") == 3
    assert json.loads(path.read_text())["kind"] == "stopped"
    path.unlink()
    monkeypatch.setenv("RANK", "1")
    assert hpm("plan", "nowhere") == 2
    assert not path.exists()
    assert Outcome.read(path) is None
    assert os.environ["HPM_OUTCOME"]
