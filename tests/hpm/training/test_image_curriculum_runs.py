"""Runs under an image curriculum show what its weights say, and a kill or other processes change nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from PIL import Image
from record import assert_same_run, recorded_lines

from curriculum import Batch, Noise, Random, Stream
from curriculum.images import TURN, draw_epoch
from curriculum.noise import hash_words
from hpm.config import parse_config
from hpm.inference.loading import load_model
from hpm.optim.clock import Clock
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.training.batches import batches_from

Hpm = Callable[..., int]
RECORDING = """
Method.curriculum = @RecordingCurriculum()
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @PredictedLoss()
RecordingCurriculum.sampler = @HardestFirst()
Checkpointing.every = 7
Monitoring.evaluations = [@ShownImages()]
"""  # 10 steps an epoch, 4 epochs
CURRICULA = {
    "self_paced": [],
    "prototypes": ["PrototypeDistance.clusters = 5"],
    "hard_images": [],
    "easy_images_first": [],
    "label_noise": [
        "Method.image_curriculum = @ImageCurriculum()",
        "ImageCurriculum.difficulty = @LabelNoise()",
        "ImageCurriculum.selection = @ImageShare()",
        "ImageShare.share = @MetricPaced()",
        "LabelNoise.every = 2",
        "MetricPaced.start = 0.5",
        "MetricPaced.end = 0.9",
    ],
}


@pytest.fixture
def recorded(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + RECORDING)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


def words(config: Path, name: str) -> list[str]:
    """The command of a run."""
    shipped = [] if name == "label_noise" else [f"image_curricula/{name}"]
    bindings = [word for binding in CURRICULA[name] for word in ("-b", binding)]
    return ["pretrain", str(config), *shipped, *bindings]


def drawn(path: Path) -> set[str]:
    return set(recorded_lines(path))


def final(run: Path) -> Checkpoint:
    return Checkpoint(list_checkpoints(run / "checkpoints")[0])


@pytest.mark.parametrize("name", CURRICULA)
def test_killed_in_mid_epoch_it_is_the_same_run(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks, name: str
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "whole.txt"))
    assert hpm(*words(recorded, name), "--output", "whole") == 0
    monkeypatch.setenv("RECORD", str(tmp_path / "killed.txt"))
    for killed_at in (26, 33):  # from the checkpoint in the middle of an epoch, and across the next one's start
        command = words(recorded, name) if killed_at == 26 else ["pretrain", "--resume"]
        dead = forks.run("hpm", *command, "--output", "killed", env={**os.environ, "KILL_AT": str(killed_at)})
        assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hpm("pretrain", "--resume", "--output", "killed") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert drawn(tmp_path / "whole.txt") == drawn(tmp_path / "killed.txt")
    lines = [line.split(" ") for line in drawn(tmp_path / "whole.txt")]
    assert len(lines) == 40 * 16
    state = final(tmp_path / "whole")
    times = Counter(int(line[2]) for line in lines)
    assert state.tensor("images.shown").tolist() == [times[image] for image in range(160)]
    for epoch in range(4):
        rows = [line for line in lines if int(line[0]) // 10 == epoch]
        crops = {(line[2], line[3]) for line in rows}
        assert len(rows) == 160
        assert len(crops) > 150  # an image that is shown again is cropped anew; of 16 pixels there are not many crops
    assert max(times.values()) > 4  # some were shown more often than once in an epoch


@pytest.mark.parametrize("name", CURRICULA)
def test_two_processes_show_what_one_does(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks, name: str
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "one.txt"))
    assert hpm(*words(recorded, name), "--output", "one") == 0
    both = forks.run(
        "hpm",
        *words(recorded, name),
        "--output",
        "two",
        env={**os.environ, "RECORD": str(tmp_path / "two.txt")},
        processes=2,
    )
    assert both.returncode == 0, both.stderr
    one, two = (
        {tuple(line.split(" ")[:4]) for line in drawn(tmp_path / f"{processes}.txt")} for processes in ("one", "two")
    )
    assert len(one & two) >= 0.9 * 640  # scores that are all but equal may change places
    scores = [final(tmp_path / processes).tensor("images.scores") for processes in ("one", "two")]
    assert torch.equal(scores[0].isnan(), scores[1].isnan())
    close = (scores[0] - scores[1]).abs() < 1e-3
    assert float((close | scores[0].isnan()).float().mean()) > 0.9


def test_the_first_epoch_is_that_of_a_run_without(recorded: Path) -> None:
    """And those after it are drawn by the weights that the epoch began with."""
    with_images = parse_config([str(recorded), "image_curricula/hard_images"]).build()
    without = parse_config([str(recorded)]).build()
    assert torch.equal(with_images.loader.order(0), without.loader.order(0))
    weights = torch.rand(160, dtype=torch.float64)
    with_images.loader.weights = weights
    order = with_images.loader.order(3)
    assert torch.equal(order, draw_epoch(weights, 160, seed=0, epoch=3))
    samples = [int(index) for (batch,) in with_images.loader.epoch(3) for index in batch.indices]
    assert samples == (order % TURN).tolist()


def test_workers_load_the_same_crops_of_images_that_are_shown_again(recorded: Path) -> None:
    batches = []
    for workers in (0, 2):
        trainer = parse_config([str(recorded)], [f"Loading.num_workers = {workers}"]).build()
        trainer.loader.weights = torch.rand(160, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 4
        batches.append([batch for (batch,) in trainer.loader.epoch(1)])
    for here, there in zip(*batches, strict=True):
        assert torch.equal(here.indices, there.indices)
        assert torch.equal(here.boxes, there.boxes)
        assert torch.equal(here.images, there.images)


def test_a_pass_measures_the_loss_of_every_image_under_random_masks(recorded: Path) -> None:
    trainer = parse_config([str(recorded), "image_curricula/self_paced"]).build()
    trainer.build_step()
    list(batches_from(trainer, Clock(10, 10, 4)))
    images, method = trainer.method.image_curriculum, trainer.method
    assert images is not None
    seed = hash_words(0, Stream.IMAGE_LOSS_MASKS)
    for image in (0, 77, 159):
        pixels = trainer.source.load(trainer.source.train(), torch.tensor([image]))
        batch, noise = Batch(pixels, 4), Noise(seed, 1, torch.tensor([image]))
        mask = Random()(None, alpha=0.0, num_masked=12, grid=batch.grid, noise=noise)
        expected = method.student_loss(pixels, mask).mean()
        torch.testing.assert_close(images.scores[image], expected, rtol=1e-5, atol=1e-6)
    # Half of the images are below the first threshold.
    assert int((images.weights > 0).sum()) == 80


def test_a_trained_model_knows_which_images_it_was_shown(
    tiny: Path, hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = "Monitoring.evaluations = [@ShownImages()]"
    assert hpm("pretrain", tiny, "image_curricula/easy_images_first", "-b", probes, "--output", "run") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "images: ImageLoss, ImageShare" in shown
    assert (tmp_path / "run" / "pictures" / "step-00000040-shown-images.png").is_file()
    state = final(tmp_path / "run")
    images = load_model(tmp_path / "run").context().image_curriculum
    assert images is not None
    assert torch.equal(images.shown, state.tensor("images.shown"))
    assert torch.equal(images.scores, state.tensor("images.scores"))
    assert hpm("evaluate", "run", "--protocol", "shown-images") == 0


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> list[str]:
    """The command of a run on a folder of images of one class."""
    for split in ("train", "val"):
        (tmp_path / "images" / split / "one").mkdir(parents=True)
        for number in range(40):
            Image.new("RGB", (20, 20), (6 * number, 0, 0)).save(tmp_path / "images" / split / "one" / f"{number}.png")
    text = tiny.read_text().replace("include 'data/digit_scenes.gin'", "include 'data/image_folder.gin'")
    lines = [line for line in text.splitlines() if not line.startswith("DigitScenes")]
    (tmp_path / "folder.gin").write_text("\n".join([*lines, "Monitoring.evaluations = []"]))
    return ["pretrain", "folder.gin", "--output", "run", "-b", f"ImageFolder.root = '{tmp_path / 'images'}'"]


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_other_images_are_refused_when_a_run_goes_on(
    folder: list[str], hpm: Hpm, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert hpm(*folder, "image_curricula/hard_images") == 0
    (tmp_path / "run" / "summary.json").unlink()
    (tmp_path / "images" / "train" / "one" / "3.png").unlink()
    capsys.readouterr()
    assert hpm("pretrain", "--resume", "--output", "run", "--other-images") == 2
    assert "its curriculum remembers something of each training image" in told(capsys)


def test_images_of_one_class_are_refused_where_classes_are_compared(
    folder: list[str], hpm: Hpm, capsys: pytest.CaptureFixture[str]
) -> None:
    bindings = [
        "Method.image_curriculum = @ImageCurriculum()",
        "ImageCurriculum.difficulty = @LabelNoise()",
        "ImageCurriculum.selection = @ImageShare()",
        "ImageShare.share = 0.5",
    ]
    assert hpm(*folder, *(word for binding in bindings for word in ("-b", binding))) == 2
    assert "LabelNoise compares classes, and the training images of ImageFolder are of one class" in told(capsys)
