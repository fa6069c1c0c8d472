"""Runs that learn from labels beside: resumed, divided, evaluated, exported, planned and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from safetensors.torch import load_file

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.methods import operations
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.training.cautions import cautions

Hpm = Callable[..., int]
SEMI = """
Method.supervision = @SemiSupervised()
SemiSupervised.num_classes = 10
SemiSupervised.labeled_share = 0.25
SemiSupervised.confidence = 0.0
SemiSupervised.share = @share/Ramp()
SemiSupervised.window = 3
share/Ramp.start = 0.2
share/Ramp.end = 0.8
Method.prediction_loss = @AbsoluteLoss()
AbsoluteLoss.standardized = False
Schedule.epochs = 2
Checkpointing.every = 10
Monitoring.evaluations = []
Monitoring.log_every = 4
"""  # 20 steps of 16 images; an interval ends after step 8, and a checkpoint follows step 10
MEASURED = ("supervised_loss", "pseudo_label_loss", "pseudo_labels_taken", "pseudo_label_accuracy")


@pytest.fixture
def semi(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny.write_text(tiny.read_text() + SEMI)
    monkeypatch.chdir(tiny.parent)
    return tiny


def rows_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["kind"] == "train"]


def newest(run: Path) -> Checkpoint:
    return Checkpoint(list_checkpoints(run / "checkpoints")[0])


def bind(*bindings: str) -> list[str]:
    return [word for binding in bindings for word in ("-b", binding)]


def test_twenty_steps_and_a_resume_give_the_same_bits(
    semi: Path, hpm: Hpm, tmp_path: Path, same_end: Callable[[Path], None]
) -> None:
    assert hpm("pretrain", semi, "--output", "run") == 0
    rows = rows_of(tmp_path / "run")
    assert all(name in row for row in rows for name in MEASURED[:3])
    assert any(0 < row["pseudo_labels_taken"] < 1 for row in rows)
    assert all(0 <= row["pseudo_label_accuracy"] <= 1 for row in rows if row["pseudo_labels_taken"])
    same_end(tmp_path / "run")
    again = rows_of(tmp_path / "half")
    assert [[row.get(name) for name in MEASURED] for row in again] == [
        [row.get(name) for name in MEASURED] for row in rows
    ]
    saved = newest(tmp_path / "run")
    kept = saved.tensor("supervision.kept_WB")
    assert kept.shape == (3, 16)
    assert 0.1 < float(kept.isnan().float().mean()) < 0.5  # the labeled images
    for model in ("student", "teacher"):
        assert saved.tensor(f"{model}.class_head.weight").abs().max() > 0


def test_two_processes_are_as_one(semi: Path, hpm: Hpm, tmp_path: Path, forks: Forks) -> None:
    """Replicated and sharded."""
    settings = bind("SemiSupervised.difficulty = 'reconstruction_loss'", "Schedule.epochs = 1")
    settings += bind("Schedule.warmup_epochs = 0.5")
    assert hpm("pretrain", semi, *settings, "--output", "alone") == 0
    one = newest(tmp_path / "alone")
    for sharding in ("none", "fsdp"):
        shared = [*settings, *bind(f"Runtime.sharding = '{sharding}'")]
        ran = forks.run("hpm", "pretrain", semi, *shared, "--output", sharding, env=dict(os.environ), processes=2)
        assert ran.returncode == 0, ran.stderr
        two = newest(tmp_path / sharding)
        assert set(one.names()) == set(two.names())
        for name in one.names():
            if name.startswith(("student", "teacher", "supervision")) and not name.endswith("bias"):
                torch.testing.assert_close(
                    one.tensor(name), two.tensor(name), atol=1e-4, rtol=1e-3, equal_nan=True, msg=name
                )
        for row, other in zip(rows_of(tmp_path / "alone"), rows_of(tmp_path / sharding), strict=True):
            assert [row[name] for name in MEASURED[:3]] == pytest.approx(
                [other[name] for name in MEASURED[:3]], abs=1e-5
            )
            assert row["pseudo_labels_taken"] > 0


def test_schedulers_follow_what_labels_teach_and_are_resumed(
    semi: Path, hpm: Hpm, tmp_path: Path, same_end: Callable[[Path], None]
) -> None:
    """One of the curriculum's, and one of the supervision's own."""
    watching = bind(
        "SemiSupervised.share = @share/Plateau()",
        "share/Plateau.start = 0.2",
        "share/Plateau.end = 1.0",
        "share/Plateau.step = 0.1",
        "share/Plateau.patience = 1",
        "share/Plateau.metric = 'supervised_loss'",
        "Curriculum.scheduler = @MetricPaced()",
        "MetricPaced.metric = 'pseudo_label_loss'",
    )
    config = semi.with_name("watching.gin")
    unused = ("share/Ramp", "Ramp.")
    lines = [line for line in semi.read_text().splitlines() if not line.startswith(unused)]
    config.write_text("\n".join(lines))
    assert hpm("pretrain", config, *watching, *bind("Monitoring.log_every = 2"), "--output", "run") == 0
    state = newest(tmp_path / "run").values["supervision"]["share"]
    assert any(value for value in state.values())
    same_end(tmp_path / "run")
    half = newest(tmp_path / "half").values
    assert half["supervision"]["share"] == state
    assert half["curriculum"] == newest(tmp_path / "run").values["curriculum"]


def test_others_use_the_encoder_as_of_any_run(
    semi: Path, hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    semi.write_text(
        semi.read_text().replace("Schedule.epochs = 2", "Schedule.epochs = 1\nSchedule.warmup_epochs = 0.5")
    )
    assert hpm("pretrain", semi, "--output", "run") == 0
    assert hpm("evaluate", "run", "--protocol", "classifier", "-b", "TrainedClassifier.test_images = 30") == 0
    entry = json.loads(Path("run/evaluation-classifier.json").read_text())[-1]
    names = [f"{split}classifier/{model}" for split in ("validation/", "") for model in ("pretrained", "teacher")]
    assert set(entry["metrics"]) == set(names)
    assert hpm("export", "run", "--out", "encoder") == 0
    assert not [name for name in load_file(tmp_path / "encoder/model.safetensors") if "class_head" in name]
    assert hpm("export", "run", "--out", "whole.safetensors", "--format", "safetensors", "--whole") == 0
    assert "class_head.weight" in load_file(tmp_path / "whole.safetensors")
    plain = bind("Method.supervision = None", "Method.prediction_loss = @RelativeLoss()")
    lines = semi.read_text().splitlines()
    without = semi.with_name("plain.gin")
    without.write_text("\n".join(line for line in lines if not line.startswith(("SemiS", "share/", "Absol"))))
    capsys.readouterr()
    for number, start in enumerate(("run", "whole.safetensors")):
        assert hpm("pretrain", without, *plain, "--init-from", start, "--output", f"after-{number}") == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "left out: 2 class_head.*" in said
    assert hpm("evaluate", "after-0", "--protocol", "classifier") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "TrainedClassifier asks the classifier of a semi-supervised run, and this model has none; set" in said
    assert hpm("pretrain", semi, "--init-from", "after-0", "--output", "back") == 0
    assert "as initialized: 2 class_head.*" in " ".join(capsys.readouterr().out.split())
    assert hpm("pretrain", semi, "--init-from", "run", "--output", "on") == 0
    assert "class_head" not in " ".join(capsys.readouterr().out.split())
    first, last = (newest(tmp_path / run).tensor("student.class_head.weight") for run in ("run", "on"))
    assert not torch.equal(first, last)


def test_a_plan_counts_the_classifier_and_the_pseudo_labels(
    semi: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher's pass over the full image and its loss predictor, in the half of the run with a weight."""
    whole = make_plan(parse_config([str(semi)]), images=160)
    assert whole.parameters["classifier"] == 10 * 16 + 10
    work = whole.multiply_adds
    assert work["classifier"] == 160
    model = MaskedAutoencoder(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_num_heads=2
    )
    # The full image once for its class, and once for its losses, which is what this curriculum asks too.
    classified = operations.encoder_multiply_adds(model.to("meta")) + work["classifier"]
    assert work["pseudo-labels"] == pytest.approx(work["teacher"] + classified)
    stepped = [
        "SemiSupervised.pseudo_weight = @weight/Ramp()",
        "weight/Ramp.start = 0.0",
        "weight/Ramp.end = 1.0",
        "weight/Ramp.begin = 0.5",
    ]
    half = make_plan(parse_config([str(semi)], stepped), images=160)
    assert half.multiply_adds["pseudo-labels"] == work["pseudo-labels"] / 2
    assert whole.step_flops - half.step_flops == pytest.approx(2 * 16 * work["pseudo-labels"] / 2)
    assert hpm("plan", semi, "--images", "160") == 0
    shown = capsys.readouterr().out
    assert "classifier" in shown
    assert "pseudo-labels, on average" in shown


def test_data_of_other_classes_are_refused(semi: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", semi, *bind("SemiSupervised.num_classes = 9"), "--output", "run") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "SemiSupervised.num_classes = 9, and DigitScenes has 10; set it to 10" in told
    assert not Path("run").exists()


def test_no_image_curriculum_reads_hidden_labels(semi: Path) -> None:
    """It would choose images by labels that training must not see."""
    noisy = [
        "Method.image_curriculum = @ImageCurriculum()",
        "ImageCurriculum.difficulty = @LabelNoise()",
        "ImageCurriculum.selection = @ImageShare()",
        "ImageShare.share = 0.5",
    ]
    with pytest.raises(UserError, match=r"LabelNoise reads the labels of all training images, and Method.supervision"):
        parse_config([str(semi)], noisy).build()
    all_labeled = ["SemiSupervised.labeled_share = 1.0", "SemiSupervised.pseudo_weight = 0.0"]
    assert parse_config([str(semi)], noisy + all_labeled).build().method.image_curriculum is not None


def test_a_teacher_that_gives_pseudo_labels_is_one_that_is_asked(semi: Path) -> None:
    """It may be too slow, and a plan advises nobody to do without it."""
    slow = ["HorizonDecay.fraction = 0.5", "Curriculum.difficulty = @Uniform()"]
    found = {}
    for weight in (0.0, 1.0):
        config = parse_config([str(semi)], [*slow, f"SemiSupervised.pseudo_weight = {weight}"])
        trainer = config.build()
        notes = make_plan(config, images=160).notes
        told = cautions(trainer.method, trainer.clock, trainer.image_sizes)
        found[weight] = (
            any("the teacher averages over 50% of the run" in line for line in told),
            any("without a moving average, which nothing asks" in note for note in notes),
            any("no mask follows the loss predictor" in note for note in notes),
        )
    assert found == {0.0: (False, True, True), 1.0: (True, False, False)}
