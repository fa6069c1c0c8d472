"""Teachers that predict losses in less than float32, and what is kept in float32 all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import spearmanr

from curriculum import Mask
from hpm.methods.teacher import EMATeacher
from hpm.models.low_precision import EpilogueMlp, LowPrecisionCopy
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.simmim import SimMIM
from hpm.models.vit import ViT
from hpm.targets import Pixels


def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(
        img_size=64,
        patch_size=8,
        embed_dim=64,
        depth=2,
        num_heads=2,
        decoder_embed_dim=64,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=2,
    )


def simmim() -> SimMIM:
    torch.manual_seed(0)
    return SimMIM(encoder=ViT(img_size=64, patch_size=8, embed_dim=64, depth=2, num_heads=2), loss_predictor_depth=1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [model, simmim])
def test_a_teacher_in_bf16_orders_patches_as_one_in_float32_does(make, images: torch.Tensor) -> None:
    low = EMATeacher(make(), Pixels(), autocast=torch.bfloat16, precision="bf16").predicted_loss(images)
    exact = EMATeacher(make(), Pixels()).predicted_loss(images)
    assert low.dtype == torch.float32
    assert min(spearmanr(a, b).statistic for a, b in zip(low, exact, strict=True)) > 0.98


def test_a_teacher_in_bf16_follows_steps_and_what_is_read_into_it(images: torch.Tensor) -> None:
    student = model()
    teacher = EMATeacher(student, Pixels(), autocast=torch.bfloat16, precision="bf16")

    def anew() -> torch.Tensor:
        return LowPrecisionCopy(teacher.model).follow("now").predict_loss(images.bfloat16()).float()

    seen = [teacher.predicted_loss(images)]
    for _ in range(2):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        teacher.update(student, 0.5)
        seen.append(teacher.predicted_loss(images))
        assert torch.equal(seen[-1], anew())
    teacher.model.load_state_dict(model().state_dict())  # as a checkpoint is read
    seen.append(teacher.predicted_loss(images))
    assert torch.equal(seen[-1], seen[0])
    assert not torch.equal(seen[1], seen[0])
    assert teacher.model.mask_token.dtype == torch.float32


def test_losses_predicted_under_autocast_are_not_tied(images: torch.Tensor) -> None:
    """Rounded to bf16, of 64 predicted losses a good part would be the same."""
    student = model()
    mask = Mask.from_bool(torch.arange(64).expand(4, 64) < 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted_NM = student(images, mask).predicted_loss_NM
    assert predicted_NM.dtype == torch.float32
    assert all(len(row.unique()) == 48 for row in predicted_NM)
    assert not torch.equal(predicted_NM, predicted_NM.bfloat16().float())


def test_gelu_in_the_product_is_gelu() -> None:
    mlp = model().encoder.blocks[0].mlp
    x = torch.randn(2, 7, 64)
    assert torch.allclose(EpilogueMlp(mlp)(x), mlp(x), atol=2e-3)


def test_tokens_between_blocks_are_bf16_under_autocast_alone(images: torch.Tensor) -> None:
    student, seen = model(), []
    student.set_residual_dtype(torch.bfloat16)
    student.encoder.blocks[1].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student.features(images)
    student.features(images)
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        (["Runtime.compile = 'all'"], "Runtime.compile = 'all' is unknown; choose False, True, 'blocks'"),
        (
            ["Runtime.compile_mode = 'max-autotune-no-cudagraphs'"],
            "Runtime.compile_mode = 'max-autotune-no-cudagraphs' does nothing where Runtime.compile = False",
        ),
        (["Runtime.compile_mode = 'fast'"], "Runtime.compile_mode = 'fast' is unknown"),
        (["Runtime.residual_precision = 'fp16'"], "Runtime.residual_precision = 'fp16' is unknown"),
        (["Runtime.teacher_precision = 'int8'"], "Runtime.teacher_precision = 'int8' is unknown"),
        (
            ["Runtime.residual_precision = 'bf16'"],
            "Runtime.residual_precision = 'bf16' goes with Runtime.precision = 'bf16', and here it is 'fp32'",
        ),
        (["Runtime.teacher_precision = 'bf16'"], "goes with Runtime.precision = 'bf16', and here it is 'fp32'"),
        (["Runtime.teacher_precision = 'fp8'"], "Runtime.teacher_precision = 'fp8' is unknown"),
        (
            [
                "Runtime.precision = 'bf16'",
                "Runtime.teacher_precision = 'bf16'",
                "Curriculum.difficulty = @EdgeDensity()",
            ],
            "is of a moving average that predicts losses",
        ),
        (
            ["Runtime.cuda_graphs = True"],
            "Runtime.cuda_graphs = True needs a CUDA device, and this is cpu",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    hpm, tiny: Path, capsys: pytest.CaptureFixture[str], bindings: list[str], told: str
) -> None:
    words = [word for binding in ["Runtime.device = 'cpu'", *bindings] for word in ("-b", binding)]
    assert hpm("pretrain", tiny, "--output", "run", *words) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_run_with_both_settings_ends_resumes_and_is_evaluated(hpm, tiny: Path, same_end) -> None:
    words = ["Runtime.precision = 'bf16'", "Runtime.residual_precision = 'bf16'", "Runtime.teacher_precision = 'bf16'"]
    words += ["Schedule.epochs = 2", "Checkpointing.every = 10"]
    bindings = [word for binding in words for word in ("-b", binding)]
    assert hpm("pretrain", tiny, "--output", "run", *bindings) == 0
    same_end(Path("run"))
    assert hpm("evaluate", "run", "--protocol", "knn") == 0
