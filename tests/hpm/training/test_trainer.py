"""Runs from the command line: what they write, say and refuse to go on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.runs import checkpoint
from hpm.runs.manifest import Manifest
from hpm.runtime.devices import choose_precision, set_up

Hpm = Callable[..., int]


def rows(folder: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_should(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluations = "Monitoring.evaluations = [@final/KNN(), @LowShot(), @Agreement()]"
    bindings = [
        evaluations,
        "final/KNN.baselines = True",
        "KNN.train_images = 100",
        "LowShot.labels = 20",
        "LowShot.batch_size = 10",
        "LowShot.epochs = 1",
        "Monitoring.probe_every = 2",
        "Monitoring.probes = [@KNN()]",
        "KNN.k = 5",
    ]
    assert hpm("pretrain", tiny, *(word for b in bindings for word in ("-b", b)), "--output", "run") == 0
    train = [row for row in rows() if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(4, 41, 4))
    # 10 steps an epoch, 4 epochs: alpha moves once an epoch, at (epoch + 1) / epochs.
    assert [row["alpha"] for row in train] == [0.5 * (((row["step"] - 1) // 10) + 1) / 4 for row in train]
    assert all(row["unscored"] == 0 for row in train)
    assert {
        "loss",
        "reconstruction_loss",
        "prediction_loss",
        "prediction_accuracy",
        "learning_rate",
        "ema_decay",
        "images_per_second",
        "seconds",
    } <= train[0].keys()
    (probe,) = [row for row in rows() if row["kind"] == "probe"]
    assert probe["step"] == 20
    assert {name for name in probe if "/" in name} == {"validation/knn/pretrained"}  # the test images are for the end
    (final,) = [row for row in rows() if row["kind"] == "final"]
    assert {"validation/knn/pretrained", "knn/pretrained", "low_shot/scratch"} <= final.keys()
    assert {path.name for path in Path("run/pictures").iterdir()} == {"step-00000020.png", "step-00000040.png"}
    assert [path.name for path in checkpoint.list_checkpoints(Path("run/checkpoints"))] == [
        "checkpoint-00000040",
        "checkpoint-00000035",
    ]
    assert Path("run/checkpoints/latest").resolve() == Path("run/checkpoints/checkpoint-00000040").resolve()
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["images"] == 640
    told = " ".join(capsys.readouterr().out.split())
    for part in (
        "alpha 0.12 -> 0.50",  # the first epoch's, as its rows have it
        "data: DigitScenes, 10 classes, images: 160 train, 40 validation, 48 test",
        "low-shot fine-tuning",
        "k-NN on frozen features",
        "not pre-trained",
        "Spearman",
        "run/pictures/step-00000040.png",
        "pretrain run/config.gin curricula/random",
    ):
        assert part in told
    # The command it suggests works.
    assert hpm("pretrain", "run/config.gin", "curricula/random", "-b", "LowShot.draws = 1", "--output", "next") == 0


def test_progress_per_step(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, "-b", "Trainer.progress_per = 'step'", "--output", "run") == 0
    assert "alpha 0.01 -> 0.50" in capsys.readouterr().out
    train = [row for row in rows() if row["kind"] == "train"]
    assert [row["alpha"] for row in train] == pytest.approx([0.5 * row["step"] / 40 for row in train])


def test_the_loss_falls(hpm: Hpm, tiny: Path) -> None:
    bindings = ["-b", "Schedule.epochs = 12", "-b", "Schedule.blr = 3e-2"]
    assert hpm("pretrain", tiny, "curricula/random", *bindings, "--output", "run") == 0
    losses = [row["reconstruction_loss"] for row in rows() if row["kind"] == "train"]
    assert losses[-1] < 0.95 * losses[0]


def test_dry_run_writes_nothing(hpm: Hpm, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert hpm("pretrain", tiny, "--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "step 2: loss" in capsys.readouterr().out


def test_a_dry_run_tells_what_the_run_would(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is trained, what is labeled, and what the run is too short for."""
    words = ["Method.supervision = @SemiSupervised()", "SemiSupervised.num_classes = 10", "Schedule.epochs = 1"]
    bindings = [word for text in [*words, "Schedule.warmup_epochs = 0.5"] for word in ("-b", text)]
    assert hpm("pretrain", tiny, "image_curricula/self_paced", "--dry-run", *bindings) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "images: ImageLoss, SelfPaced labels: 0.1 of the images of every class, pseudo-labels of the others" in told
    assert "ImageLoss scores no image before the last epoch begins" in told


@pytest.mark.parametrize(
    ("blr", "step", "told"), [(1e38, 2, "Lower Schedule.blr"), (1e-3, 1, "Look at what it starts")]
)
def test_a_dry_run_whose_loss_is_not_finite(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], blr: float, step: int, told: str
) -> None:
    words = ["-b", f"Schedule.blr = {blr}", "-b", "Schedule.warmup_epochs = 0"]
    if step == 1:
        assert hpm("pretrain", tiny, "--output", "first") == 0
        weights = checkpoint.Checkpoint(checkpoint.list_checkpoints(Path("first/checkpoints"))[0]).state_dict("student")
        torch.save({name: 1e30 * value for name, value in weights.items()}, "large.pth")
        words += ["--init-from", "large.pth"]
    assert hpm("pretrain", tiny, "--dry-run", *words) == 3
    said = capsys.readouterr()
    assert f"the loss of step {step} is not finite. {told}" in " ".join(said.err.split())
    assert "everything builds" not in said.out


def test_init_from_starts_at_the_checkpoints_weights(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, "--output", "first") == 0
    (newest, _) = checkpoint.list_checkpoints(Path("first/checkpoints"))
    frozen = ["-b", "Schedule.blr = 0.0", "-b", "Schedule.epochs = 2"]
    assert hpm("pretrain", tiny, "--init-from", newest, *frozen, "--output", "second") == 0
    one, other = (
        checkpoint.Checkpoint(path).state_dict("student")
        for path in (newest, checkpoint.list_checkpoints(Path("second/checkpoints"))[0])
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert hpm("pretrain", tiny, "--init-from", "first", *frozen, "--output", "of-the-run") == 0
    assert Manifest.read(Path("of-the-run/run.json")).init_from == str(newest.resolve())
    # Resumed with the same words, it asks nothing of the run that it no longer needs.
    again = ["--output", "of-the-run", "--resume"]
    assert hpm("pretrain", "--init-from", "second", *again) == 2
    assert "--init-from second is another start" in " ".join(capsys.readouterr().err.split())
    shutil.move("first", "kept")
    for same in ("first", "first/checkpoints/latest", newest):
        assert hpm("pretrain", tiny, "--init-from", same, *frozen, *again) == 0
    # Without a checkpoint of its own, it does.
    Path("of-the-run/summary.json").unlink()
    shutil.rmtree("of-the-run/checkpoints")
    assert hpm("pretrain", tiny, "--init-from", "second", *frozen, *again) == 2
    assert "--init-from second is another start" in " ".join(capsys.readouterr().err.split())
    assert hpm("pretrain", tiny, "--init-from", "first", *frozen, *again) == 2
    assert f"{newest.resolve()} does not exist; a model is" in " ".join(capsys.readouterr().err.split())
    shutil.move("kept", "first")
    assert hpm("pretrain", tiny, "--init-from", "first", *frozen, *again) == 0
    wider = ["-b", "MaskedAutoencoder.embed_dim = 32"]
    assert hpm("pretrain", tiny, "--init-from", newest, *wider, "--output", "third") == 2


def test_init_from_a_model_of_images_that_are_normalized_otherwise(
    hpm: Hpm, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "--output", "run") == 0
    random = np.random.default_rng(0)
    for number in range(40):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"{number}.png"
        )
    bindings = (
        "Trainer.source = @ImageFolder()",
        f"ImageFolder.root = '{tmp_path / 'photos'}'",
        "ImageFolder.img_size = 16",
    )
    others = ("Monitoring.probes = []", "Monitoring.evaluations = []", "ImageFolder.validation_images = 0")
    words = [word for text in (*bindings, *others) for word in ("-b", text)]
    capsys.readouterr()
    assert hpm("pretrain", tiny, "--init-from", "run", "--dry-run", *words) == 0
    told = (
        "ImageFolder normalizes pixels by another mean and deviation than the model was trained with; as in training:"
    )
    assert told in " ".join(capsys.readouterr().out.split())


def test_init_from_a_run_whose_newest_checkpoint_is_damaged(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "-b", "Schedule.epochs = 2", "--output", "first") == 0
    newest, before, *_ = checkpoint.list_checkpoints(Path("first/checkpoints"))
    (newest / "state.json").write_text("{")
    capsys.readouterr()
    assert hpm("pretrain", tiny, "-b", "Schedule.epochs = 2", "--init-from", "first", "--output", "second") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"{newest} is damaged" in told
    assert f"{before} is taken instead" in told
    assert Manifest.read(Path("second/run.json")).init_from == str(before.resolve())


def test_a_run_from_random_weights_is_not_resumed_from_others(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "-b", "Schedule.epochs = 2", "--output", "run") == 0
    for whole in (True, False):
        assert hpm("pretrain", "--init-from", "weights.pth", "--output", "run", "--resume") == 2
        assert "which was started from random weights" in " ".join(capsys.readouterr().err.split())
        if whole:
            shutil.rmtree("run/checkpoints")


def test_init_from_another_kind_of_model_is_one_short_sentence(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "-b", "Schedule.epochs = 2", "--output", "first") == 0
    deeper = ["-b", "MaskedAutoencoder.depth = 3"]
    assert hpm("pretrain", tiny, "--init-from", "first", *deeper, "--output", "second") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "does not fit this model: encoder.blocks.1." in told
    assert "MaskedAutoencoder.depth = 1 would fit" in told
    assert len(told) < 300
    # The same weights mean something else with other heads, and no shape tells.
    for name in ("num_heads", "decoder_num_heads"):
        heads = ["-b", f"MaskedAutoencoder.{name} = 4"]
        assert hpm("pretrain", tiny, "--init-from", "first", *heads, "--output", "second") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"{name} is 2, in this model 4; MaskedAutoencoder.{name} = 2 would fit" in told


def test_a_seed_that_no_generator_takes(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, told in ((2**64, "(-b) must fit into 64 bits"), (2**63 - 1, "must be from -2**62 to 2**62")):
        assert hpm("pretrain", tiny, "--dry-run", "-b", f"Trainer.seed = {seed}") == 2
        assert f"Trainer.seed = {seed} {told}" in capsys.readouterr().err


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("wrapped", ["", "Shuffled"])
def test_data_that_do_not_know_the_object_are_refused(
    wrapped: str, hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bindings = ["Curriculum.difficulty = @ObjectShare()"]
    if wrapped:
        bindings = [f"Curriculum.difficulty = @{wrapped}()", f"{wrapped}.estimator = @ObjectShare()"]
    words = [word for binding in bindings for word in ("-b", binding)]
    assert hpm("pretrain", "fashion_mnist", *words, "--output", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    named = wrapped or "ObjectShare"
    assert f"Curriculum.difficulty = {named} asks which pixels are the object, and FashionMNIST does not know" in told
    assert "use DigitScenes, Composites or StampScenes" in told
    assert not Path("run").exists()


EXPLODING = """
import gin
from hpm.targets import Pixels


@gin.register
class Exploding(Pixels):  # the loss is not a number in the calls from `first` to `last`
    def __init__(self, *, first: int, last: int) -> None:
        self.bad, self.calls = range(first, last + 1), 0

    def loss(self, prediction_NMP, target_NMP):
        self.calls += 1
        return super().loss(prediction_NMP, target_NMP) * (float("nan") if self.calls in self.bad else 1)
"""


@pytest.fixture
def exploding(tiny: Path) -> Path:
    Path(tiny.parent, "exploding.py").write_text(EXPLODING)
    tiny.write_text("import exploding\n" + tiny.read_text() + "Method.target = @Exploding()\nExploding.first = 29\n")
    return tiny


def test_steps_that_are_not_finite_are_skipped_and_counted(
    hpm: Hpm, exploding: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", exploding, "-b", "Exploding.last = 31", "--output", "run") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "step 32: 3 of the last steps skipped, gradient not finite" in told
    skipped = {row["step"]: row["skipped_steps"] for row in rows() if row["kind"] == "train"}
    assert skipped == {step: 3 if step == 32 else 0 for step in range(4, 41, 4)}
    assert all(row["loss"] == row["loss"] for row in rows() if row["kind"] == "train")
    newest = checkpoint.Checkpoint(Path("run/checkpoints/latest"))
    assert all(tensor.isfinite().all() for tensor in newest.state_dict("student").values())
    # AdamW's own count leaves the skipped steps out: they changed nothing.
    assert newest.tensor("optimizer.mask_token.step") == 37


def test_too_many_skipped_steps_end_the_run(hpm: Hpm, exploding: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bindings = ["-b", "Exploding.last = 1000", "-b", "Optimization.max_skipped = 6"]
    assert hpm("pretrain", exploding, *bindings, "--output", "run") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "8 steps in a row were skipped, up to step 36" in told
    assert "checkpoint-00000035" in told
    newest = checkpoint.Checkpoint(Path("run/checkpoints/checkpoint-00000035"))
    assert all(tensor.isfinite().all() for tensor in newest.state_dict("student").values())


@pytest.mark.parametrize(("first", "code"), [(39, 3), (40, 0)])
def test_a_run_whose_last_steps_are_skipped_has_diverged(
    hpm: Hpm, exploding: Path, capsys: pytest.CaptureFixture[str], first: int, code: int
) -> None:
    """However few they are, unless it is a single one, as fp16 may skip; that is told."""
    bindings = ["-b", f"Exploding.first = {first}", "-b", "Exploding.last = 40", "-b", "Monitoring.evaluations = []"]
    assert hpm("pretrain", exploding, *bindings, "--output", "run") == code
    printed = capsys.readouterr()
    if code:
        assert "the last 2 of 40 steps were skipped; the last good checkpoint is" in printed.err
        assert not Path("run/summary.json").exists()
    else:
        assert "1 of 40 steps were skipped: their gradient was not finite" in printed.out
        assert json.loads(Path("run/summary.json").read_text())["skipped_steps"] == 1


def test_warns_of_a_teacher_that_is_slower_than_the_run(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "-b", "Method.ema_decay = @RampDecay()", "--output", "slow") == 0
    assert "the teacher averages over" in " ".join(capsys.readouterr().out.split())
    assert hpm("pretrain", tiny, "--output", "right") == 0
    assert "the teacher averages over" not in " ".join(capsys.readouterr().out.split())


def test_a_cpu_computes_in_fp32_unless_told_otherwise() -> None:
    assert choose_precision("auto", torch.device("cpu")) == "fp32"
    set_up(torch.device("cpu"), "bf16", deterministic=False)
    assert torch.get_float32_matmul_precision() == "highest"  # what is left in float32 stays exact, and fast


def test_evaluations_of_a_compiled_run_compile_nothing(hpm: Hpm, tiny: Path) -> None:
    """Their batches have other shapes than training's: compiling each would take longer than it saves."""
    from torch._dynamo.utils import counters

    def graphs(*more: str) -> int:
        torch._dynamo.reset()
        counters.clear()
        words = ["Runtime.compile = 'blocks'", "Schedule.epochs = 2", *more]
        bindings = [word for binding in words for word in ("-b", binding)]
        assert hpm("pretrain", tiny, "--output", f"run{len(more)}", *bindings) == 0
        return counters["stats"]["unique_graphs"]

    evaluations = "Monitoring.evaluations = [@KNN(), @Agreement()]"
    assert 0 < graphs("Monitoring.evaluations = []") == graphs(evaluations, "Monitoring.probe_every = 1")
