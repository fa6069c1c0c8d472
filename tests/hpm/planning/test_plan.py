"""Plans: what a configuration costs, what is told of it, and that a plan refuses what its run would."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.planning.plan import Plan, make_plan
from hpm.planning.report import show_plan
from hpm.runtime.console import make_console

# Sizes and channels that the tiny config binds for its scenes, for other data.
GRAY = ["IMG_SIZE = 28", "IN_CHANS = 1"]
FOLDER = ["ImageFolder.img_size = %IMG_SIZE"]


def make(path: Path, *bindings: str, **options: Any) -> Plan:
    return make_plan(parse_config([str(path)], bindings), **options)


def shown(made: Plan) -> str:
    console = make_console(width=120, file=io.StringIO())
    show_plan(console, made)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_a_plugin_that_cannot_be_counted_is_told(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("peeking_part.py").write_text(
        "import gin\nfrom tests_peeking import Peeking\ngin.register('Peeking', module='peeking_part')(Peeking)\n"
    )
    Path("tests_peeking.py").write_text(
        "from curriculum import DifficultyEstimator\n"
        "class Peeking(DifficultyEstimator):\n"
        "    def __call__(self, batch, teacher, *, num_masked, noise):\n"
        "        return batch.images.mean().item() * batch.images[:, 0]\n"
    )
    tiny.write_text(f"import peeking_part\n{tiny.read_text()}Curriculum.difficulty = @Peeking()\n")
    made = make(tiny)
    assert any("what Peeking asks" in note for note in made.notes)
    assert made.multiply_adds["teacher"] == 0


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("MaskedAutoencoder.embed_dim = 10000000", "embed_dim = 10000000 in 1 blocks of mlp_ratio = 4.0 makes 1.2e+15"),
        ("MaskedAutoencoder.decoder_embed_dim = 10000000", "decoder_embed_dim = 10000000 in 1 blocks"),
        ("MaskedAutoencoder.depth = 1000000", "in 1000000 blocks of mlp_ratio = 4.0 makes"),
        ("MaskedAutoencoder.loss_predictor_depth = 1000000", "must be at least 0 and at most 1000"),
        ("MaskedAutoencoder.mlp_ratio = 1e12", "of mlp_ratio = 1000000000000.0 makes"),
        ("IMG_SIZE = 16000000", "make images of 7.7e+14 values in 1.6e+13 patches"),
        ("MaskedAutoencoder.in_chans = 1000000000", "make images of 2.6e+11 values"),
    ],
)
def test_a_model_that_no_machine_holds_is_refused_before_it_is_built(tiny: Path, binding: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        make(tiny, binding)
    assert told in str(error.value)


TINY_SHAPE: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "decoder_embed_dim": 16,
    "decoder_depth": 1,
    "decoder_num_heads": 2,
    "loss_predictor_depth": 1,
}


def test_memory(tiny: Path) -> None:
    made = make(tiny, "Runtime.precision = 'fp32'")
    student = sum(made.parameters[part] for part in ("encoder", "reconstructor", "loss predictor"))
    with torch.device("meta"):
        assert student == sum(parameter.numel() for parameter in MaskedAutoencoder(**TINY_SHAPE).parameters())
    assert made.parameters["teacher"] == student
    assert made.memory["weights"] == made.memory["gradients"] == made.memory["teacher"] == 4 * student
    assert made.memory["optimizer"] == 8 * student
    assert made.memory["low-precision weights"] == 0
    parts = make(tiny, "Runtime.precision = 'fp32'", "Schedule.accumulate = 4", gpus=2)
    assert parts.micro_batch == 2
    assert parts.memory["activations"] * 8 == made.memory["activations"]
    shards = make(tiny, "Runtime.sharding = 'fsdp'", gpus=4)
    for purpose in ("weights", "gradients", "optimizer", "teacher"):
        assert shards.memory[purpose] * 4 == made.memory[purpose]
    again = make(tiny, "Runtime.precision = 'fp32'", "Runtime.grad_checkpointing = True")
    assert again.memory["activations"] < made.memory["activations"]
    assert again.step_flops > made.step_flops
    assert again.relative_cost == made.relative_cost
    assert make(tiny, "Method.ema_decay = None", "Curriculum.sampler = @Random()").memory["teacher"] == 0


def test_what_does_not_fit_is_told(tiny: Path) -> None:
    large = ["MaskedAutoencoder.embed_dim = 4096", "MaskedAutoencoder.depth = 12", "Schedule.batch_size = 160"]
    made = make(tiny, *large, device="rtx4090")
    assert not made.fits
    assert "too much for the GeForce RTX 4090" in shown(made)


# Time


def test_hours(tiny: Path) -> None:
    made = make(tiny, gpus=2, device="a100", mfu=0.25)
    assert (made.images, made.epochs, made.batch_size, made.steps) == (160, 4, 16, 40)
    work = made.multiply_adds
    student = work["encoder"] + work["reconstructor"] + work["loss predictor"]
    # alpha is at least 0.125 of 12 masked patches: one hard patch from the first epoch on.
    assert made.teacher_share == 1
    assert made.step_flops == 2 * 16 * (3 * student + work["teacher"])
    assert made.hours == pytest.approx(40 * made.step_flops / (2 * 312e12 * 0.25) / 3600)
    assert made.images_per_second == pytest.approx(640 / made.hours / 3600)
    assert make(tiny, images=1600).steps == 400
    assert make(tiny, "Curriculum.score_every = 4").teacher_share == 0.25


def test_passes_of_an_image_curriculum_are_part_of_the_training(tiny: Path) -> None:
    curriculum = [
        "Method.image_curriculum = @ImageCurriculum()",
        "ImageCurriculum.difficulty = @ImageLoss()",
        "ImageCurriculum.selection = @SelfPaced()",
    ]
    remembers = make(tiny, *curriculum, "ImageLoss.momentum = 0.5")
    assert remembers.image_passes_flops == 0
    assert remembers.flops == remembers.steps * remembers.step_flops
    made = make(tiny, *curriculum, "ImageLoss.momentum = 0.0", "ImageLoss.every = 1")
    work = made.multiply_adds
    # Before each of the four epochs but the first, all 160 images.
    assert made.image_passes_flops == pytest.approx(3 * 160 * 2 * (work["encoder"] + work["reconstructor"]))
    assert made.step_flops == remembers.step_flops
    assert made.flops == remembers.flops + made.image_passes_flops
    assert made.hours / remembers.hours == pytest.approx(made.flops / remembers.flops)


def test_images_of_several_masks(tiny: Path) -> None:
    """Twice the steps of an epoch, of as many operations but the teacher's, who looks at half as many images; the data
    deliver half as many for each.
    """
    single = make(tiny)
    twice = make(tiny, "Schedule.masks_per_image = 2")
    assert (twice.images, twice.epochs, twice.batch_size, twice.steps) == (160, 4, 16, 80)
    teacher = single.multiply_adds["teacher"]
    assert single.teacher_share == 1
    assert twice.multiply_adds == single.multiply_adds | {"teacher": teacher / 2}
    assert single.step_flops - twice.step_flops == pytest.approx(2 * 16 * teacher / 2)
    assert twice.memory == single.memory
    faster = single.step_flops / twice.step_flops
    assert twice.hours == pytest.approx(2 * single.hours / faster)
    assert twice.images_per_second == pytest.approx(faster * single.images_per_second / 2)
    assert "80 steps, 4 epochs of 160 images in 2 masks each, in batches of 16" in shown(twice)
    assert "masks" not in shown(single)


def test_advice_leaves_the_masks_of_an_image_together(tiny: Path) -> None:
    """Of the numbers of micro-batches that fit, one into which whole images go."""
    large = ["MaskedAutoencoder.embed_dim = 1024", "MaskedAutoencoder.depth = 12", "Schedule.batch_size = 24000"]
    advised = []
    for masks in (1, 4000):
        told = shown(make(tiny, *large, f"Schedule.masks_per_image = {masks}", device="v100", images=10**6))
        advised += re.findall(r"Schedule\.accumulate = (\d+)", told)
    assert advised == ["4", "6"]


def test_dense_prediction_is_a_part_of_its_own(tiny: Path) -> None:
    made, plain = make(tiny, "Method.dense_prediction_every = 3"), make(tiny)
    assert made.dense_share == 14 / 40  # steps 0, 3, ..., 39
    more = made.multiply_adds["dense input"] + 3 * made.multiply_adds["dense prediction"]
    assert made.step_flops - plain.step_flops == pytest.approx(2 * 16 * 14 / 40 * more)
    assert made.relative_cost > plain.relative_cost
    assert made.memory["activations"] > plain.memory["activations"]
    assert made.published_multiply_adds == plain.published_multiply_adds
    assert "dense prediction, in 35% of the steps" in shown(made)
    assert "dense" not in shown(plain)


@pytest.mark.parametrize(
    ("name", "device", "precision", "peak"),
    [
        ("auto", "h100", "bf16", 989),
        ("auto", "v100", "fp32", 15.7),
        ("fp16", "v100", "fp16", 125),
        ("tf32", "a100", "tf32", 156),
        ("fp32", "h200", "fp32", 67),
    ],
)
def test_peaks(tiny: Path, name: str, device: str, precision: str, peak: float) -> None:
    made = make(tiny, f"Runtime.precision = '{name}'", device=device)
    assert (made.precision, made.peak) == (precision, peak * 1e12)


@pytest.mark.parametrize(
    ("bindings", "images"),
    [
        ([], 160),
        (["DigitScenes.train_size = 320"], 320),
        (["SIZE = 480", "DigitScenes.train_size = %SIZE"], 480),
        (["SOURCE = @a/DigitScenes()", "Trainer.source = %SOURCE", "a/DigitScenes.train_size = 64"], 64),
        (["Trainer.source = @FashionMNIST()", *GRAY], 55_000),
        (["Trainer.source = @FashionMNIST()", "FashionMNIST.train_size = 100", *GRAY], 100),
        (["Trainer.source = @ImageFolder()", *FOLDER], 1_281_167),
    ],
    ids=str,
)
def test_images_without_reading_any(tiny: Path, bindings: list[str], images: int) -> None:
    made = make(tiny, *bindings)
    assert made.images == images
    assert any("--images" in note for note in made.notes) == (images == 1_281_167)


def test_a_loss_predictor_that_no_mask_follows_is_told(tiny: Path) -> None:
    told = "no mask follows the loss predictor: MaskedAutoencoder.loss_predictor_depth = None trains without it"
    for difficulty, follows in (("LossMemory", False), ("PredictedLoss", True)):
        notes = make(tiny, f"Curriculum.difficulty = @{difficulty}()").notes
        assert any(note.startswith(told) for note in notes) != follows
    with_features = make(tiny, "Curriculum.difficulty = @LossMemory()", "Method.target = @TeacherFeatures()").notes
    assert told in with_features  # which asks for the moving average
    watching = ("Curriculum.scheduler = @MetricPaced()", "MetricPaced.metric = 'prediction_accuracy'")
    for needed in (watching, ["Method.dense_prediction_every = 3"]):  # which would be refused without one
        assert not any(note.startswith(told) for note in make(tiny, *needed).notes)
    without = make(tiny, "Curriculum.difficulty = @LossMemory()", "MaskedAutoencoder.loss_predictor_depth = None").notes
    assert not any("loss predictor" in note for note in without)


def test_feedback_is_told(tiny: Path) -> None:
    made = make(tiny, "Curriculum.scheduler = @MetricPaced()")
    assert made.teacher_share == 1
    assert any("MetricPaced" in note for note in made.notes)


# What a person, and a program, reads


def test_show_and_json(tiny: Path) -> None:
    made = make(tiny)
    text = shown(made)
    for part in (
        "tiny: Ramp, PredictedLoss, HardestFirst",
        "encoder",
        "reconstructor",
        "loss predictor",
        "teacher",
        "activations",
        "40 steps",
        "asked in 100%",
        "30% of 989 TFLOP/s in bf16",
        "an assumption, see --mfu",
        "measured on H100 SXM: 794 TFLOP/s in bf16",
    ):
        assert part in text
    assert json.loads(json.dumps(dataclasses.asdict(made)))["steps"] == 40


@pytest.mark.parametrize(
    ("bindings", "options", "expected"),
    [
        ([], {"device": "h300"}, "--device h300 is unknown; choose one of h200, h100"),
        ([], {"gpus": 0}, "--gpus 0 must be at least 1"),
        ([], {"mfu": 1.5}, "--mfu 1.5 must be"),
        ([], {"mfu": 1e-300}, "--mfu 1e-300 must be a share of the peak, 0.001 to 1"),
        ([], {"images": 0}, "--images 0 must be 1 to"),
        ([], {"images": 10**29}, "must be 1 to 1,000,000,000,000"),
        ([], {"images": 10}, "Schedule.batch_size = 16 must be 1 to 10"),
        (
            [],
            {"gpus": 3},
            "batch_size = 16 must be divisible by Schedule.accumulate = 1 times the number of processes, 3",
        ),
        (["Schedule.epochs = 0"], {}, "Schedule.epochs = 0 must be at least 1"),
        (["Runtime.precision = 'fp8'"], {}, "Runtime.precision = 'fp8' is unknown"),
        (["Runtime.precision = 'bf16'"], {"device": "v100"}, "--device v100 has: fp16, fp32"),
        (["Runtime.sharding = 'ddp'"], {}, "Runtime.sharding = 'ddp' is unknown; choose 'none', 'fsdp'"),
        (["Trainer.progress_per = 'day'"], {}, "Trainer.progress_per = 'day' is unknown"),
        (["Trainer.method = @Uniform()"], {}, "Trainer.method must be a Method"),
        (["MaskedAutoencoder.patch_size = 5"], {}, "MaskedAutoencoder.patch_size = 5 does not divide"),
        (["MaskedAutoencoder.loss_predictor_depth = None"], {}, "PredictedLoss needs the teacher's predicted_loss"),
        (["Trainer.source = @Uniform()"], {}, "Trainer.source must be a"),
        (
            ["IMG_SIZE = 28", "Trainer.source = @FashionMNIST()", "Curriculum.difficulty = @ObjectShare()"],
            {},
            "asks which pixels are the object, and FashionMNIST does not know",
        ),
        (["Trainer.loading = @Schedule()"], {}, "Trainer.loading must be a Loading"),
        (["Trainer.source = @FashionMNIST()"], {}, "do not fit the images of FashionMNIST: 28 pixels and 1 channels"),
        (["Loading.gpu_decode = True"], {}, "set Loading.num_workers to 1 or more"),
        (["Checkpointing.every = 0"], {}, "Checkpointing.every = 0 must be at least 1"),
        (["Optimization.betas = (0.9, 1.0)"], {}, "Optimization.betas[1] = 1.0 must lie in [0, 1)"),
        (["Monitoring.evaluations = [@KNN()]", "KNN.k = 0"], {}, "KNN.k"),
        (["Constant.value = 0.3"], {}, "Constant.value (-b) is bound, but nothing in this run uses Constant"),
        (["Runtime.sharding = 'fsdp'"], {}, "--gpus is 1"),
        (
            ["Schedule.masks_per_image = 2"],
            {"gpus": 16},
            "Schedule.masks_per_image = 2 times the number of processes, 16",
        ),
        (
            ["Curriculum.sampler = @Complementary()"],
            {},
            "Complementary.masks = 2 masks complete each other, and Schedule.masks_per_image = 1 is how many",
        ),
        (["Runtime.device = 'cuda:1'"], {"gpus": 2}, "Runtime.device = 'cuda:1' would be shared by all --gpus 2"),
        (["Runtime.teacher_precision = 'bf16'"], {"device": "v100"}, "goes with Runtime.precision = 'bf16'"),
        (
            ["Runtime.teacher_precision = 'bf16'", "Curriculum.difficulty = @EdgeDensity()"],
            {},
            "of a moving average that predicts losses, and nothing asks for these here",
        ),
        (
            ["Runtime.cuda_graphs = True", "Method.dense_prediction_every = 4"],
            {},
            "Runtime.cuda_graphs = True needs Method.dense_prediction_every = 0",
        ),
        (
            ["Runtime.cuda_graphs = True", "Curriculum.mask_ratio = @UniformRatio()"],
            {},
            "needs Curriculum.mask_ratio to be one number",
        ),
    ],
)
def test_mistakes(tiny: Path, bindings: list[str], options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as error:
        make(tiny, *bindings, **options)
    assert expected in str(error.value)


def test_a_config_without_method(tmp_path: Path) -> None:
    (tmp_path / "empty.gin").write_text("Schedule.epochs = 3\n")
    with pytest.raises(UserError, match=r"Trainer\.method is not bound"):
        make(tmp_path / "empty.gin")


def test_what_a_teacher_of_its_own_precision_keeps_is_not_counted_and_said(tiny: Path) -> None:
    wanted = ["Runtime.teacher_precision = 'bf16'", "Runtime.precision = 'bf16'"]
    assert any("Runtime.teacher_precision adds" in note for note in make(tiny, *wanted, device="h100").notes)


def test_what_a_curriculum_keeps_of_every_image_is_counted() -> None:
    """Two bytes for each of 196 patches, and 21 for the crop, of ImageNet's images."""
    made = make_plan(parse_config(["recipes/hpm_memory_vit_base_800"]), gpus=8)
    assert made.memory["scores of the images"] == 1_281_167 * (2 * 196 + 21)
    assert make_plan(parse_config(["recipes/mae_vit_base_800"]), gpus=8).memory["scores of the images"] == 0
    scenes = [["stamp_scenes"], ["Curriculum.difficulty = @ObjectShare()"]]
    assert make_plan(parse_config(*scenes)).memory["masks of the objects"] == 20_000 * 64 * 64
    assert make_plan(parse_config(*scenes), images=10**6).memory["masks of the objects"] == 0  # drawn for each batch
    assert make_plan(parse_config(["stamp_scenes"])).memory["masks of the objects"] == 0
