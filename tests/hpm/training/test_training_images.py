"""The training images that evaluations look at while a run trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curriculum import Batch
from hpm.config import parse_config
from hpm.training.trainer import Trainer
from hpm.training.training_images import batches_to_evaluate, evenly_spaced


@pytest.fixture
def trainer(tiny: Path) -> Trainer:
    return parse_config([str(tiny)], ["DigitScenes.train_size = 400", "RandomResizedCrop.flip = 0.5"]).build()


def joined(trainer: Trainer, step: int, count: int) -> Batch:
    batches = list(batches_to_evaluate(trainer, step, count))
    parts = zip(*((b.images, b.indices, b.boxes, b.flips) for b in batches), strict=True)
    images, indices, boxes, flips = (torch.cat(part) for part in parts)
    return Batch(images, batches[0].patch_size, indices, boxes, flips)


def test_they_are_the_crops_that_they_say(trainer: Trainer) -> None:
    batch = joined(trainer, 7, 200)
    assert batch.indices is not None
    assert batch.boxes is not None
    assert batch.flips is not None
    assert batch.indices.tolist() == list(range(0, 400, 2))
    assert batch.patch_size == 4
    split = trainer.source.train()
    crops = trainer.source.normalize(split.crop(batch.indices, batch.boxes, batch.flips, 16))
    torch.testing.assert_close(batch.images, crops)
    assert 60 < batch.flips.sum() < 140
    assert (batch.boxes[:, 2:] < 16).any()


def test_the_seed_and_the_step_decide_them(trainer: Trainer, tiny: Path) -> None:
    first = joined(trainer, 7, 50).images
    torch.manual_seed(1)
    assert torch.equal(joined(trainer, 7, 50).images, first)
    assert not torch.equal(joined(trainer, 8, 50).images, first)
    other = parse_config([str(tiny)], ["DigitScenes.train_size = 400", "Trainer.seed = 1"]).build()
    assert not torch.equal(joined(other, 7, 50).images, first)


def test_at_most_as_many_as_there_are(trainer: Trainer) -> None:
    assert len(joined(trainer, 0, 1000)) == 400
    assert evenly_spaced(5, 3).tolist() == [0, 1, 2]
    assert evenly_spaced(3, 10).tolist() == [0, 3, 6]
    assert evenly_spaced(4, 7).tolist() == [0, 1, 3, 5]  # no more of the first half than of the second
