"""Plans: counts against the published figures, arithmetic by hand, and what PyTorch really keeps."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from curriculum import (
    Attention,
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    HardestFirst,
    Noise,
    PredictedLoss,
    Ramp,
    Random,
    SelfPaced,
    TrueLoss,
    Uniform,
)
from hpm.config import parse_config
from hpm.errors import UserError
from hpm.methods.decay import RampDecay
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.clock import Clock
from hpm.planning import cost, plan
from hpm.targets import Pixels

GIGA = 1e9
SMALL = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 3,
    "num_heads": 3,
    "decoder_embed_dim": 64,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "loss_predictor_depth": 1,
}


def method(difficulty: DifficultyEstimator, *, device: str = "meta", **model: Any) -> Method:
    with torch.device(device):
        return Method(
            model=MaskedAutoencoder(**model),
            curriculum=Curriculum(scheduler=Ramp(), difficulty=difficulty, sampler=HardestFirst()),
            target=Pixels(),
            ema_decay=RampDecay(),
        )


def make(path: Path, *bindings: str, **options: Any) -> plan.Plan:
    return plan.make(parse_config([str(path)], bindings), **options)


def shown(made: plan.Plan) -> str:
    console = Console(width=120, file=io.StringIO())
    plan.show(console, made)
    return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


# Operations


def test_published_figures_of_vit_base() -> None:
    """Published code embeds all patches and predicts all of them; ours those that are seen, and asked for."""
    for recipe, student, teacher, decoders in (("mae", 9.78, 0.0, 1), ("hpm", 15.06, 22.91, 2)):
        made = plan.make(parse_config([f"recipes/{recipe}_vit_base_200"]), gpus=8)
        assert made.published_multiply_adds / GIGA == pytest.approx(student, rel=1e-3)
        assert made.multiply_adds["teacher"] / GIGA == pytest.approx(teacher, rel=1e-3)
        ours = sum(made.multiply_adds.values()) - made.multiply_adds["teacher"]
        last = block(197, 512) - block(197, 512, given=147)
        assert made.published_multiply_adds - ours == 147 * 768 * 768 + 50 * 512 * 768 + decoders * last


def block(tokens: int, width: int, given: int | None = None) -> int:
    """Query, key, value, projection; two layers of four times the width; two products of attention.

    Where no more than the last tokens are `given`, the others are keys and values alone, and queries all the same.
    """
    given = tokens if given is None else given
    return tokens * 3 * width**2 + given * (1 + 2 * 4) * width**2 + 2 * given * tokens * width


def test_by_hand() -> None:
    patches = 64
    masked = 48
    visible = 16
    pixels = 8 * 8 * 3
    decoder_input = 96 * 64
    seen = 1 + visible
    all_ = 1 + patches
    assert cost.multiply_adds(method(PredictedLoss(), **SMALL)) == {
        "encoder": visible * pixels * 96 + 3 * block(seen, 96),
        "reconstructor": seen * decoder_input + block(all_, 64) + block(all_, 64, given=masked) + masked * 64 * pixels,
        "loss predictor": block(all_, 64, given=masked) + masked * 64,
        "teacher": patches * pixels * 96
        + 3 * block(all_, 96)
        + all_ * decoder_input
        + block(all_, 64, given=patches)
        + patches * 64,
        "target": 0,
    }


def test_the_teacher_costs_what_the_difficulty_asks() -> None:
    student = cost.multiply_adds(method(TrueLoss(probes=2), **SMALL))
    assert student["teacher"] == 2 * (student["encoder"] + student["reconstructor"])
    # The last block: keys, and queries and attention of one token.
    attention = cost.multiply_adds(method(Attention(), **SMALL))["teacher"]
    assert attention == 64 * 192 * 96 + 2 * block(65, 96) + 65 * 3 * 96**2 + 65 * 96
    assert cost.multiply_adds(method(Uniform(), **SMALL))["teacher"] == 0


class Peeking(DifficultyEstimator):
    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> torch.Tensor:
        return torch.zeros(len(batch), batch.num_patches) + batch.images.max().item()


def test_a_difficulty_that_looks_at_values_is_not_counted() -> None:
    assert math.isnan(cost.multiply_adds(method(Peeking(), **SMALL))["teacher"])


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


@pytest.mark.parametrize(("epochs", "first"), [(200, 2), (800, 10), (1600, 21)])
def test_the_teacher_is_asked_from_the_first_hard_patch_on(epochs: int, first: int) -> None:
    hpm = method(PredictedLoss())  # 147 masked patches
    assert cost.teacher_share(hpm, Clock(0, 5, epochs), "epoch") == (epochs - first) / epochs
    assert cost.teacher_share(hpm, Clock(0, 625, epochs), "epoch") == pytest.approx((epochs - first) / epochs, abs=1e-3)


def test_shares_of_other_schedules() -> None:
    small = method(PredictedLoss(), **SMALL)
    clock = Clock(0, 10, 10)
    # int(48 * 0.5 * (step + 1) / 100) is 0 for the first four steps.
    assert cost.teacher_share(small, clock, "step") == 0.96
    small.curriculum.score_every = 4
    assert cost.teacher_share(small, clock, "epoch") == 0.25
    assert cost.teacher_share(small, Clock(0, 9, 1), "epoch") == 3 / 9
    small.curriculum = Curriculum(scheduler=Constant(value=0.5), difficulty=Uniform(), sampler=Random())
    assert cost.teacher_share(small, clock, "epoch") == 0
    small.curriculum = Curriculum(scheduler=SelfPaced(), difficulty=PredictedLoss(), sampler=HardestFirst())
    assert cost.teacher_share(small, clock, "epoch") == 1


# Memory


def kept_by_autograd(method: Method, images: int, *, low: bool) -> int:
    """Bytes of the tensors that the backward pass of the student keeps, but for weights and copies of them."""
    method.prepare(torch.device("cpu"), autocast=torch.bfloat16 if low else None, seed=0)
    own = {tensor.untyped_storage().data_ptr() for tensor in method.student.state_dict().values()}
    weights = {shape for p in method.student.parameters() for shape in (p.shape, p.shape[::-1])}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.dtype == torch.bfloat16 and tensor.shape in weights):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    side = method.student.img_size
    batch = Batch(torch.randn(images, 3, side, side), method.student.patch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = method.losses(batch, 0.01, Noise.for_batch(seed=0, step=0, batch_size=images))
    assert losses.total.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("predictor", [2, None])
def test_activations_against_what_autograd_keeps(low: bool, predictor: int | None) -> None:
    shape = SMALL | {"img_size": 96, "embed_dim": 132, "loss_predictor_depth": predictor}
    difficulty = Uniform() if predictor is None else PredictedLoss()
    real = method(difficulty, device="cpu", **shape)
    # On a CPU attention is in float32: queries, keys and values, and its result beside what the projection reads. A
    # decoder's last block has queries and results of the masked patches alone.
    masked = real.curriculum.count_masked(real.student.num_patches)
    values = 10 * sum(tokens * width for tokens, width in real.student.block_sizes(masked, 0))
    left = (1 + real.student.num_patches - masked) * SMALL["decoder_embed_dim"]
    more = values - 8 * left * (1 if predictor is None else 2) if low else 0
    expected = 3 * (cost.activations(real, low=low) + more)
    assert kept_by_autograd(real, 3, low=low) == pytest.approx(expected, rel=0.05)


def test_checkpointing_keeps_a_blocks_input_and_one_block() -> None:
    real = method(PredictedLoss(), device="cpu", **SMALL | {"depth": 12, "decoder_depth": 8, "loss_predictor_depth": 8})
    real.student.set_grad_checkpointing()
    one_block = 64 * (1 + 64) * 64  # only there while its backward pass runs
    expected = 3 * (cost.activations(real, low=False, grad_checkpointing=True) - one_block)
    assert kept_by_autograd(real, 3, low=False) == pytest.approx(expected, rel=0.05)


def test_memory(tiny: Path) -> None:
    made = make(tiny, "Runtime.precision = 'fp32'")
    student = sum(made.parameters[part] for part in ("encoder", "reconstructor", "loss predictor"))
    with torch.device("meta"):
        assert student == sum(p.numel() for p in method(PredictedLoss(), **_tiny_shape()).student.parameters())
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


def _tiny_shape() -> dict[str, int]:
    return {
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
        (["Trainer.source = @FashionMNIST()"], 60_000),
        (["Trainer.source = @FashionMNIST()", "FashionMNIST.train_size = 100"], 100),
        (["Trainer.source = @ImageFolder()"], 1_281_167),
    ],
    ids=str,
)
def test_images_without_reading_any(tiny: Path, bindings: list[str], images: int) -> None:
    made = make(tiny, *bindings)
    assert made.images == images
    assert any("--images" in note for note in made.notes) == (images == 1_281_167)


def test_feedback_is_told(tiny: Path) -> None:
    made = make(tiny, "Curriculum.scheduler = @SelfPaced()")
    assert made.teacher_share == 1
    assert any("SelfPaced" in note for note in made.notes)


# What a person, and a program, reads


def test_show_and_json(tiny: Path) -> None:
    made = make(tiny)
    text = shown(made)
    for part in (
        "tiny",
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
        ([], {"images": 0}, "--images 0 must be at least 1"),
        ([], {"images": 10}, "Schedule.batch_size = 16 must be 1 to 10"),
        ([], {"gpus": 3}, "Schedule.batch_size = 16 must be divisible by Schedule.accumulate = 1 times --gpus 3"),
        (["Schedule.epochs = 0"], {}, "Schedule.epochs = 0 must be at least 1"),
        (["Runtime.precision = 'fp8'"], {}, "Runtime.precision = 'fp8' is unknown"),
        (["Runtime.precision = 'bf16'"], {"device": "v100"}, "--device v100 has: fp16, fp32"),
        (["Runtime.sharding = 'ddp'"], {}, "Runtime.sharding = 'ddp' is unknown; choose none or fsdp"),
        (["Trainer.progress_per = 'day'"], {}, "Trainer.progress_per = 'day' is unknown"),
        (["Trainer.method = @Uniform()"], {}, "Trainer.method must be a Method"),
        (["MaskedAutoencoder.patch_size = 5"], {}, "MaskedAutoencoder.patch_size = 5 does not divide"),
        (["MaskedAutoencoder.loss_predictor_depth = None"], {}, "PredictedLoss needs the teacher's predicted_loss"),
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
