"""Runs from the command line: what they write, say and refuse to go on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpm import checkpoint

Hpm = Callable[..., int]


def rows(folder: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_it_should(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluations = "Trainer.evaluations = [@final/KNN(), @LowShot(), @Agreement()]"
    bindings = [evaluations, "final/KNN.baselines = True", "KNN.train_images = 100", "LowShot.labels = 20",
                "LowShot.batch_size = 10", "LowShot.epochs = 1", "Trainer.probe_every = 2", "Trainer.probes = [@KNN()]",
                "KNN.k = 5"]  # fmt: skip
    assert hpm("pretrain", tiny, *(word for b in bindings for word in ("-b", b)), "--output", "run") == 0
    train = [row for row in rows() if row["kind"] == "train"]
    assert [row["step"] for row in train] == list(range(4, 41, 4))
    # 10 steps an epoch, 4 epochs: alpha moves once an epoch, at (epoch + 1) / epochs.
    assert [row["alpha"] for row in train] == [0.5 * (((row["step"] - 1) // 10) + 1) / 4 for row in train]
    assert all(row["unscored"] == 0 for row in train)
    assert {"loss", "reconstruction_loss", "prediction_loss", "prediction_accuracy", "learning_rate",
            "teacher_decay", "images_per_second", "seconds"} <= train[0].keys()  # fmt: skip
    assert [(row["step"], "knn/pretrained" in row) for row in rows() if row["kind"] == "probe"] == [(20, True)]
    assert {path.name for path in Path("run/pictures").iterdir()} == {"step-00000020.png", "step-00000040.png"}
    assert [path.name for path in checkpoint.found(Path("run/checkpoints"))] == [
        "checkpoint-00000040.pt", "checkpoint-00000035.pt",
    ]  # fmt: skip
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["images"] == 640
    told = " ".join(capsys.readouterr().out.split())
    for part in ("low-shot fine-tune", "k-NN on frozen features", "not pre-trained", "Spearman",
                 "run/pictures/step-00000040.png", "pretrain run/config.gin curricula/random"):  # fmt: skip
        assert part in told
    # The command it suggests works.
    assert hpm("pretrain", "run/config.gin", "curricula/random", "-b", "LowShot.draws = 1", "--output", "next") == 0


def test_progress_per_step(hpm: Hpm, tiny: Path) -> None:
    assert hpm("pretrain", tiny, "-b", "Trainer.progress_per = 'step'", "--output", "run") == 0
    train = [row for row in rows() if row["kind"] == "train"]
    assert [row["alpha"] for row in train] == pytest.approx([0.5 * row["step"] / 40 for row in train])


def test_the_loss_falls(hpm: Hpm, tiny: Path) -> None:
    bindings = ["-b", "Trainer.epochs = 12", "-b", "Trainer.blr = 3e-2"]
    assert hpm("pretrain", tiny, "curricula/random", *bindings, "--output", "run") == 0
    losses = [row["reconstruction_loss"] for row in rows() if row["kind"] == "train"]
    assert losses[-1] < 0.95 * losses[0]


def test_dry_run_writes_nothing(hpm: Hpm, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert hpm("pretrain", tiny, "--dry-run") == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "step 2: loss" in capsys.readouterr().out


def test_init_from_starts_at_the_checkpoints_weights(hpm: Hpm, tiny: Path) -> None:
    assert hpm("pretrain", tiny, "--output", "first") == 0
    (newest, _) = checkpoint.found(Path("first/checkpoints"))
    frozen = ["-b", "Trainer.blr = 0.0", "-b", "Trainer.epochs = 2"]
    assert hpm("pretrain", tiny, "--init-from", newest, *frozen, "--output", "second") == 0
    one, other = (
        checkpoint.load(path)["student"] for path in (newest, checkpoint.found(Path("second/checkpoints"))[0])
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    wider = ["-b", "MaskedAutoencoder.embed_dim = 32"]
    assert hpm("pretrain", tiny, "--init-from", newest, *wider, "--output", "third") == 2


def test_a_loss_that_is_not_finite_ends_the_run(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate that explodes; the last good checkpoint is kept and loads."""
    tiny.write_text("import exploding\n" + tiny.read_text() + "Method.target = @Exploding()\nExploding.calls = 30\n")
    Path("exploding.py").write_text(
        "import gin\nfrom hpm.targets import Pixels\n\n\n@gin.register\nclass Exploding(Pixels):\n"
        "    def __init__(self, *, calls: int) -> None:\n        self.left = calls\n\n"
        "    def loss(self, prediction_NMP, target_NMP):\n        self.left -= 1\n"
        "        return super().loss(prediction_NMP, target_NMP) * (float('nan') if self.left < 0 else 1)\n"
    )
    assert hpm("pretrain", tiny, "--output", "run") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "the loss is not finite" in told
    assert "checkpoint-00000028.pt" in told
    state = checkpoint.load(checkpoint.found(Path("run/checkpoints"))[0])
    assert state["step"] == 28
    assert all(tensor.isfinite().all() for tensor in state["student"].values())


def test_warns_of_a_teacher_that_is_slower_than_the_run(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "-b", "Method.teacher_decay = @RampDecay()", "--output", "slow") == 0
    assert "the teacher averages over" in " ".join(capsys.readouterr().out.split())
    assert hpm("pretrain", tiny, "--output", "right") == 0
    assert "the teacher averages over" not in " ".join(capsys.readouterr().out.split())


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    from hpm.errors import UserError

    torch.save({"student": Path("anything")}, tmp_path / "checkpoint-00000001.pt")
    with pytest.raises(UserError, match="not a checkpoint of this program"):
        checkpoint.load(tmp_path / "checkpoint-00000001.pt")
