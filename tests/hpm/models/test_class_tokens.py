"""Several class tokens: what they compute, in which network of timm's they end, and whole runs of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from tiny_models import random_mask, some_images, tiny_method, tiny_model
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from curriculum.testing import refuse_host_sync
from hpm.errors import UserError
from hpm.evaluation.dense.segmenters import DPTSegmenter
from hpm.evaluation.features import pooled
from hpm.inference.loading import load_model
from hpm.methods.operations import multiply_adds
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import resample_positions
from hpm.models.pretrained import load_into
from hpm.models.simmim import SimMIM
from hpm.models.vit import ViT
from hpm.optim.param_groups import layer_groups
from hpm.targets import Pixels, TimmFeatures

TOKENS = 8


def model_of(class_tokens: int = TOKENS, **changes: Any) -> MaskedAutoencoder:
    """A model whose parameters and positions are not as at the start: every token and every place counts."""
    model = tiny_model(depth=2, class_tokens=class_tokens, **changes)
    generator = torch.Generator().manual_seed(3)
    for value in (*model.parameters(), model.encoder.pos_embed, model.decoder_pos_embed):
        value.data += torch.randn(value.shape, generator=generator) * 0.2
    return model.eval()


def outcome(model: MaskedAutoencoder, images: Tensor) -> Tensor:
    """One number that depends on everything that the model gives."""
    mask = random_mask(len(images), 16, 12)
    output = model(images, mask)
    given = (output.reconstruction_NMP, output.predicted_loss_NM, model.encoder(images, mask))
    generator = torch.Generator().manual_seed(4)
    return sum(
        (value * torch.randn(value.shape, generator=generator, dtype=value.dtype)).sum()
        for value in given
        if value is not None
    )  # type: ignore[return-value]


@pytest.mark.parametrize("loss_predictor_depth", [0, 1])
def test_gradients_are_those_of_finite_differences(loss_predictor_depth: int) -> None:
    model = model_of(loss_predictor_depth=loss_predictor_depth).double()
    images, step = some_images().double(), 1e-5
    outcome(model, images).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        sides = []
        for sign in (1, -1):
            parameter.data += sign * step * direction
            sides.append(outcome(model, images).detach())
            parameter.data -= sign * step * direction
        expected = (sides[0] - sides[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6), name
    assert model.encoder.reg_token is not None
    assert (model.encoder.reg_token.grad.norm(dim=2) > 0.01).all()


@torch.no_grad()
def test_decoders_read_every_class_token() -> None:
    model, images, mask = model_of(), some_images(), random_mask(3, 16, 12)
    latent = model.encode(images, mask)
    assert latent.shape == (3, TOKENS + 4, 16)
    before = model._decoder_input(latent, mask, (4, 4))
    assert before.shape == (3, TOKENS + 16, 16)
    for token in range(TOKENS):
        changed = latent.clone()
        changed[:, token] += 1
        moved = (model._decoder_input(changed, mask, (4, 4)) != before).any(dim=2)
        assert moved.nonzero()[:, 1].unique().tolist() == [token]
    whole = model._decoder_input(model.encode(images), None, (4, 4))
    masked = model._decoder_input(latent, mask, (4, 4))[:, TOKENS + 4 :]
    positions = model.decoder_pos_embed[0, TOKENS:][mask.masked]
    torch.testing.assert_close(masked - positions, model.mask_token.expand_as(masked))
    assert model.predict_loss(images).shape == (3, 16)
    assert whole.shape == before.shape


def test_one_class_token_starts_as_ever_and_others_come_last() -> None:
    """All that a model of one token has starts with the same bits in a model of several."""
    one, several = tiny_model(blank_token=True), tiny_model(blank_token=True, class_tokens=TOKENS)
    for model in (one, several):
        model.init_weights(torch.Generator().manual_seed(0))
    others = dict(several.named_parameters())
    added = others.pop("encoder.reg_token")
    assert list(others) == [name for name, _ in one.named_parameters()]
    assert all(torch.equal(parameter, others[name]) for name, parameter in one.named_parameters())
    assert added.shape == (1, TOKENS - 1, 16)
    assert 0.01 < added.std() < 0.03
    for positions, of_one in (
        (several.encoder.pos_embed, one.encoder.pos_embed),
        (several.decoder_pos_embed, one.decoder_pos_embed),
    ):
        assert not positions[:, :TOKENS].any()
        assert torch.equal(positions[:, TOKENS:], of_one[:, 1:])


@torch.no_grad()
@pytest.mark.parametrize("class_tokens", [2, TOKENS])
def test_timms_model_has_the_same_tokens(class_tokens: int) -> None:
    encoder, images = model_of(class_tokens).encoder, some_images()
    tokens = encoder(images)
    assert tokens.shape == (3, class_tokens + 16, 16)
    theirs: Any = encoder.timm_model().eval()
    assert theirs.num_prefix_tokens == class_tokens
    torch.testing.assert_close(theirs.forward_features(images), tokens, rtol=1e-5, atol=1e-5)
    for pool, ours in (("token", "token"), ("avg", "mean")):
        features: Any = encoder.timm_model(pool=pool).eval()
        torch.testing.assert_close(features(images), pooled(encoder, images, ours), rtol=1e-5, atol=1e-5)
    averaged: Any = encoder.timm_model(pool="avg", norm_last=True).eval()
    assert averaged(images).isfinite().all()


def maps_of_timm(encoder: ViT, images: Tensor, block: int) -> Tensor:
    """A block's attention map [N, H, T, T] in timm's model of the same weights, whose kernel is not fused."""
    theirs: Any = encoder.timm_model().eval()
    maps: list[Tensor] = []
    attention = theirs.blocks[block].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda _, inputs, __: maps.append(inputs[0]))
    theirs(images)
    return maps[0]


@torch.no_grad()
def test_attention_is_the_mean_over_class_tokens_and_leaves_all_of_them_out() -> None:
    model, images = model_of(), some_images()
    map_NHTT = maps_of_timm(model.encoder, images, block=-1)
    with refuse_host_sync():
        found = model.attention(images)
    assert found.shape == (3, 2, 16)
    torch.testing.assert_close(found, map_NHTT[:, :, :TOKENS, TOKENS:].mean(dim=2), rtol=1e-4, atol=1e-6)
    assert (found - map_NHTT[:, :, 0, TOKENS:]).abs().max() > 1e-3  # not the first one's
    queries_NQ = torch.tensor([[0, 15, 7], [3, 2, 1], [8, 9, 14]])
    map_NTT = maps_of_timm(model.encoder, images, block=0).mean(dim=1)
    expected = [map_NTT[image, TOKENS + queries].sum(dim=0)[TOKENS:] for image, queries in enumerate(queries_NQ)]
    torch.testing.assert_close(model.sampled_attention(images, queries_NQ), torch.stack(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_predictor_depth", [None, 0, 1])
def test_operations_are_counted_with_all_tokens(loss_predictor_depth: int | None) -> None:
    """Block by block as they compute, and against arithmetic by hand of what published code does."""
    with torch.device("meta"):
        method = tiny_method(
            Pixels(),
            model=MaskedAutoencoder(
                img_size=32,
                patch_size=8,
                embed_dim=16,
                depth=2,
                num_heads=2,
                decoder_embed_dim=12,
                decoder_depth=2,
                decoder_num_heads=2,
                loss_predictor_depth=loss_predictor_depth,
                class_tokens=TOKENS,
            ),
        )
    model, seen = method.student, TOKENS + 4
    sizes = [(seen, 16)] * 2 + [(TOKENS + 16, 12)] * (2 + (loss_predictor_depth or 0))
    assert model.block_sizes(12, 0) == sizes
    entered: list[tuple[int, int]] = []
    for block in model.blocks():
        block.register_forward_hook(lambda _, inputs, __: entered.append(tuple(inputs[0].shape[1:])))
    images = torch.empty(1, 3, 32, 32, device="meta")
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        model(images, random_mask(1, 16, 12).to("meta"))
    assert entered == sizes
    counted = multiply_adds(method)
    ours = sum(counted[part] for part in ("encoder", "reconstructor", "loss predictor"))
    assert ours == counter.get_total_flops() / 2
    blocks = sum(tokens * 12 * width**2 + 2 * tokens**2 * width for tokens, width in sizes)
    heads = (TOKENS + 16) * 12 * 192 + (0 if loss_predictor_depth is None else 12 * 12)
    assert ours + model.macs_published_code_adds(masked=12, thrown=0) == 16 * 192 * 16 + blocks + seen * 16 * 12 + heads


def test_fine_tuning_treats_all_class_tokens_alike() -> None:
    network = model_of().encoder.timm_model(num_classes=3)
    groups = layer_groups(network, lr=1.0, layer_decay=0.5, weight_decay=0.05)
    of = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    first, others = network.get_parameter("cls_token"), network.get_parameter("reg_token")
    assert of[id(first)] == of[id(others)] == (0.5**3, 0.0)


@torch.no_grad()
def test_a_dpt_decoder_reads_the_patches_where_they_are() -> None:
    model = tiny_model(depth=4, img_size=64, patch_size=16, class_tokens=TOKENS)
    segmenter = DPTSegmenter(model, 5, channels=16).eval()
    assert segmenter(some_images(2, 64)).shape == (2, 5, 64, 64)


@pytest.mark.parametrize(("theirs", "ours"), [(1, TOKENS), (TOKENS, 1), (4, TOKENS)])
def test_weights_of_another_number_of_class_tokens_are_refused(theirs: int, ours: int) -> None:
    with pytest.raises(UserError, match=rf"MaskedAutoencoder\.class_tokens = {theirs} would fit"):
        load_into(tiny_model(class_tokens=ours), tiny_model(class_tokens=theirs).state_dict(), Path("other.pth"))


@torch.no_grad()
def test_sincos_positions_of_another_grid_are_computed() -> None:
    small, large = tiny_model(class_tokens=TOKENS), tiny_model(class_tokens=TOKENS, img_size=48)
    expected = large.encoder.pos_embed.clone(), large.decoder_pos_embed.clone()
    with pytest.warns(UserWarning, match="computed for 6 x 6 patches, 4 x 4 there"):
        load_into(large, small.state_dict(), Path("small.pth"))
    assert torch.equal(large.encoder.pos_embed, expected[0])
    assert torch.equal(large.decoder_pos_embed, expected[1])
    assert torch.equal(large.encoder.reg_token, small.encoder.reg_token)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: tiny_model(class_tokens=0), r"MaskedAutoencoder\.class_tokens = 0 must be at least 1"),
        (lambda: ViT(class_tokens=10**9), r"ViT\.class_tokens = 1000000000 must be .* at most 1000"),
        (lambda: ViT(class_tokens=2, relative_positions=True), r"needs ViT\.relative_positions = False"),
        (
            lambda: SimMIM(encoder=ViT(img_size=16, patch_size=4, embed_dim=8, depth=1, num_heads=1, class_tokens=2)),
            r"ViT\.class_tokens = 2 is not for SimMIM",
        ),
    ],
)
def test_refuses(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


RUN = [
    "MaskedAutoencoder.class_tokens = 4",
    "Schedule.epochs = 2",
    "HorizonDecay.fraction = 0.2",
    "Checkpointing.every = 10",
    "Monitoring.log_every = 10",
]
SMALL = [
    *(f"KNN.{split}_images = {count}" for split, count in (("train", 40), ("test", 16))),
    "KNN.pool = 'token'",
    *(f"FineTune.{binding}" for binding in ("epochs = 1", "accumulate = 1", "batch_size = 16", "warmup_epochs = 0")),
    "FineTune.rand_augment = None",
    "Agreement.images = 16",
    "Localization.images = 16",
]


def test_it_trains_resumes_exactly_and_is_exported(
    tiny: Path,
    hpm: Callable[..., int],
    same_end: Callable[[Path], None],
    capsys: pytest.CaptureFixture,
) -> None:
    """Under a curriculum that asks the teacher's class tokens."""
    assert hpm("pretrain", tiny, "curricula/attention", *words(*RUN), "--output", "run") == 0
    same_end(Path("run"))
    assert hpm("evaluate", "run", "--protocol", "knn,finetune,agreement,localization", *words(*SMALL)) == 0
    (found,) = json.loads(Path("run/evaluation-knn.json").read_text())
    assert hpm("export", "run", "--out", "exported") == 0
    assert json.loads(Path("exported/config.json").read_text())["model_args"]["reg_tokens"] == 3
    context = load_model(Path("run")).context()
    images = context.source.load(context.source.test(), torch.arange(3))
    theirs = timm.create_model("local-dir:exported", pretrained=True).eval()
    with torch.no_grad():
        tokens = context.model.encoder(images)
        torch.testing.assert_close(theirs.forward_features(images), tokens, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs(images), tokens[:, 0], rtol=1e-5, atol=1e-5)
    assert hpm("evaluate", "exported", tiny, "--protocol", "knn", *words(*SMALL[:3])) == 0
    (again,) = json.loads(Path("evaluation-knn.json").read_text())
    assert again["metrics"] == found["metrics"]
    target = TimmFeatures(model="local-dir:exported", checkpoint="run", img_size=32)  # twice the run's side
    assert target.outputs(context.model) == 16
    target.load()
    network, encoder = target.network.network, context.model.encoder
    assert torch.equal(network.reg_token, encoder.reg_token)
    expected = resample_positions(encoder.pos_embed, (8, 8), (4, 4), num_prefix_tokens=4)
    torch.testing.assert_close(network.pos_embed.data, expected)
    for start in ("run", "exported"):
        short = words(*RUN, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0")
        assert hpm("pretrain", tiny, *short, "--init-from", start, "--output", f"from_{start}") == 0
    capsys.readouterr()
    assert hpm("pretrain", tiny, "--init-from", "run", "--output", "other") == 2
    assert "MaskedAutoencoder.class_tokens = 4 would fit" in " ".join(capsys.readouterr().err.split())
