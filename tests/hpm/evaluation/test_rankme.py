"""RankMe: the effective rank of matrices that are known, and of a model's features of images without labels."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from annotated import mosaics, on
from PIL import Image

from hpm.data import ImageFolder, UnreadableImages
from hpm.evaluation import EvaluationContext, RankMe
from hpm.evaluation.features import extract
from hpm.evaluation.rankme import effective_rank
from hpm.inference.loading import load_model

CPU = torch.device("cpu")


def orthogonal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).double()).Q


def test_features_on_a_line_have_rank_one() -> None:
    line_ND = torch.linspace(-2, 5, 40).unsqueeze(1) * torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    assert effective_rank(line_ND) == pytest.approx(1, abs=1e-4)


def test_features_in_all_directions_alike_have_as_many() -> None:
    assert effective_rank(orthogonal(50, 8)) == pytest.approx(8, abs=1e-4)
    assert effective_rank(orthogonal(50, 8).T * 1e-3) == pytest.approx(8, abs=1e-4)  # of 8 images there are no more


def test_golden_numbers() -> None:
    three_to_one = orthogonal(20, 2) * torch.tensor([3.0, 1.0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert (
        effective_rank(three_to_one) == pytest.approx(math.exp(entropy), abs=1e-5) == pytest.approx(1.754765, abs=1e-5)
    )
    rng = np.random.default_rng(0)
    features_ND = rng.normal(size=(300, 16)) @ rng.normal(size=(16, 16))
    values = np.sqrt(np.linalg.eigvalsh(features_ND.T @ features_ND))
    shares = values / values.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.tensor(features_ND)) == pytest.approx(expected, abs=1e-4)
    assert effective_rank(torch.tensor(features_ND, dtype=torch.float32)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_it_is_of_the_students_features_of_training_images(context: EvaluationContext, pool: str) -> None:
    source = context.source
    metrics = RankMe(images=50, pool=pool, baselines=True).measure(context)
    chosen = torch.randperm(400, generator=torch.Generator().manual_seed(0))[:50].sort().values
    for name, model in (("pretrained", context.model), ("initialization", context.initial())):
        features_ND = extract(model.encoder, source, source.train(), chosen, pool=pool, device=CPU)
        assert metrics.pop(f"rankme/{name}") == effective_rank(features_ND)
    assert metrics == {}
    assert context.scored_images == context.per_class == context.galleries == {}


def test_another_seed_changes_nothing_and_neither_do_workers(context: EvaluationContext) -> None:
    found = RankMe(images=50)(context)
    assert RankMe(images=50, num_workers=2)(replace(context, seed=3)) == found
    assert RankMe(images=1000)(context) == RankMe(images=400)(context) != found


def test_a_model_that_tells_nothing_apart_has_rank_one(context: EvaluationContext) -> None:
    for parameter in context.model.encoder.parameters():
        torch.nn.init.zeros_(parameter.detach())
    context.model.encoder.norm.bias.data[0] = 1.0
    assert RankMe(images=30)(context)["rankme/pretrained"] == pytest.approx(1, abs=1e-3)


def images(folder: Path, count: int = 40) -> Path:
    """Files without labels, and nothing else."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_others_stand_in_for_images_that_cannot_be_read(context: EvaluationContext, tmp_path: Path) -> None:
    root = images(tmp_path / "images")
    (root / "03.png").write_text("no picture")
    context = replace(on(context, ImageFolder(root=root, img_size=16)), unreadable=UnreadableImages(0.1))
    found = RankMe()(context)
    assert list(context.unreadable.by_index) == [3]
    (root / "03.png").write_bytes((root / "04.png").read_bytes())
    assert RankMe()(on(context, ImageFolder(root=root, img_size=16))) == found


def test_a_run_on_images_without_labels_draws_its_curve(hpm: Callable[..., int], tiny: Path, tmp_path: Path) -> None:
    """Before, within and after training; no held-out images are needed."""
    images(tmp_path / "images", 64)
    bindings = (
        "Trainer.source = @ImageFolder()",
        "ImageFolder.root = 'images'",
        "ImageFolder.img_size = 16",
        "Monitoring.probes = [@RankMe()]",
        "Monitoring.evaluations = [@RankMe(), @HardnessShare()]",
        "Monitoring.probe_every = 1",
        "RankMe.baselines = True",
    )
    assert hpm("pretrain", tiny, *(word for text in bindings for word in ("-b", text)), "--output", "run") == 0
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    curve = [row["rankme/pretrained"] for row in rows if row["kind"] == "probe"]
    assert len(curve) == 3
    assert all(1 <= rank <= 16 for rank in curve)
    final = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert final["rankme/pretrained"] not in curve
    assert final["rankme/initialization"] == rows[-1]["rankme/initialization"]
    assert len({row["rankme/initialization"] for row in rows if "rankme/initialization" in row}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1}, r"RankMe.images = 1 must lie in \[2, 1000000\]"),
        ({"pool": "max"}, "RankMe.pool = 'max' is unknown; choose 'mean', 'token'"),
        ({"num_workers": -1}, "RankMe.num_workers = -1"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RankMe(**arguments)


def test_refuses_images_of_another_size(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match="Annotated"):
        RankMe().check(mosaics(size=8), context.model)


def test_it_needs_no_held_out_images(pretrained: Callable[..., Path], hpm: Callable[..., int], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained(), run)
    words = ["data/image_folder", "-b", f"ImageFolder.root = '{images(tmp_path / 'photos')}'"]
    assert hpm("evaluate", run, *words, "--protocol", "rankme", "-b", "RankMe.images = 10") == 0
    entry = json.loads((run / "evaluation-rankme.json").read_text())[-1]
    assert entry["metrics"].keys() == {"rankme/pretrained"}


@pytest.mark.parametrize("protocol", ["rankme", "lidar"])
def test_images_that_bound_the_rank_are_told(
    pretrained: Callable[..., Path],
    hpm: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    protocol: str,
) -> None:
    """As is how many there are."""
    run, owner = shutil.copytree(pretrained(), tmp_path / "run"), {"rankme": "RankMe", "lidar": "LiDAR"}[protocol]
    width = load_model(run).method.student.encoder.num_features
    enough = {"rankme": width, "lidar": width + 1}[protocol]
    for count, told in ((enough - 1, True), (enough, False)):
        capsys.readouterr()
        assert hpm("evaluate", run, "--protocol", protocol, "-b", f"{owner}.images = {count}") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert (f"{owner}: so few training images bound the rank by {width - 1}, and features" in out) == told
        assert "images: 160 train" in out


def test_how_many_images_may_be_unreadable_can_be_bound(
    pretrained: Callable[..., Path], hpm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, photos = tmp_path / "run", images(tmp_path / "photos")
    shutil.copytree(pretrained(), run)
    next(photos.rglob("*.png")).write_bytes(b"no image")
    words = ["data/image_folder", "-b", f"ImageFolder.root = '{photos}'", "--protocol", "rankme"]
    assert hpm("evaluate", run, *words) == 3
    assert "raise Loading.max_unreadable" in capsys.readouterr().err
    assert hpm("evaluate", run, *words, "-b", "Loading.max_unreadable = 0.1") == 0
