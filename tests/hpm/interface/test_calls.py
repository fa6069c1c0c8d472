"""`hpm.train`, `hpm.load` and `hpm.evaluate` do what the commands do, and say in a sentence what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from forks import Forks
from PIL import Image

import hpm as interface
from curriculum import Mask
from hpm.errors import ToldError

Pretrained = Callable[..., Path]


@pytest.fixture
def run(pretrained: Pretrained, tmp_path: Path) -> interface.Run:
    """A copy of the tiny run."""
    shutil.copytree(pretrained(), tmp_path / "run", symlinks=True)
    return interface.Run(tmp_path / "run")


@pytest.fixture
def model(pretrained: Pretrained) -> interface.Model:
    return interface.load(pretrained())


def test_a_run_knows_what_it_recorded(run: interface.Run) -> None:
    summary = json.loads((run.path / "summary.json").read_text())
    assert run.is_complete
    assert run.metrics == summary["metrics"]
    assert run.summary["steps"] == 40
    assert run.config == (run.path / "config.gin").read_text()
    assert [path.suffix for path in run.pictures] == [".png"] * len(run.pictures)
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    steps, losses = run.history("loss")
    assert list(zip(steps.tolist(), losses.tolist(), strict=True)) == expected
    assert {"loss", "alpha"} <= set(run.metric_names())
    with pytest.raises(interface.UserError, match=r"has no metric 'los'. Did you mean loss\?"):
        run.history("los")


def test_a_run_that_is_not_complete(run: interface.Run) -> None:
    (run.path / "summary.json").unlink()
    assert not run.is_complete
    with pytest.raises(interface.UserError, match=r"is not complete: hpm.train\(.*resume=True\) continues it"):
        run.metrics  # noqa: B018
    assert len(run.history("loss")[0])
    with pytest.raises(interface.UserError, match="is not a run"):
        interface.Run(run.path.parent)


def test_a_run_goes_on_from_where_it_was_stopped(run: interface.Run, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(run.path, half, symlinks=True)
    shutil.rmtree(half / "checkpoints" / "checkpoint-00000040")
    (half / "summary.json").unlink()
    again = interface.train(output=half, resume=True, quiet=True)
    assert again.metrics == run.metrics
    assert again.path == half.resolve()
    with pytest.raises(interface.UserError, match="already holds a run"):
        interface.train("quickstart", output=half, quiet=True)


def test_training_says_what_the_command_says(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bindings = ["Schedule.epochs = 1", "Schedule.warmup_epochs = 0"]
    interface.train(tiny, bindings=bindings, output=tmp_path / "loud")
    assert "run folder" in capsys.readouterr().out
    interface.train(tiny, bindings=bindings, output=tmp_path / "quiet", quiet=True)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_features_are_those_that_the_command_embeds(
    run: interface.Run, hpm: Callable[..., int], tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        pixels = generator.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    assert hpm("embed", run.path, folder, "--out", tmp_path / "features.parquet") == 0
    expected = np.array(pq.read_table(tmp_path / "features.parquet")["embedding"].to_pylist(), dtype=np.float32)
    model = interface.load(run)
    images = model.read_images(sorted(folder.iterdir()))
    assert images.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(model.features(images).numpy(), expected)
    assert model.features(images, pool="token").shape == (3, 16)
    with pytest.raises(interface.UserError, match="pool = 'max' is unknown"):
        model.features(images, pool="max")
    (folder / "4.png").write_text("no image")
    with pytest.raises(interface.UserError, match=r"4\.png"):
        model.read_images([folder / "4.png"])


def test_masks_follow_the_difficulty_as_far_as_alpha_says(model: interface.Model) -> None:
    """At the end of the tiny run alpha is 0.5: of 12 masked patches the 6 hardest are masked for their scores."""
    images = model.validation_images(5)
    scores_NL = model.difficulty(images)
    mask = model.draw_mask(images)
    assert isinstance(mask, Mask)
    assert scores_NL.shape == (5, 16)
    assert (mask.visible.shape, mask.masked.shape) == ((5, 4), (5, 12))
    hardest_N6 = scores_NL.topk(6, dim=1).indices
    assert bool(mask.to_bool().gather(1, hardest_N6).all())
    early = model.draw_mask(images, progress=0.0)
    assert not bool(early.to_bool().gather(1, hardest_N6).all())
    assert torch.equal(model.draw_mask(images).masked, mask.masked)
    assert not torch.equal(model.draw_mask(images, seed=1).masked, mask.masked)
    with pytest.raises(interface.UserError, match=r"progress = 1\.5 must be from 0 to 1"):
        model.draw_mask(images, progress=1.5)


def test_a_reconstruction_keeps_what_was_visible(model: interface.Model) -> None:
    images = model.validation_images(2)
    mask = model.draw_mask(images)
    shown, restored = model.pixels(images), model.reconstruct(images, mask)
    assert restored.shape == images.shape
    hidden = mask.to_bool().view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(images)
    torch.testing.assert_close(restored[~hidden], shown[~hidden])
    assert not torch.allclose(restored[hidden], shown[hidden], atol=1e-3)


def test_using_a_model_changes_nothing_of_it(model: interface.Model) -> None:
    images = model.validation_images(2)
    before = {name: tensor.clone() for name, tensor in model.masked_model.state_dict().items()}
    training = model.masked_model.training
    features = model.features(images)
    model.difficulty(images)
    model.reconstruct(images, model.draw_mask(images))
    assert model.masked_model.training == training
    assert not features.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.masked_model.state_dict().items())


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (np.zeros((2, 3, 16, 16), dtype=np.float32), "these are a ndarray"),
        (torch.zeros(3, 16, 16), r"these are torch.float32 \[3, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), "these are torch.uint8"),
        (torch.zeros(2, 3, 32, 32), r"these are \[2, 3, 32, 32\]"),
        (torch.zeros(2, 1, 16, 16), r"these are \[2, 1, 16, 16\]"),
        (torch.zeros(0, 3, 16, 16), r"\[0, 3, 16, 16\]"),
    ],
)
def test_images_are_what_the_model_sees(images: object, told: str, model: interface.Model) -> None:
    mask = model.draw_mask(model.validation_images(2))
    for ask in (model.features, model.difficulty, model.draw_mask, lambda given: model.reconstruct(given, mask)):
        with pytest.raises(interface.UserError, match=rf"float32 tensor \[N, 3, 16, 16\], and.*{told}"):
            ask(images)  # type: ignore[operator]


def test_a_mask_is_of_the_same_images(model: interface.Model) -> None:
    images = model.validation_images(3)
    mask = model.draw_mask(images)
    for wrong in (mask.to_bool(), model.draw_mask(images[:2]), None):
        with pytest.raises(interface.UserError, match="mask must be a Mask of these 3 images of 16 patches each"):
            model.reconstruct(images, wrong)  # type: ignore[arg-type]


def test_data_are_read_whatever_the_program_has_set(model: interface.Model) -> None:
    expected = model.validation_images(3)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        found = model.validation_images(3)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_the_teacher_has_weights_of_its_own(pretrained: Pretrained, model: interface.Model) -> None:
    teacher = interface.load(pretrained(), weights="teacher")
    images = model.validation_images(2)
    assert not torch.equal(teacher.features(images), model.features(images))
    assert "teacher" in repr(teacher)
    with pytest.raises(interface.UserError, match="students is unknown"):
        interface.load(pretrained(), weights="students")


def test_a_difficulty_of_training_images_alone_says_so(pretrained: Pretrained) -> None:
    model = interface.load(pretrained("Curriculum.difficulty = @LossMemory()"))
    images = model.validation_images(2)
    for ask in (model.difficulty, model.draw_mask):
        with pytest.raises(interface.UserError, match="LossMemory knows the losses of training images alone"):
            ask(images)  # type: ignore[operator]
    random = model.draw_mask(images, progress=0.0)
    assert random.masked.shape == (2, 12)


def test_an_evaluation_gives_what_its_file_keeps(run: interface.Run) -> None:
    found = interface.evaluate(run, "knn", "rankme", quiet=True)
    assert list(found) == ["knn", "rankme"]
    for protocol, entry in found.items():
        assert json.loads((run.path / f"evaluation-{protocol}.json").read_text()) == [entry]
    accuracy = found["knn"]["metrics"]["knn/pretrained"]
    assert accuracy["values"] == [accuracy["mean"]]
    assert accuracy["mean"] * 48 == pytest.approx(round(accuracy["mean"] * 48), abs=1e-4)  # of 48 test images


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: interface.train("quickstrat"), "no config file 'quickstrat'. Did you mean quickstart"),
        (lambda: interface.train(), "name at least one config"),
        (lambda: interface.train("quickstart", bindings=["Ramp.endd = 1"]), "Did you mean Ramp.end"),
        (lambda: interface.train("quickstart", bindings="Ramp.endd = 1"), "Did you mean Ramp.end"),
        (lambda: interface.train("quickstart", bindings={"Ramp.end": 1.0}), "bindings must be a list of texts"),  # type: ignore[arg-type]
        (lambda: interface.train(None), "configs must be a path or a name, and None is a NoneType"),  # type: ignore[arg-type]
        (lambda: interface.load(3), "model must be a path or a name, and 3 is a int"),  # type: ignore[arg-type]
        (lambda: interface.train("quickstart", resume=True), "--resume needs --output"),
        (lambda: interface.load("nowhere"), "nowhere"),
        (lambda: interface.evaluate("nowhere", "nkk"), "nkk is unknown"),
        (lambda: interface.Run("nowhere"), "nowhere is not a run"),
    ],
)
def test_mistakes_end_in_a_sentence(
    call: Callable[[], object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(interface.UserError) as error:
        call()
    assert told in str(error.value)
    assert isinstance(error.value, ToldError)
    assert error.value._render_traceback_() == [f"UserError: {error.value}"]
    assert not list(tmp_path.iterdir())


def test_two_processes_train_evaluate_and_train_again(tiny: Path, tmp_path: Path, forks: Forks) -> None:
    """Each call under torchrun meets the other processes anew."""
    (tmp_path / "twice.py").write_text(
        "import os, hpm\n"
        "for folder in ('one', 'two'):\n"
        "    run = hpm.train('tiny.gin', bindings=['Schedule.epochs = 2'], output=folder, quiet=True)\n"
        "    assert run.summary['steps'] > 0\n"
        "    found = hpm.evaluate(run, 'knn', quiet=True)\n"
        "    assert list(found) == (['knn'] if os.environ['RANK'] == '0' else []), found\n"
    )
    done = forks.run("twice.py", cwd=tmp_path, processes=2, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (interface.Run(tmp_path / folder) for folder in ("one", "two"))
    assert first.metrics == second.metrics
    np.testing.assert_array_equal(first.history("loss"), second.history("loss"))
