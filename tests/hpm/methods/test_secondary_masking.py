"""UM-MAE's secondary masking: a mask token in the place of some visible patches, in the encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open

from curriculum import Batch, Constant, Curriculum, Mask, Noise, Stratified, Uniform
from curriculum.testing import refuse_host_sync
from hpm.errors import Notice
from hpm.inference.loading import load_model
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify, unpatchify
from hpm.models.pretrained import load_into
from hpm.models.published import load_published
from hpm.targets import Pixels
from hpm.training.setup import compile_method

Hpm = Callable[..., int]


def model(**changes: Any) -> MaskedAutoencoder:
    arguments = {
        "img_size": 16,
        "patch_size": 4,
        "in_chans": 2,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "loss_predictor_depth": 1,
        "blank_token": True,
    } | changes
    built = MaskedAutoencoder(**arguments)
    built.init_weights(torch.Generator().manual_seed(0))
    return built


def curriculum(blank_ratio: float = 0.25, mask_ratio: float = 0.5) -> Curriculum:
    return Curriculum(
        scheduler=Constant(value=0.0),
        difficulty=Uniform(),
        sampler=Stratified(),
        mask_ratio=mask_ratio,
        blank_ratio=blank_ratio,
    )


def batch(n: int = 3) -> Batch:
    return Batch(torch.randn(n, 2, 16, 16, generator=torch.Generator().manual_seed(1)), 4)


def mask(n: int = 3) -> Mask:
    """8 of 16 patches visible, 2 of these blanked."""
    drawn = curriculum().draw(batch(n), None, 0.5, Noise.for_batch(seed=0, step=0, batch_size=n))
    assert drawn.blanked is not None
    return drawn


def pixels_of(patches_NL: torch.Tensor) -> torch.Tensor:
    """Bool [N, C, H, W]: the pixels of some patches."""
    return unpatchify(patches_NL.unsqueeze(-1).expand(-1, -1, 32).float(), 4, (4, 4)).bool()


def test_the_encoder_sees_the_token_at_the_patchs_place() -> None:
    """Against a reading of one patch after the other."""
    built = model()
    images = batch().images
    drawn = mask()
    assert built.encoder_mask_token is not None
    encoder = built.encoder
    tokens = encoder._embed(images, drawn, built.encoder_mask_token)[:, 1:]
    embedded_NLD = encoder.patch_embed(images)
    for n in range(3):
        for place, patch in enumerate(drawn.visible[n].tolist()):
            blank = bool(drawn.blanked[n, place])  # type: ignore[index]
            content = built.encoder_mask_token[0, 0] if blank else embedded_NLD[n, patch]
            torch.testing.assert_close(tokens[n, place], content + encoder.pos_embed[0, 1 + patch])


def test_a_blanked_patch_says_nothing_and_another_visible_one_does() -> None:
    built = model()
    images = batch().images
    drawn = mask()
    blanked_NL = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, drawn.visible, drawn.blanked)  # type: ignore[arg-type]
    seen_NL = ~drawn.to_bool() & ~blanked_NL
    before = built(images, drawn)
    hidden = built(torch.where(pixels_of(blanked_NL), images + 5, images), drawn)
    assert torch.equal(before.reconstruction_NMP, hidden.reconstruction_NMP)
    assert torch.equal(before.predicted_loss_NM, hidden.predicted_loss_NM)
    assert torch.equal(before.reconstruction_NMP, built.reconstruct(images, drawn))
    shown = built(torch.where(pixels_of(seen_NL), images + 5, images), drawn)
    assert not torch.allclose(before.reconstruction_NMP, shown.reconstruction_NMP, atol=1e-3)


def test_a_model_without_the_token_is_as_it_was() -> None:
    with_token, without = model().state_dict(), model(blank_token=False).state_dict()
    assert with_token.keys() - without.keys() == {"encoder_mask_token"}
    assert all(torch.equal(with_token[name], without[name]) for name in without)
    assert 0.01 < float(with_token["encoder_mask_token"].std()) < 0.03
    assert not any("token" in name for name in model().encoder.state_dict() if name != "cls_token")
    plain = Mask(mask().visible, mask().masked)
    one, other = (model(blank_token=token)(batch().images, plain) for token in (True, False))
    assert torch.equal(one.reconstruction_NMP, other.reconstruction_NMP)


@pytest.mark.parametrize(
    ("blank_ratio", "blank_token", "message"),
    [
        (0.25, False, r"Curriculum\.blank_ratio = 0\.25 needs .* set MaskedAutoencoder\.blank_token = True"),
        (0.0, True, r"Curriculum\.blank_ratio = 0\.0 never uses .* set MaskedAutoencoder\.blank_token = False"),
    ],
)
def test_ratio_and_token_go_together(blank_ratio: float, blank_token: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Method(model=model(blank_token=blank_token), curriculum=curriculum(blank_ratio), target=Pixels())
    with pytest.raises(ValueError, match="blank_token = True"):
        model(blank_token=False)(batch().images, mask())


def test_a_step_learns_the_token_and_reconstructs_masked_patches_alone() -> None:
    method = Method(model=model(), curriculum=curriculum(), target=Pixels())
    method.initialize(torch.device("cpu"), autocast=None, seed=0)
    noise = Noise.for_batch(seed=0, step=0, batch_size=3)
    with refuse_host_sync():
        losses = method.losses(batch(), 0.5, noise)
        losses.total.backward()
    for name, parameter in method.student.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) or name.endswith("bias"), name
    drawn = mask()
    assert torch.equal(losses.mask.blanked, drawn.blanked)  # type: ignore[arg-type]
    with torch.no_grad():
        output = method.student(batch().images, drawn)
    error_NM = (output.reconstruction_NMP - drawn.gather_masked(patchify(batch().images, 4))).square().mean(dim=-1)
    torch.testing.assert_close(losses.true_NM, error_NM)


def test_compiled_and_in_bf16() -> None:
    plain = Method(model=model(), curriculum=curriculum(), target=Pixels())
    low = Method(model=model(), curriculum=curriculum(), target=Pixels())
    plain.initialize(torch.device("cpu"), autocast=None, seed=0)
    low.initialize(torch.device("cpu"), autocast=torch.bfloat16, seed=0)
    compile_method(low, blocks=False, backend="aot_eager")
    noise = Noise.for_batch(seed=0, step=0, batch_size=3)
    one, other = (method.losses(batch(), 0.5, noise).reconstruction.item() for method in (plain, low))
    assert other == pytest.approx(one, rel=0.02)


def test_an_export_is_without_the_token(tiny: Path, hpm: Hpm, tmp_path: Path) -> None:
    changes = ("-b", "Schedule.epochs = 1", "-b", "Schedule.warmup_epochs = 0", "-b", "Monitoring.evaluations = []")
    assert hpm("pretrain", tiny, "curricula/um_mae", *changes, "--output", "run") == 0
    assert hpm("export", "run", "--out", "exported") == 0
    context = load_model(Path("run")).context("student")
    images = context.source.load(context.source.test(), torch.arange(4))
    vit = timm.create_model("local-dir:exported", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(vit(images), context.model.encoder(images)[:, 0], rtol=1e-5, atol=1e-5)

    # All of it comes back, token included; a file without one leaves the model's own.
    assert hpm("export", "run", "--out", "whole.safetensors", "--format", "safetensors", "--whole") == 0
    with safe_open("whole.safetensors", "pt") as file:
        saved = file.get_tensor("encoder_mask_token")
    fresh = model(in_chans=3)
    assert fresh.encoder_mask_token is not None
    start = fresh.encoder_mask_token.detach().clone()
    with pytest.warns(Notice, match="as initialized: .*1 encoder_mask_token"):
        load_into(fresh, load_published(tmp_path / "exported").student, tmp_path)
    assert torch.equal(fresh.encoder_mask_token, start)
    load_into(fresh, load_published(tmp_path / "whole.safetensors").student, tmp_path)
    assert torch.equal(fresh.encoder_mask_token, saved)
    assert not torch.equal(saved, start)
    assert hpm("evaluate", "run", "--protocol", "diagnostics", "-b", "Diagnostics.images = 20") == 0
