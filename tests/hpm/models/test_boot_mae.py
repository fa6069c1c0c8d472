"""BootMAE: pixels and features reconstructed by a decoder each, to which the encoder's features are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from curriculum import Constant, Curriculum, HardestFirst, Mask, PartialReconstruction, Random, Uniform
from hpm.methods import operations
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.boot_mae import BootMAE
from hpm.models.low_precision import LowPrecisionCopy
from hpm.models.patches import patchify, sincos_positions
from hpm.models.vit import ViT
from hpm.planning import cost
from hpm.targets import HOG, NormalizedPixels, Pixels, TeacherFeatures, WeightedTargets

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
DECODER = {"decoder_embed_dim": 12, "decoder_depth": 2, "decoder_num_heads": 3}


def model(vit: dict[str, Any] | None = None, **changes: Any) -> BootMAE:
    built = BootMAE(encoder=ViT(**(VIT | (vit or {}))), **(DECODER | changes))
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


def linear(x: Tensor, module: Any) -> Tensor:
    return x @ module.weight.T + module.bias


def self_attention(tokens: Tensor, block: Any, heads: int) -> Tensor:
    qkv = linear(norm(tokens, block.norm1), block.attn.qkv)
    return tokens + linear(attention(*qkv.chunk(3, dim=1), heads=heads), block.attn.proj)


def feed_forward(tokens: Tensor, normed: Tensor, block: Any) -> Tensor:
    return tokens + linear(F.gelu(linear(normed, block.mlp.fc1)), block.mlp.fc2)


def encoded(built: BootMAE, image_CHW: Tensor, seen: Sequence[int]) -> list[Tensor]:
    """What comes out of each of the encoder's blocks, of the class token and the patches that are seen."""
    encoder: Any = built.encoder
    weight = encoder.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    patches_LD = patchify(image_CHW[None], 4)[0] @ weight.T + encoder.patch_embed.proj.bias
    tokens = torch.cat([encoder.cls_token[0], (patches_LD + sincos_positions(16, (4, 4))[1:].double())[list(seen)]])
    maps = []
    for block in encoder.blocks:
        tokens = self_attention(tokens, block, heads=2)
        tokens = feed_forward(tokens, norm(tokens, block.norm2), block)
        maps.append(tokens)
    return maps


def decoded(tokens: Tensor, decoder: Any, context: Tensor, heads: int) -> Tensor:
    """What a decoder says of every token: each attends to all of them, and then to the context."""
    for block in decoder.blocks:
        tokens = self_attention(tokens, block, heads)
        keys, values = linear(norm(context, block.context_norm), block.context_attn.kv).chunk(2, dim=1)
        asking = linear(norm(tokens, block.norm2), block.context_attn.q)
        tokens = tokens + linear(attention(asking, keys, values, heads), block.context_attn.proj)
        tokens = feed_forward(tokens, norm(tokens, block.norm3), block)
    return linear(norm(tokens, decoder.norm), decoder.head)


def read_out(built: BootMAE, image_CHW: Tensor, seen: Sequence[int], asked: Sequence[int]) -> dict[str, Tensor]:
    """Of one image, as the published code has it: pixels from the first block's tokens, features from the last's."""
    maps = encoded(built, image_CHW, seen)
    latent = norm(maps[-1], built.encoder.norm)
    places = {width: sincos_positions(width, (4, 4))[1:].double()[list(asked)] for width in (12, 16)}
    narrow = torch.cat([linear(latent, built.decoder_embed), built.mask_token[0] + places[12]])
    wide = torch.cat([linear(latent, built.feature_embed), built.feature_mask_token[0] + places[16]])
    said = {
        "pixels": decoded(narrow, built.reconstructor, maps[0], 3),
        "features": decoded(wide, built.feature_predictor, maps[-1], 2),
    }
    if built.loss_predictor is not None:
        said["losses"] = decoded(narrow, built.loss_predictor, maps[0], 3)
    return {name: values[1 + len(seen) :] for name, values in said.items()}


@pytest.mark.parametrize("thrown", [0, 3])
def test_it_reconstructs_as_a_direct_reading_of_the_published_code(thrown: int) -> None:
    built, images, mask = model(loss_predictor_depth=2), images_of(), mask_of()
    if thrown:
        mask = Mask(mask.visible, mask.masked[:, thrown:], mask.masked[:, :thrown])
    with torch.no_grad():
        ours = built(images, mask)
        assert ours.predicted_loss_NM is not None
        for row, image in enumerate(images):
            said = read_out(built, image, mask.visible[row].tolist(), mask.masked[row].tolist())
            torch.testing.assert_close(ours.reconstruction_NMP[row], torch.cat([said["pixels"], said["features"]], 1))
            torch.testing.assert_close(ours.predicted_loss_NM[row], said["losses"][:, 0])


@pytest.mark.parametrize("depth", [0, 1])
def test_what_is_asked_for_alone_is_what_the_whole_pass_gives(depth: int) -> None:
    built, images, mask = model(loss_predictor_depth=depth), images_of(), mask_of()
    with torch.no_grad():
        whole = built(images, mask)
        torch.testing.assert_close(built.reconstruct(images, mask), whole.reconstruction_NMP)
        assert whole.predicted_loss_NM is not None
        torch.testing.assert_close(built.predict_loss(images, mask), whole.predicted_loss_NM)


def test_the_losses_of_a_full_image_are_those_at_its_content_tokens() -> None:
    built, images = model(loss_predictor_depth=2), images_of()
    with torch.no_grad():
        predicted_NL = built.predict_loss(images)
        for image, ours_L in zip(images, predicted_NL, strict=True):
            maps = encoded(built, image, range(16))
            tokens = linear(norm(maps[-1], built.encoder.norm), built.decoder_embed)
            torch.testing.assert_close(ours_L, decoded(tokens, built.loss_predictor, maps[0], 3)[1:, 0])


def test_gradients_against_finite_differences() -> None:
    built, mask, images = model(loss_predictor_depth=1), mask_of(2), images_of(2)
    out = torch.randn(2, 12, 48 + 16 + 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss() -> Tensor:
        output = built(images, mask)
        assert output.predicted_loss_NM is not None
        return (torch.cat([output.reconstruction_NMP, output.predicted_loss_NM[..., None]], -1) * out).sum()

    for name in (
        "reconstructor.blocks.0.context_attn.kv.weight",
        "feature_predictor.blocks.1.context_norm.weight",
        "loss_predictor.blocks.0.context_attn.q.bias",
        "feature_mask_token",
        "mask_token",
        "decoder_embed.weight",
        "encoder.norm.weight",
        "encoder.blocks.0.mlp.fc1.weight",
    ):
        parameter = built.get_parameter(name)
        (gradient,) = torch.autograd.grad(loss(), parameter)
        for place in ([0] * parameter.ndim, [size - 1 for size in parameter.shape]):
            with torch.no_grad():
                ends = []
                for step in (1e-5, -1e-5):
                    parameter[tuple(place)] += step
                    ends.append(float(loss()))
                    parameter[tuple(place)] -= step
            assert float(gradient[tuple(place)]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)


def gradients_of(built: BootMAE, part: slice) -> set[str]:
    """The parts of the model that some of the reconstruction's values are made by."""
    built.zero_grad()
    built(images_of(), mask_of()).reconstruction_NMP[..., part].square().sum().backward()
    names = (name for name, p in built.named_parameters() if p.grad is not None and bool(p.grad.abs().max() > 0))
    return {name.split(".")[0] for name in names}


def test_each_decoder_makes_the_values_of_its_own_target_alone() -> None:
    built = model()
    assert gradients_of(built, slice(None, 48)) == {"encoder", "decoder_embed", "mask_token", "reconstructor"}
    assert gradients_of(built, slice(48, None)) == {
        "encoder",
        "feature_embed",
        "feature_mask_token",
        "feature_predictor",
    }


def test_every_parameter_learns() -> None:
    built = model(loss_predictor_depth=0)
    output = built(images_of(), mask_of())
    assert output.predicted_loss_NM is not None
    (output.reconstruction_NMP.square().sum() + output.predicted_loss_NM.sum()).backward()
    assert not [name for name, parameter in built.named_parameters() if parameter.grad is None]


def test_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        built = model(loss_predictor_depth=1)
        built.set_grad_checkpointing(checkpointing)
        built(images_of(), mask_of()).reconstruction_NMP.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in built.parameters() if p.grad is not None]))
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_low_precision_reaches_all_decoders() -> None:
    built = model(loss_predictor_depth=1).float()
    assert len(built.blocks()) == 3 + 2 + 2 + 1
    built.set_residual_dtype(torch.bfloat16)
    found = []
    for decoder in built.decoders:
        decoder.blocks[-1].register_forward_hook(lambda module, inputs, output: found.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = built(images_of().float(), mask_of())
    assert found == [torch.bfloat16] * 3
    assert output.predicted_loss_NM is not None
    assert output.predicted_loss_NM.dtype == torch.float32
    built.set_residual_dtype(None)
    with torch.no_grad():
        low = LowPrecisionCopy(built).model.predict_loss(images_of().bfloat16())
        torch.testing.assert_close(low, built.predict_loss(images_of().float()), rtol=0, atol=0.1)


TARGETS = (NormalizedPixels(), TeacherFeatures())


def method(student: BootMAE, **changes: Any) -> Method:
    curriculum = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random(), **changes)
    target = WeightedTargets(targets=TARGETS, weights=[1.0, 1.0])
    return Method(model=student, curriculum=curriculum, target=target, ema_decay=HorizonDecay())


def test_each_head_is_as_wide_as_its_target() -> None:
    target = WeightedTargets(targets=[HOG(cell=2), TeacherFeatures()], weights=[1.0, 1.0])
    curriculum = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random())
    student = Method(model=model(), curriculum=curriculum, target=target, ema_decay=HorizonDecay()).student
    assert isinstance(student, BootMAE)
    assert student.reconstructor.head.out_features == target.targets[0].outputs(student)
    assert student.feature_predictor.head.out_features == 16
    assert student.outputs == sum(target.parts(student))
    reconstructed = student.float()(images_of().float(), mask_of()).reconstruction_NMP
    assert reconstructed.shape == (3, 12, student.outputs)


def on_meta(**changes: Any) -> BootMAE:
    with torch.device("meta"):
        return BootMAE(encoder=ViT(), **changes)


def block(tokens: int, given: int, seen: int, width: int, context_width: int) -> int:
    """Multiply-adds of a block with a context: attention to the tokens and to the context, and two layers."""
    attention = tokens * 3 * width**2 + given * width**2 + 2 * given * tokens * width
    context = 2 * given * width**2 + 2 * seen * context_width * width + 2 * given * seen * width
    return attention + context + given * 8 * width**2


def test_what_it_costs_by_hand() -> None:
    whole = method(on_meta(loss_predictor_depth=1))
    work = operations.multiply_adds(whole)
    heads = {512: 768, 768: 768}
    expected = sum(
        50 * 768 * width + block(197, 197, 50, width, 768) + block(197, 147, 50, width, 768) + 147 * width * outputs
        for width, outputs in heads.items()
    )
    assert work["reconstructor"] == expected
    assert work["loss predictor"] == block(197, 147, 50, 512, 768) + 147 * 512
    added = cost.macs_saved(whole, [0.5])
    published = sum(
        2 * block(197, 197, 50, width, 768) + 196 * width * outputs + 50 * 768 * width
        for width, outputs in heads.items()
    )
    assert added == published - expected + 147 * 768 * 768


def test_fewer_reconstructed_patches_are_fewer_tokens() -> None:
    costs = [
        operations.multiply_adds(method(on_meta(), reconstruction=partly)) for partly in (None, PartialReconstruction())
    ]
    assert costs[0]["encoder"] == costs[1]["encoder"]
    assert costs[1]["reconstructor"] < 0.6 * costs[0]["reconstructor"]


def test_what_it_cannot_be_made_of_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BootMAE.encoder must be an encoder that computes visible patches alone"):
        BootMAE(encoder=ViT(**VIT, relative_positions=True))
    with pytest.raises(ValueError, match=r"BootMAE.decoder_num_heads = 0"):
        model(decoder_num_heads=0)
    with pytest.raises(ValueError, match=r"BootMAE.loss_predictor_depth = -1"):
        model(loss_predictor_depth=-1)
    with pytest.raises(ValueError, match=r"set BootMAE.loss_predictor_depth"):
        model().predict_loss(images_of())
    random = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random())
    three = WeightedTargets(targets=[Pixels(), Pixels(), Pixels()], weights=[1.0, 1.0, 1.0])
    for target, count in ((Pixels(), 1), (three, 3)):
        with pytest.raises(ValueError, match=rf"@WeightedTargets\(\) of two targets for BootMAE.*is of {count}"):
            Method(model=model(), curriculum=random, target=target)
    blanked = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=HardestFirst(), blank_ratio=0.5)
    two = WeightedTargets(targets=[Pixels(), Pixels()], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"blank_ratio = 0.5 needs a mask token in the encoder, which BootMAE has not"):
        Method(model=model(), curriculum=blanked, target=two)
