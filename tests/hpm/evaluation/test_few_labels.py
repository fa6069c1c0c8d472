"""Training on a few labels: its batches, its rates, and the whole loop against one written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from curriculum import Noise
from curriculum.noise import hash_words
from curriculum.streams import Stream
from hpm.data import RandomResizedCrop
from hpm.errors import TrainingError
from hpm.evaluation import EvaluationContext, LowShot, classifier
from hpm.evaluation.convergence import WarmupRates
from hpm.evaluation.few_labels import FewLabels, draw_labels
from hpm.evaluation.samples import labels_of
from hpm.optim.clock import Clock
from hpm.optim.param_groups import layer_groups


def few_labels(context: EvaluationContext, count: int = 23) -> FewLabels:
    return FewLabels(
        source=context.source,
        train_N=torch.arange(100, 100 + count),
        crop=RandomResizedCrop(scale=(0.6, 1.0), flip=0.0),
        batch_size=10,
        patch_size=4,
        seed=3,
        device=context.device,
    )


def test_an_epoch_has_every_image_once_in_another_order(context: EvaluationContext) -> None:
    labelled = few_labels(context, 20)
    orders = [[index for (batch,) in labelled.epoch(epoch) for index in batch.indices.tolist()] for epoch in range(3)]
    assert [sorted(order) for order in orders] == [list(range(100, 120))] * 3
    assert orders[0] != orders[1] != orders[2]


def test_an_epoch_is_the_same_whatever_came_before_it(context: EvaluationContext) -> None:
    labelled = few_labels(context)
    assert labelled.steps_per_epoch == 2  # three images are left over
    in_order = [list(labelled.epoch(epoch)) for epoch in range(3)]
    for (alone,), (after,) in zip(few_labels(context).epoch(2), in_order[2], strict=True):
        assert torch.equal(alone.indices, after.indices)
        assert torch.equal(alone.images, after.images)


def test_rates_rise_and_stay() -> None:
    rates = WarmupRates(epochs=5, lr=2.0, warmup_epochs=0.5)
    values = [rates.learning_rate(Clock(step, 20, 5)) for step in range(100)]
    assert values[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert values[10:] == [2.0] * 90
    assert WarmupRates(epochs=5, lr=2.0, warmup_epochs=0).learning_rate(Clock(0, 20, 5)) == 2.0


def written_out(context: EvaluationContext, evaluation: LowShot, draw: int) -> nn.Module:
    """Low-shot fine-tuning from the pre-trained weights, as one loop."""
    source, split = context.source, context.source.train()
    train_N = draw_labels(labels_of(split), evaluation._per_class(source), 10, draw)
    vit = classifier(context.model, 10, pool="mean").train()
    groups = layer_groups(vit, lr=2e-3, layer_decay=0.75, weight_decay=0.05)
    optimizer = torch.optim.AdamW(groups, fused=True)
    order_seed, crop_seed = hash_words(draw, Stream.LOW_SHOT_ORDER), hash_words(draw, Stream.LOW_SHOT_CROPS)
    step = 0
    for epoch in range(3):
        order = Noise(order_seed, epoch, train_N).bits(1).squeeze(1).argsort(stable=True)
        for places in order.split(10):
            for group in optimizer.param_groups:
                group["lr"] = group["lr_scale"] * min(1.0, (step + 1) / 6)
            indices = train_N[places]
            boxes, flips = evaluation.crop.draw(split.sizes(indices), Noise(crop_seed, epoch, indices))
            images = source.normalize(split.crop(indices, boxes, flips, 16))
            F.cross_entropy(vit(images), labels_of(split)[indices], label_smoothing=0.1).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return vit


def test_the_loop_is_the_one_written_out(context: EvaluationContext) -> None:
    evaluation = LowShot(labels=40, epochs=3, batch_size=10, warmup_epochs=1.5, test_images=20)
    train_N = draw_labels(labels_of(context.source.train()), [4] * 10, 10, 1)
    training = evaluation._start(context, train_N, 1, context.model, "pretrained", 2e-3, most_epochs=3, budget=None)
    training.run(3)
    theirs = written_out(context, evaluation, draw=1).state_dict()
    for name, value in training.trained.state_dict().items():
        torch.testing.assert_close(value, theirs[name], atol=1e-6, rtol=1e-5)


def test_a_loss_that_is_not_finite_ends_it(context: EvaluationContext) -> None:
    evaluation = LowShot(labels=40, epochs=2, batch_size=10, lr=1e20)
    with pytest.raises(
        TrainingError, match=r"low-shot-draw0-pretrained-lr1e\+20: the loss is not finite in epoch 1. Lower LowShot.lr"
    ):
        evaluation(context)
