"""Every number of the published HPM implementation, measured in double precision, against ours.

The files named by the folder HPM_VECTORS (default: the copies beside this test) hold weights, inputs, outputs,
losses and gradient norms; their metadata holds the configuration.
"""

import math
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from curriculum import Mask
from hpm.methods.loss_prediction import AbsoluteLoss, RelativeLoss
from hpm.methods.teacher import EMATeacher
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.published import from_published, rename
from hpm.targets import NormalizedPixels, Pixels

FILES = sorted(Path(os.environ.get("HPM_VECTORS", Path(__file__).parent)).glob("*.safetensors"))


class Vectors:
    """One file, loaded into a model of its shape, in float64."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.config = file.metadata()
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        c = self.config
        self.weights = self.group("state_dict.")
        self.model = MaskedAutoencoder(
            img_size=int(c["img_size"]),
            patch_size=int(c["patch_size"]),
            in_chans=int(c["in_chans"]),
            embed_dim=int(c["embed_dim"]),
            depth=int(c["depth"]),
            num_heads=int(c["num_heads"]),
            decoder_embed_dim=int(c["decoder_embed_dim"]),
            decoder_depth=int(c["decoder_depth"]),
            decoder_num_heads=int(c["decoder_num_heads"]),
            loss_predictor_depth=int(c["decoder_depth"]),
            mlp_ratio=float(c["mlp_ratio"]),
        ).double()
        self.model.load_state_dict(from_published({key: value.double() for key, value in self.weights.items()}))
        self.target = NormalizedPixels() if c["norm_pix_loss"] == "True" else Pixels()
        self.images = self.tensors["input.images"].double()
        self.mask = Mask.from_bool(self.tensors["input.mask"].bool())

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def losses(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Per-patch reconstruction loss, relative and absolute prediction loss."""
        output = self.model(self.images, self.mask)
        true = self.target.loss(output.reconstruction_NMP, self.target(self.images, self.mask, self.model.patch_size))
        relative, absolute = (
            total / count
            for total, count in (loss(output.predicted_loss_NM, true) for loss in (RelativeLoss(), AbsoluteLoss()))
        )
        return true, relative, absolute

    def agrees(self, value: torch.Tensor, name: str, *, atol: float = 1e-7) -> None:
        expected = self.tensors[name].double()
        torch.testing.assert_close(value.detach().reshape(expected.shape), expected, rtol=1e-5, atol=atol)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def vectors(request: pytest.FixtureRequest) -> Vectors:
    return Vectors(request.param)


def test_there_are_vectors() -> None:
    assert FILES


def test_positions_are_the_published_ones(vectors: Vectors) -> None:
    """Ours are computed from the formula, not loaded."""
    fresh = MaskedAutoencoder(
        img_size=vectors.model.img_size,
        patch_size=vectors.model.patch_size,
        embed_dim=int(vectors.config["embed_dim"]),
        num_heads=int(vectors.config["num_heads"]),
        depth=1,
        decoder_embed_dim=int(vectors.config["decoder_embed_dim"]),
        decoder_depth=1,
        decoder_num_heads=int(vectors.config["decoder_num_heads"]),
    )
    vectors.agrees(fresh.encoder.pos_embed.double(), "state_dict.pos_embed")
    vectors.agrees(fresh.decoder_pos_embed.double(), "state_dict.decoder_pos_embed")


def test_student(vectors: Vectors) -> None:
    vectors.agrees(vectors.model.encoder(vectors.images, vectors.mask), "student.latent")
    output = vectors.model(vectors.images, vectors.mask)
    vectors.agrees(output.reconstruction_NMP, "student.pixel_prediction_masked")
    vectors.agrees(output.predicted_loss_NM, "student.loss_prediction_masked")


def test_losses(vectors: Vectors) -> None:
    true, relative, absolute = vectors.losses()
    vectors.agrees(true, "loss.reconstruction_per_patch")
    vectors.agrees(true.mean(), "loss.reconstruction")
    vectors.agrees(absolute, "loss.prediction_absolute")
    # The published code adds 1e-6 inside the log, which moves this one by about 2e-6.
    vectors.agrees(relative, "loss.prediction_relative", atol=5e-6)


def test_teacher(vectors: Vectors) -> None:
    teacher = EMATeacher(vectors.model, vectors.target)
    vectors.agrees(teacher.model.encoder(vectors.images), "teacher.latent")
    vectors.agrees(teacher.model.predict_loss(vectors.images), "teacher.loss_prediction")
    torch.testing.assert_close(
        teacher.predicted_loss(vectors.images), vectors.tensors["teacher.loss_prediction"], rtol=1e-5, atol=1e-6
    )


def test_every_gradient_norm(vectors: Vectors) -> None:
    true, relative, _ = vectors.losses()
    (true.mean() + relative).backward()
    norms = {name: parameter.grad.norm() for name, parameter in vectors.model.named_parameters()}
    expected = vectors.group("grad_norm.")
    assert {rename(name) for name in expected} == set(norms)
    for name, value in expected.items():
        ours = norms[rename(name)]
        if rename(name).startswith("loss_predictor.head."):
            # One output instead of patch_pixels averaged ones: its gradient is the sum over their rows.
            value = value.double() * math.sqrt(vectors.model.patch_pixels)
        torch.testing.assert_close(
            ours.reshape(1), value.double(), rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )
