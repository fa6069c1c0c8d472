"""A teacher in bf16 follows its average on a GPU too, where fused updates change no version."""

from __future__ import annotations

import torch

from hpm.methods.teacher import EMATeacher
from hpm.models.low_precision import LowPrecisionCopy
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.targets import Pixels

SIZES = {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
DECODER = {"decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 2, "loss_predictor_depth": 2}


def test_a_copy_follows_every_step_of_the_average() -> None:
    torch.manual_seed(0)
    student = MaskedAutoencoder(**SIZES, **DECODER).cuda()
    images = torch.randn(16, 3, 64, 64, device="cuda")
    teacher = EMATeacher(student, Pixels(), autocast=torch.bfloat16, precision="bf16")
    for _ in range(3):
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        teacher.update(student, 0.5)
        mine = teacher.predicted_loss(images)
        anew = LowPrecisionCopy(teacher.model).follow("now").predict_loss(images.bfloat16()).float()
        assert torch.equal(mine, anew)
