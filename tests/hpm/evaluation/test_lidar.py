"""LiDAR: the rank of matrices that are known, and of a model's features of masked images without labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated import mosaics, on
from PIL import Image

from curriculum import Constant, Curriculum, EdgeDensity, HardestFirst, Mask
from hpm.data import ImageFolder, UnreadableImages
from hpm.evaluation import EvaluationContext, LiDAR
from hpm.evaluation.lidar import discriminant_rank, view_features
from hpm.models.base import MaskedModel
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.runtime.distributed import DistributedContext


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def literal(features_NQD: np.ndarray) -> float:
    """The paper's formula, an image and a view at a time."""
    count, views, width = features_NQD.shape
    means = [image.mean(axis=0) for image in features_NQD]
    between = sum(np.outer(mean - np.mean(means, axis=0), mean - np.mean(means, axis=0)) for mean in means)
    within = sum(
        np.outer(view - mean, view - mean) for image, mean in zip(features_NQD, means, strict=True) for view in image
    )
    values, vectors = np.linalg.eigh(within / (count * (views - 1)) + 1e-4 * np.eye(width))
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ (between / (count - 1)) @ root).clip(min=0)
    shares = eigenvalues / eigenvalues.sum() + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("count", "views", "width"), [(60, 3, 8), (5, 2, 12), (200, 10, 4)])
def test_it_is_the_formula_of_the_paper(count: int, views: int, width: int) -> None:
    mixed_NQD = (random(count, 1, width) + 0.3 * random(count, views, width, seed=1)) @ random(width, width, seed=2)
    expected = literal(mixed_NQD.numpy())
    assert discriminant_rank(mixed_NQD) == pytest.approx(expected, rel=1e-9)
    assert discriminant_rank(mixed_NQD.float()) == pytest.approx(expected, rel=1e-4)
    assert 1 < expected < min(count - 1, width) + 1e-3


def test_a_golden_number() -> None:
    """Two directions alike between images, of variances 1 and 4 within: the shares are 0.8 and 0.2."""
    corners_ND = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]).double()
    offsets_QD = 1e3 * torch.tensor([[1.0, 2], [1, -2], [-1, 2], [-1, -2]]).double()  # next to which the ridge is none
    found = discriminant_rank(corners_ND.unsqueeze(1) + offsets_QD)
    assert found == pytest.approx(0.8**-0.8 * 0.2**-0.2, abs=1e-5) == pytest.approx(1.649385, abs=1e-5)


def test_means_on_a_line_have_rank_one_however_views_differ() -> None:
    offsets_NQD = random(50, 4, 8)
    offsets_NQD -= offsets_NQD.mean(dim=1, keepdim=True)
    line_N1D = torch.linspace(-2, 5, 50).double()[:, None, None] * random(1, 1, 8, seed=1) + 3
    assert discriminant_rank(line_N1D + offsets_NQD) == pytest.approx(1, abs=1e-4)
    assert discriminant_rank(random(1, 4, 8).expand(50, -1, -1)) == pytest.approx(1, abs=1e-4)
    assert discriminant_rank(torch.zeros(50, 4, 8)) == 1


def test_images_that_differ_in_all_directions_alike_have_as_many() -> None:
    spread_NQD = random(4000, 1, 8) + 0.1 * random(4000, 5, 8, seed=1)
    assert discriminant_rank(spread_NQD) == pytest.approx(8, abs=0.02)
    assert discriminant_rank(spread_NQD[:4]) < 3.01  # of 4 images there are no more


def test_directions_in_which_views_differ_count_for_less() -> None:
    """As many as the features fill, and fewer that tell images apart."""
    means_N1D = random(4000, 1, 8)
    noise_NQD = random(4000, 50, 8, seed=1) * torch.tensor([0.01] * 2 + [1.0] * 6)
    assert discriminant_rank(means_N1D + noise_NQD) == pytest.approx(2, abs=0.05)


def test_a_rotation_changes_nothing_and_neither_does_a_shift() -> None:
    features_NQD = (random(60, 1, 8) + 0.3 * random(60, 3, 8, seed=1)) * torch.logspace(-1, 1, 8)
    rotation = torch.linalg.qr(random(8, 8, seed=2)).Q
    assert discriminant_rank(features_NQD @ rotation + 7) == pytest.approx(discriminant_rank(features_NQD), rel=1e-9)


MODELS: dict[str, Callable[[], MaskedModel]] = {
    "mae": lambda: MaskedAutoencoder(
        img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_num_heads=2
    ),
    "simmim": lambda: SimMIM(encoder=ViT(img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2)),
    "swin": lambda: SimMIM(
        encoder=Swin(img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_view_is_what_the_student_sees_of_an_image(context: EvaluationContext, name: str) -> None:
    """Changing pixels changes those views alone that see them, the same of all images, in every kind of model."""
    model = MODELS[name]()
    curriculum = Curriculum(scheduler=Constant(), difficulty=EdgeDensity(), sampler=HardestFirst(), mask_ratio=0.75)
    data = mosaics(size=16)
    context = replace(on(context, data), model=model, curriculum=curriculum)
    indices_N, views = torch.arange(40), 24
    before_NQD = view_features(context, model, indices_N, views=views)
    data.train().images_KCHW[:, :, :4, :4] ^= 255  # the first patch of each
    changed_NQ = (view_features(context, model, indices_N, views=views) - before_NQD).abs().amax(dim=2) > 1e-6
    assert changed_NQ.double().mean() == pytest.approx(0.25, abs=0.1)  # 4 of 16 patches are seen
    assert len(changed_NQ.unique(dim=0)) == 1
    assert (before_NQD[:, 0] - before_NQD[:, 1]).abs().amax(dim=1).min() > 1e-6


def test_mask_tokens_must_be_trained_where_the_encoder_reads_them() -> None:
    needed = {name: LiDAR().needs_trained(make()) for name, make in MODELS.items()}
    assert needed == {"mae": frozenset(), "simmim": {"reconstructor"}, "swin": {"reconstructor"}}


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_only_visible_patches_are_pooled(
    context: EvaluationContext, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, Mask]] = []
    encode = context.model.encode

    def noted(images: torch.Tensor, mask: Mask | None = None) -> torch.Tensor:
        assert mask is not None
        tokens = encode(images, mask)
        seen.append((tokens, mask))
        return tokens

    monkeypatch.setattr(context.model, "encode", noted)
    curriculum = Curriculum(scheduler=Constant(), difficulty=EdgeDensity(), sampler=HardestFirst(), throw_ratio=0.125)
    context = replace(context, curriculum=curriculum)
    found_NQD = view_features(context, context.model, torch.tensor([5, 9]), views=3, pool=pool)
    assert [tokens.shape for tokens, _ in seen] == [(2, 1 + 2, 32)] * 3  # 12 of 16 are masked and 2 thrown away
    assert all(mask.thrown is not None and mask.thrown.shape[1] == 2 for _, mask in seen)
    expected_QND = torch.stack([tokens[:, 1:].mean(dim=1) if pool == "mean" else tokens[:, 0] for tokens, _ in seen])
    assert torch.equal(found_NQD, expected_QND.transpose(0, 1))


def test_it_is_of_the_students_views_of_training_images(context: EvaluationContext) -> None:
    metrics = LiDAR(images=50, views=3, baselines=True).measure(context)
    chosen = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:50].sort().values
    for name, model in (("pretrained", context.model), ("initialization", context.initial())):
        expected = discriminant_rank(view_features(context, model, chosen, views=3))
        assert metrics.pop(f"lidar/{name}") == expected
    assert metrics == {}


def test_another_seed_changes_nothing_and_neither_do_workers(context: EvaluationContext) -> None:
    found = LiDAR(images=50, views=3)(context)
    assert LiDAR(images=50, views=3, num_workers=2)(replace(context, seed=3)) == found
    assert LiDAR(images=1000, views=3)(context) == LiDAR(images=400, views=3)(context) != found


def test_neither_batches_nor_shares_change_a_view(context: EvaluationContext) -> None:
    indices_N = torch.arange(0, 400, 13)
    whole = view_features(context, context.model, indices_N, views=3)
    batched = view_features(context, context.model, indices_N, views=3, batch_size=7)
    torch.testing.assert_close(batched, whole, atol=1e-5, rtol=0)
    shares = [DistributedContext(rank, 2).share(indices_N) for rank in range(2)]
    halves = [view_features(context, context.model, share, views=3) for share in shares]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-5, rtol=0)
    assert discriminant_rank(batched) == pytest.approx(discriminant_rank(whole), rel=1e-4)
    assert view_features(context, context.model, indices_N[:0], views=3).shape == (0, 3, 32)


def test_a_model_whose_views_are_all_alike_has_rank_one(context: EvaluationContext) -> None:
    for parameter in context.model.encoder.parameters():
        torch.nn.init.zeros_(parameter.detach())
    context.model.encoder.norm.bias.data[0] = 1.0
    assert LiDAR(images=30)(context)["lidar/pretrained"] == pytest.approx(1, abs=1e-3)


def test_features_that_tell_nothing_but_the_mask_have_rank_one(context: EvaluationContext) -> None:
    """All images have the same masks."""
    seeing = LiDAR(images=300)(context)["lidar/pretrained"]
    torch.nn.init.zeros_(context.model.encoder.patch_embed.proj.weight.detach())
    assert LiDAR(images=300)(context)["lidar/pretrained"] == pytest.approx(1, abs=1e-3) != seeing


def test_others_stand_in_for_images_that_cannot_be_read(context: EvaluationContext, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(root / f"{number:02}.png")
    (root / "03.png").write_text("no picture")
    context = replace(on(context, ImageFolder(root=root, img_size=16)), unreadable=UnreadableImages(0.1))
    found = LiDAR(views=2)(context)
    assert list(context.unreadable.by_index) == [3]
    (root / "03.png").write_bytes((root / "04.png").read_bytes())
    assert LiDAR(views=2)(on(context, ImageFolder(root=root, img_size=16))) == found


def test_a_run_draws_its_curve_and_the_command_line_finds_the_same(
    hpm: Callable[..., int], tiny: Path, tmp_path: Path
) -> None:
    """Before, within and after training; another seed of the evaluation is the same figure."""
    own = ("LiDAR.images = 60", "LiDAR.views = 3", "LiDAR.baselines = True")
    bindings = (
        "Monitoring.probes = [@LiDAR()]",
        "Monitoring.evaluations = [@LiDAR()]",
        "Monitoring.probe_every = 1",
        "Schedule.epochs = 2",
        *own,
    )
    assert hpm("pretrain", tiny, *(word for text in bindings for word in ("-b", text)), "--output", "run") == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    curve = [row["lidar/pretrained"] for row in rows if row["kind"] == "probe"]
    assert curve
    assert all(1 <= rank <= 16 for rank in curve)
    final = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert final["lidar/pretrained"] not in curve
    assert len({row["lidar/initialization"] for row in rows if "lidar/initialization" in row}) == 1
    words = [word for text in own for word in ("-b", text)]
    assert hpm("evaluate", "run", "--protocol", "lidar", *words) == 0
    entry = json.loads(Path("run/evaluation-lidar.json").read_text())[-1]["metrics"]
    assert {name: metric["mean"] for name, metric in entry.items()} == pytest.approx(
        {name: final[name] for name in ("lidar/pretrained", "lidar/initialization")}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1}, r"LiDAR.images = 1 must lie in \[2, 1000000\]"),
        ({"views": 1}, r"LiDAR.views = 1 must lie in \[2, 1000\]"),
        ({"pool": "max"}, "LiDAR.pool = 'max' is unknown; choose 'mean', 'token'"),
        ({"num_workers": -1}, "LiDAR.num_workers = -1"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiDAR(**arguments)


def test_refuses_images_of_another_size_and_a_class_token_that_is_not_there(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match="Annotated"):
        LiDAR().check(mosaics(size=8), context.model)
    with pytest.raises(ValueError, match=r"LiDAR.pool = 'token' needs a class token, and Swin has none"):
        LiDAR(pool="token").check(context.source, MODELS["swin"]())
