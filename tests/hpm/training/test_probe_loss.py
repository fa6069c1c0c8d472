"""The loss under fixed random probes: what it is, and that measuring it changes nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from PIL import Image

from curriculum import Mask, Noise, Stream
from curriculum.noise import hash_words
from hpm.config import parse_config
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.training.probe_loss import ProbeLoss
from hpm.training.trainer import Trainer

Hpm = Callable[..., int]


def ready(config: Path, *bindings: str) -> Trainer:
    """A trainer whose student has its initial weights."""
    trainer: Trainer = parse_config([str(config)], list(bindings)).build()
    trainer.build_step()
    return trainer


def rows(folder: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["kind"] == "train"]


def read_image(trainer: Trainer, row: int) -> float:
    """The reconstruction loss of one probe image, computed alone: crop, mask, student and squared error."""
    split, source, student = trainer.source.train(), trainer.source, trainer.method.student
    index = torch.tensor([row])
    crops = Noise(hash_words(trainer.seed, Stream.PROBE_LOSS_CROPS), 0, index)
    box, flip = trainer.crop.draw(split.sizes(index), crops)
    image = source.normalize(split.crop(index, box, flip, 16))
    bits = Noise(hash_words(trainer.seed, Stream.PROBE_LOSS_MASKS), 0, index).bits(16)[0].tolist()
    masked = sorted(sorted(range(16), key=bits.__getitem__)[-12:])
    visible = sorted(set(range(16)) - set(masked))
    with torch.no_grad():
        predicted = student(image, Mask(torch.tensor([visible]), torch.tensor([masked]))).reconstruction_NMP[0]
    losses = []
    for patch, values in zip(masked, predicted, strict=True):
        top, left = 4 * (patch // 4), 4 * (patch % 4)
        pixels = image[0, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
        target = (pixels - pixels.mean()) / (pixels.var() + 1e-6).sqrt()
        losses.append(float((values - target).square().mean()))
    return sum(losses) / len(losses)


def test_it_is_the_mean_loss_of_the_probes(tiny: Path) -> None:
    """Against every image alone; the training split has 160, fewer than are looked at."""
    trainer = ready(tiny)
    expected = sum(read_image(trainer, row) for row in range(160)) / 160
    assert ProbeLoss(trainer).measure() == pytest.approx(expected, rel=1e-5)


def test_it_looks_at_256_images_of_a_large_split_and_at_the_mean_mask_ratio(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = ready(tiny, "DigitScenes.train_size = 800", "Curriculum.mask_ratio = @UniformRatio()")
    ask, masks = trainer.method.student_loss, []

    def recorded(images_NCHW: torch.Tensor, mask: Mask) -> torch.Tensor:
        masks.append(mask)
        return ask(images_NCHW, mask)

    monkeypatch.setattr(trainer.method, "student_loss", recorded)
    ProbeLoss(trainer).measure()
    assert sum(len(mask.masked) for mask in masks) == 256
    assert {mask.num_masked for mask in masks} == {5}  # 16 - int(16 * 0.7)
    masked_NL = torch.cat([mask.to_bool() for mask in masks]).float()
    # 5 of 16 patches: 80 of 256 images each, with a standard deviation of 7.4.
    assert masked_NL.sum(dim=0).sub(80).abs().max() < 30


def test_it_rounds_as_the_curriculum_does(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 16 patches rounded up and 6 thrown away would leave none visible; the curriculum masks 9."""
    rounds = ("Curriculum.mask_ratio = 0.61", "Curriculum.throw_ratio = 0.38", "Curriculum.rounding = 'masked'")
    trainer = ready(tiny, *rounds)
    ask, counts = trainer.method.student_loss, set()

    def recorded(images_NCHW: torch.Tensor, mask: Mask) -> torch.Tensor:
        counts.add((mask.num_masked, mask.num_visible))
        return ask(images_NCHW, mask)

    monkeypatch.setattr(trainer.method, "student_loss", recorded)
    assert math.isfinite(ProbeLoss(trainer).measure())
    assert counts == {(trainer.method.curriculum.count_masked(16), 1)} == {(9, 1)}


def test_it_stays_the_same_and_leaves_all_as_it_was(tiny: Path) -> None:
    """Another measurement, another trainer, other micro-batches and any state of the generators measure the same."""
    torch.manual_seed(0)
    trainer = ready(tiny)
    before, student = torch.get_rng_state(), trainer.method.student
    assert student.training
    probe = ProbeLoss(trainer)
    first = probe.measure()
    assert probe.measure() == first
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in student.modules())
    assert all(parameter.grad is None for parameter in student.parameters())
    torch.manual_seed(1)
    assert ProbeLoss(ready(tiny)).measure() == first
    assert ProbeLoss(ready(tiny, "Schedule.accumulate = 4")).measure() == pytest.approx(first, rel=1e-6)
    assert ProbeLoss(ready(tiny, "Trainer.seed = 1")).measure() != pytest.approx(first, rel=1e-3)


def test_a_run_that_measures_it_trains_as_one_that_does_not(tiny: Path, hpm: Hpm) -> None:
    constant = ["Curriculum.scheduler = @Constant()", "Constant.value = 0.25"]
    bandit = ["Curriculum.scheduler = @Bandit()", "Bandit.values = [0.25, 0.25]"]
    for name, bindings in (("constant", constant), ("bandit", bandit)):
        assert hpm("pretrain", tiny, *(word for b in bindings for word in ("-b", b)), "--output", name) == 0
    ends = [Checkpoint(list_checkpoints(Path(name, "checkpoints"))[0]) for name in ("constant", "bandit")]
    for tensor in ends[0].names():
        assert torch.equal(ends[0].tensor(tensor), ends[1].tensor(tensor)), tensor
    assert not any("probe_loss" in row for row in rows("constant"))
    losses = [row["probe_loss"] for row in rows("bandit")]
    assert len(losses) == 10
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_measure_what_one_does(tiny: Path, hpm: Hpm, forks: Forks, sharding: str) -> None:
    """Of an odd number of images, so that the processes' shares differ."""
    bindings = ["Curriculum.scheduler = @Bandit()", "Schedule.epochs = 2", "DigitScenes.train_size = 161"]
    words = [word for b in bindings for word in ("-b", b)]
    assert hpm("pretrain", tiny, *words, "--output", "one") == 0
    sharded = ["-b", f"Runtime.sharding = '{sharding}'"]
    ran = forks.run("hpm", "pretrain", tiny, *words, *sharded, "--output", "two", env={**os.environ}, processes=2)
    assert ran.returncode == 0, ran.stderr
    one, two = ([row["probe_loss"] for row in rows(name)] for name in ("one", "two"))
    assert two == pytest.approx(one, abs=1e-5)


def test_the_next_image_stands_in_for_one_that_cannot_be_read(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    for number in range(32):
        path = folder / "train" / "class" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (8 * number, 0, 0)).save(path)
    tiny.write_text(tiny.read_text().replace("data/digit_scenes", "data/image_folder").replace("DigitScenes", "# "))
    bindings = [f"ImageFolder.root = '{folder}'", "Loading.num_workers = 0", "Loading.max_unreadable = 0.1"]
    trainer = ready(tiny, *bindings)
    (folder / "train" / "class" / "05.png").write_bytes(b"text")
    assert math.isfinite(ProbeLoss(trainer).measure())
