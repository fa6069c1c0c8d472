"""CrossMAE: each masked patch is reconstructed from the visible ones alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from curriculum import Constant, Curriculum, HardestFirst, Mask, PartialReconstruction, Random, Uniform
from hpm.methods import operations
from hpm.methods.method import Method
from hpm.models.cross_mae import CrossMAE
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify, sincos_positions
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.targets import Pixels

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
DECODER = {"decoder_embed_dim": 12, "decoder_depth": 3, "decoder_num_heads": 3}


def model(**changes: Any) -> CrossMAE:
    built = CrossMAE(encoder=ViT(**VIT), **(DECODER | changes))
    built.init_weights(torch.Generator().manual_seed(1))
    # Norms and biases that do something.
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built.double()


def images_of(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def mask_of(count: int = 3, masked: int = 12) -> Mask:
    return Mask.from_keys(torch.rand(count, 16, generator=torch.Generator().manual_seed(4)), masked)


def some_of(mask: Mask, columns: list[int]) -> Mask:
    """The same mask, of which these masked patches are reconstructed."""
    others = [column for column in range(mask.num_masked) if column not in columns]
    return Mask(mask.visible, mask.masked[:, columns], mask.masked[:, others])


def norm(x: Tensor, module: Any) -> Tensor:
    return F.layer_norm(x, (x.shape[-1],), module.weight, module.bias, 1e-6)


def attention(queries_QW: Tensor, keys_TW: Tensor, values_TW: Tensor, heads: int) -> Tensor:
    """In loops over heads and queries."""
    found = torch.zeros_like(queries_QW)
    size = queries_QW.shape[1] // heads
    for head in range(heads):
        of = slice(head * size, (head + 1) * size)
        for place, query in enumerate(queries_QW[:, of]):
            weights_T = torch.softmax(keys_TW[:, of] @ query / size**0.5, dim=0)
            found[place, of] = weights_T @ values_TW[:, of]
    return found


def read_out(built: CrossMAE, image_CHW: Tensor, visible: list[int], asked: list[int]) -> Tensor:
    """[M, P] of one image, as the paper has it: MAE's encoder on what is visible, then cross-attention alone."""
    encoder: Any = built.encoder
    patches_LP = patchify(image_CHW[None], 4)[0]
    weight = encoder.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    tokens = patches_LP @ weight.T + encoder.patch_embed.proj.bias + sincos_positions(16, (4, 4))[1:].double()
    tokens = torch.cat([encoder.cls_token[0], tokens[visible]])
    maps = [tokens]
    for block in encoder.blocks:
        qkv = norm(tokens, block.norm1) @ block.attn.qkv.weight.T + block.attn.qkv.bias
        gathered = attention(*qkv.split(16, dim=1), heads=2)
        tokens = tokens + gathered @ block.attn.proj.weight.T + block.attn.proj.bias
        tokens = tokens + block.mlp(norm(tokens, block.norm2))
        maps.append(tokens)
    decoder: Any = built.reconstructor
    queries = built.mask_token[0] + sincos_positions(12, (4, 4))[1:].double()[asked]
    for number, block in enumerate(decoder.blocks):
        context = sum(
            weight * feature_map for weight, feature_map in zip(decoder.mix.weight[number], maps, strict=True)
        )
        keys, values = (
            norm(context, decoder.context_norms[number]) @ block.attn.kv.weight.T + block.attn.kv.bias
        ).split(12, dim=1)
        asking = norm(queries, block.norm1) @ block.attn.q.weight.T + block.attn.q.bias
        queries = queries + attention(asking, keys, values, 3) @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = F.gelu(norm(queries, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        queries = queries + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    return norm(queries, decoder.norm) @ decoder.head.weight.T + decoder.head.bias


def test_it_reconstructs_as_a_direct_reading_of_the_paper() -> None:
    built, images, mask = model(), images_of(), some_of(mask_of(), [1, 4, 5, 9])
    with torch.no_grad():
        ours_NMP = built(images, mask).reconstruction_NMP
        for image, visible, masked, ours_MP in zip(images, mask.visible, mask.masked, ours_NMP, strict=True):
            torch.testing.assert_close(ours_MP, read_out(built, image, visible.tolist(), masked.tolist()))


@pytest.mark.parametrize("depth", [0, 2])
def test_what_is_said_of_a_patch_does_not_depend_on_which_others_are_asked_for(depth: int) -> None:
    built, images, mask = model(loss_predictor_depth=depth), images_of(), mask_of()
    with torch.no_grad():
        whole, part = built(images, mask), built(images, some_of(mask, [0, 3, 11]))
    torch.testing.assert_close(part.reconstruction_NMP, whole.reconstruction_NMP[:, [0, 3, 11]])
    assert part.predicted_loss_NM is not None
    assert whole.predicted_loss_NM is not None
    torch.testing.assert_close(part.predicted_loss_NM, whole.predicted_loss_NM[:, [0, 3, 11]])
    with torch.no_grad():
        torch.testing.assert_close(built.predict_loss(images, mask), whole.predicted_loss_NM)
        torch.testing.assert_close(built.reconstruct(images, mask), whole.reconstruction_NMP)


def test_the_losses_of_a_full_image_are_those_of_mask_tokens_at_every_patch() -> None:
    built, images = model(loss_predictor_depth=1), images_of()
    with torch.no_grad():
        predicted_NL = built.predict_loss(images)
        assert predicted_NL.shape == (3, 16)
        everything = Mask(torch.arange(16).expand(3, -1), torch.tensor([[5], [0], [7]]))
        torch.testing.assert_close(built.predict_loss(images, everything), predicted_NL.gather(1, everything.masked))


def test_gradients_against_finite_differences() -> None:
    built, mask = model(loss_predictor_depth=1), some_of(mask_of(2), [0, 2, 7])
    images = images_of(2)
    for name in (
        "reconstructor.mix.weight",
        "reconstructor.blocks.0.attn.kv.weight",
        "mask_token",
        "encoder.cls_token",
    ):
        parameter = built.get_parameter(name)
        out = torch.randn(2, 3, 49, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

        def loss(out: Tensor = out) -> Tensor:
            output = built(images, mask)
            assert output.predicted_loss_NM is not None
            return (torch.cat([output.reconstruction_NMP, output.predicted_loss_NM[..., None]], -1) * out).sum()

        (gradient,) = torch.autograd.grad(loss(), parameter)
        for place in ([0] * parameter.ndim, [size - 1 for size in parameter.shape]):
            with torch.no_grad():
                ends = []
                for step in (1e-5, -1e-5):
                    parameter[tuple(place)] += step
                    ends.append(float(loss()))
                    parameter[tuple(place)] -= step
            assert float(gradient[tuple(place)]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_the_encoders_last_norm_alone_learns_nothing() -> None:
    built = model(loss_predictor_depth=0)
    output = built(images_of(), mask_of())
    assert output.predicted_loss_NM is not None
    (output.reconstruction_NMP.square().sum() + output.predicted_loss_NM.sum()).backward()
    assert {name for name, parameter in built.named_parameters() if parameter.grad is None} == {
        "encoder.norm.weight",
        "encoder.norm.bias",
    }


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        built = model()
        built.set_grad_checkpointing(checkpointing)
        built(images_of(), mask_of()).reconstruction_NMP.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in built.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_low_precision_residuals_reach_the_decoder_too() -> None:
    built = model().float()
    built.set_residual_dtype(torch.bfloat16)
    found = []
    built.reconstructor.blocks[-1].register_forward_hook(lambda module, inputs, output: found.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        built(images_of().float(), mask_of())
    assert found == [torch.bfloat16]
    assert len(built.blocks()) == 2 + 3


def work(student: Any, reconstruction: PartialReconstruction | None) -> dict[str, float]:
    curriculum = Curriculum(
        scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random(), reconstruction=reconstruction
    )
    return operations.multiply_adds(Method(model=student.to("meta"), curriculum=curriculum, target=Pixels()))


def test_the_decoder_costs_as_many_patches_as_it_reconstructs() -> None:
    vit = {"img_size": 224, "patch_size": 16}
    whole, part = (work(CrossMAE(encoder=ViT(**vit)), some) for some in (None, PartialReconstruction()))
    assert part["encoder"] == whole["encoder"]
    # Keys and values of the visible patches do not become fewer: per block 50 tokens of 768, 13 weights of each.
    fixed = 12 * 50 * 768 * (2 * 512 + 13)
    assert part["reconstructor"] - fixed == pytest.approx((whole["reconstructor"] - fixed) / 3, rel=1e-9)
    mae = work(MaskedAutoencoder(**vit, loss_predictor_depth=None), None)
    assert mae["encoder"] == whole["encoder"]
    # Of the published 12 blocks, at a third of the patches, beside MAE's 8 of self-attention.
    assert mae["reconstructor"] / part["reconstructor"] == pytest.approx(2.53, abs=0.01)


def test_what_it_cannot_be_made_of_is_refused() -> None:
    swin = Swin(img_size=16, patch_size=2, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    for encoder in (swin, ViT(**VIT, relative_positions=True), "ViT"):
        with pytest.raises(ValueError, match=r"CrossMAE.encoder must be an encoder that computes visible patches"):
            CrossMAE(encoder=encoder)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"CrossMAE.decoder_embed_dim = 10"):
        model(decoder_embed_dim=10)
    with pytest.raises(ValueError, match=r"CrossMAE.loss_predictor_depth = -1"):
        model(loss_predictor_depth=-1)
    blanked = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=HardestFirst(), blank_ratio=0.5)
    with pytest.raises(ValueError, match=r"Curriculum.blank_ratio = 0.5 needs a mask token in the encoder"):
        Method(model=model(), curriculum=blanked, target=Pixels())
