"""Pictures of real runs: what they show, from which images, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.inference.loading import load_model
from hpm.inference.visualize import _stages, visualize
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify
from hpm.runtime.console import make_console
from hpm.visualization import look
from hpm.visualization.picture import held_out, picture

Hpm = Callable[..., int]


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    """40 steps; checkpoints of step 7, 14, ... are kept."""
    return Path(shutil.copytree(pretrained("Checkpointing.keep_every = 7"), tmp_path / "run", symlinks=True))


@pytest.fixture
def plain(tiny: Path, tmp_path: Path, hpm: Hpm) -> Path:
    """MAE's: no loss predictor, no teacher, random masks; one checkpoint."""
    changes = (
        "MaskedAutoencoder.loss_predictor_depth = None",
        "Method.ema_decay = None",
        "Checkpointing.every = 40",
        "Schedule.epochs = 2",
    )
    options = [part for change in changes for part in ("-b", change)]
    assert hpm("pretrain", tiny, "curricula/random", "--output", tmp_path / "plain", *options) == 0
    return tmp_path / "plain"


def images(folder: Path) -> Path:
    """Files of several sizes, formats and modes, one of them broken, one hidden."""
    generator = np.random.default_rng(0)
    for number, (name, size, mode) in enumerate(
        [
            ("b/wide.jpg", (90, 30), "RGB"),
            ("a/gray.png", (16, 16), "L"),
            ("a/deep/clear.png", (20, 70), "RGBA"),
            ("b/small.PNG", (5, 4), "RGB"),
        ]
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size[1], size[0], {"L": 1, "RGB": 3, "RGBA": 4}[mode]), dtype=np.uint8)
        Image.fromarray(pixels.squeeze(), mode).save(path)
        assert number < 4
    (folder / "a/broken.png").write_text("no picture")
    (folder / "a/.hidden.png").write_text("no picture")
    return folder


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as shown:
        assert shown.format == "PNG"
        shown.load()
        return shown.size


def test_what_a_sheet_shows(run: Path) -> None:
    loaded = load_model(run)
    context = loaded.context()
    shown = held_out(context.source, 4, 5)
    panels = look(context, shown)
    pixels = context.source.denormalize(shown.images)
    assert panels.pixels.shape == panels.seen.shape == panels.reconstruction.shape == (5, 3, 16, 16)
    assert list(panels.maps) == ["predicted loss", "true loss", "attention"]
    assert all(scores.shape == (5, 16) and scores.isfinite().all() for scores in panels.maps.values())
    original, seen, restored = (patchify(x, 4) for x in (pixels, panels.seen, panels.reconstruction))
    visible = (seen == original).all(dim=-1)
    assert panels.visible == 0.25
    assert (visible.sum(dim=1) == 4).all()
    assert (seen[~visible] == 0.5).all()
    torch.testing.assert_close(restored[visible], original[visible])
    assert not torch.allclose(restored[~visible], original[~visible], atol=1e-3)


def test_normalized_pixels_are_given_back_in_the_images_own_contrast(run: Path) -> None:
    """The reconstruction of a patch has the patch's own mean, up to clipping: those well inside [0, 1] tell."""
    context = load_model(run).context()
    shown = held_out(context.source, 4, 20)
    with torch.no_grad():
        for parameter in context.model.reconstructor.head.parameters():
            parameter.zero_()  # then every normalized pixel is 0: its patch's mean
    panels = look(context, shown)
    original, restored = patchify(panels.pixels, 4), patchify(panels.reconstruction, 4)
    hidden = (patchify(panels.seen, 4) == 0.5).all(dim=-1)
    expected = original.reshape(*original.shape[:2], 16, 3)
    # One mean over all of a patch's normalized values, of every channel, as in MAE.
    source = context.source
    mean = patchify(shown.images, 4).mean(dim=-1)[..., None, None] * torch.tensor(source.std) + torch.tensor(
        source.mean
    )
    found = restored.reshape(expected.shape)
    torch.testing.assert_close(found[hidden], mean.clamp(0, 1).expand_as(expected)[hidden], rtol=1e-4, atol=1e-4)


def test_the_picture_of_a_run_in_progress(run: Path, tmp_path: Path) -> None:
    width, height = size_of(picture(load_model(run).context(), tmp_path / "p.png", images=2))
    assert width > 1.5 * height  # seven columns, two rows
    assert size_of(next((run / "pictures").glob("*.png")))[0] == width


def test_sheet_strip_and_timeline_of_a_run(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("visualize", run, "--count", 2) == 0
    assert hpm("visualize", run, "--strip", "--count", 2) == 0
    assert hpm("visualize", run / "checkpoints/latest", "--timeline") == 0
    shown = capsys.readouterr().out
    for name in ("sheet", "strip", "timeline"):
        assert str(run / f"{name}.png") in shown
        assert size_of(run / f"{name}.png")[0] > 300
    assert not list(run.glob("*.partial"))


def test_a_strip_shows_each_checkpoint_as_it_was(run: Path, tmp_path: Path) -> None:
    console = make_console(record=True, width=200)
    out = visualize(run, console, kind="strip", count=1, out=tmp_path / "strip.png")
    width, height = size_of(out)
    assert width > height  # 1 + 6 columns, two rows
    loaded = load_model(run)
    shown = held_out(loaded.source, 4, 2)
    stages = _stages(console, loaded, shown)
    assert [stage.title.partition("\n")[0] for stage in stages] == [f"step {n}" for n in (7, 14, 21, 28, 35, 40)]
    assert stages[-1].title.endswith("epoch 4")
    folder = run / "checkpoints/checkpoint-00000014"
    expected = look(load_model(folder).context(), shown)
    torch.testing.assert_close(stages[1].panels.reconstruction, expected.reconstruction)
    torch.testing.assert_close(stages[1].panels.maps["true loss"], expected.maps["true loss"])
    assert not torch.allclose(stages[0].panels.reconstruction, expected.reconstruction)


def test_without_loss_predictor(hpm: Hpm, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("visualize", plain, "--count", 2) == 0
    assert hpm("visualize", plain, "--timeline") == 0
    assert size_of(plain / "sheet.png")[0] > size_of(plain / "sheet.png")[1]
    capsys.readouterr()
    assert hpm("visualize", plain, "--strip") == 2
    told = capsys.readouterr().err
    assert "has 1 checkpoint" in told
    assert "Checkpointing.keep_every" in told
    assert not (plain / "strip.png").exists()


def test_a_difficulty_of_training_images_alone_is_not_drawn_of_others(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "LossMemory scores images of a training run alone: difficulty and mask are not drawn; memory/pictures has"
    remembers = ["-b", "Curriculum.difficulty = @Cached()", "-b", "Cached.estimator = @EdgeDensity()"]
    for name, words in (("memory", ["curricula/hpm_memory"]), ("cached", ["curricula/edge_density", *remembers])):
        keep = [word for text in ("Schedule.epochs = 2", "Checkpointing.keep_every = 7") for word in ("-b", text)]
        assert hpm("pretrain", tiny, *words, *keep, "--output", name) == 0
        capsys.readouterr()
        assert hpm("visualize", name, "--count", 2) == 0
        assert (told in " ".join(capsys.readouterr().out.split())) == (name == "memory")
        assert hpm("visualize", name, "--count", 2, "--strip") == 0
        assert "not drawn" not in capsys.readouterr().out
    # Two rows of as many columns of images as there are panels: those of the curriculum are missing.
    assert size_of(Path("memory/sheet.png"))[0] < size_of(Path("cached/sheet.png"))[0]


def test_images_of_ones_own(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = images(tmp_path / "mine")
    assert hpm("visualize", run, "--images", folder, "--count", 10, "--out", tmp_path / "mine.png") == 0
    assert "broken.png" in capsys.readouterr().out
    width, height = size_of(tmp_path / "mine.png")
    assert 0.6 < height / width < 0.85  # four readable images, six columns
    assert hpm("visualize", run, "--images", tmp_path / "run/pictures/none") == 2
    assert "none is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert hpm("visualize", run, "--images", tmp_path / "empty") == 2
    assert "empty holds no images" in capsys.readouterr().err


def test_a_published_file_needs_no_data(hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a config whose images are not on this machine."""
    shape = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 1,
        "num_heads": 2,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "loss_predictor_depth": 1,
    }
    config = tmp_path / "far.gin"
    config.write_text(
        "include 'base.gin'\ninclude 'data/image_folder.gin'\ninclude 'curricula/hpm_easy_to_hard.gin'\n"
        + "ImageFolder.img_size = 32\nRuntime.device = 'cpu'\n"
        + "".join(f"MaskedAutoencoder.{name} = {value}\n" for name, value in shape.items())
    )
    torch.manual_seed(0)
    state = MaskedAutoencoder(**shape).encoder.state_dict()
    torch.save({"model": state}, tmp_path / "mae.pth")
    folder = images(tmp_path / "mine")
    assert hpm("visualize", "mae.pth", config, "--images", folder, "--count", 2) == 0
    assert size_of(tmp_path / "sheet.png")[0] > 300
    capsys.readouterr()
    assert hpm("visualize", "mae.pth", config) == 2
    assert "--images FOLDER" in capsys.readouterr().err
    assert hpm("visualize", "mae.pth", config, "--strip", "--images", folder) == 2
    assert "belongs to no run" in capsys.readouterr().err


def test_what_is_refused(hpm: Hpm, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        (["--strip", "--timeline"], "two pictures"),
        (["--timeline", "--images", tmp_path], "--images would change nothing"),
        (["--timeline", "--count", 6, "-b", "Ramp.end = 0.9"], "-b, --count would change nothing"),
        (["--count", 0], "--count 0"),
        (["--out", "picture.jpg"], "end in .png"),
        (["--out", "nowhere/p.png"], "no folder nowhere"),
    ):
        assert hpm("visualize", run, *options) == 2
        assert told in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert hpm("visualize", tmp_path / "other", "--timeline") == 2
    assert "no metrics.jsonl" in capsys.readouterr().err


def test_only_a_picture_of_ours_gives_way(hpm: Hpm, run: Path, tmp_path: Path) -> None:
    for kind in ([], ["--timeline"]):
        out = tmp_path / f"mine{len(kind)}.png"
        words = ["visualize", run, *kind, "--out", out]
        Image.new("RGB", (3, 3)).save(out)
        before = out.read_bytes()
        assert hpm(*words) == 2
        assert out.read_bytes() == before
        out.unlink()
        assert hpm(*words) == 0
        assert hpm(*words) == 0  # over its own
    # Of a published file, whose picture lies where one is by default.
    torch.save(load_model(run).context().model.state_dict(), tmp_path / "weights.pth")
    Image.new("RGB", (3, 3)).save("sheet.png")
    assert hpm("visualize", tmp_path / "weights.pth", run / "config.gin") == 2
    assert size_of(Path("sheet.png")) == (3, 3)


def test_a_strip_leaves_damaged_checkpoints_out(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints/checkpoint-00000009").write_text("no folder")
    (run / "checkpoints/checkpoint-00000010").mkdir()
    (run / "checkpoints/checkpoint-0000001\N{ARABIC-INDIC DIGIT THREE}").mkdir()  # no checkpoint's name
    (run / "checkpoints/checkpoint-00000014/state.json").write_text("{}")
    assert hpm("visualize", run, "--strip", "--count", 1) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("it is left out") == 3
    for path in (run / "checkpoints").glob("checkpoint-*"):
        if path.name not in ("checkpoint-00000009", "checkpoint-00000040"):
            shutil.rmtree(path)
    assert hpm("visualize", run, "--strip", "--count", 1) == 2
    assert "has fewer than two whole checkpoints" in " ".join(capsys.readouterr().err.split())
