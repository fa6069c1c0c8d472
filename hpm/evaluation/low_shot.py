"""Low-shot fine-tuning: what pre-training is worth where labels are few.

Representations of masked autoencoders show in fine-tuning first. The encoder is fine-tuned whole on a few labels,
once from its pre-trained weights and once from the initialization it had before: same labels, same order, same
augmentation, same schedule.

Shape suffixes: N images, B images of a step, C channels, S side, Y classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from curriculum.noise import Noise, hash_words
from curriculum.streams import Stream
from hpm.data import ImageSource, RandomResizedCrop, Split
from hpm.evaluation.base import (
    Evaluation,
    EvaluationContext,
    half_interval,
    labels_of,
    require_counts,
    require_labels,
    require_shares,
    sample_indices,
)
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import check_pool, raw_pixels
from hpm.evaluation.supervised import accuracies
from hpm.models.base import MaskedModel
from hpm.runtime.distributed import DistributedContext

_BLOCK = re.compile(r"(layers\.\d+\.)?blocks\.\d+\.")
_MERGING = re.compile(r"(layers\.\d+)\.downsample\.")
_UNDECAYED = ("cls_token", "pos_embed", "relative_position_bias_table")


def draw_labels(labels_N: Tensor, per_class: int | Sequence[int], num_classes: int, seed: int) -> Tensor:
    """Int64: the indices of `per_class` images of every class (or of so many of each), drawn from the seed."""
    counts = [per_class] * num_classes if isinstance(per_class, int) else per_class
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(counts):
        members = (labels_N == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen)


def layer_groups(vit: nn.Module, *, lr: float, layer_decay: float, weight_decay: float) -> list[dict]:
    """AdamW's groups with a learning rate that falls by `layer_decay` from each layer to the one before it.

    No weight decay on biases, norms, class token and positions (MAE's fine-tuning), relative ones among them.
    """
    order: dict[str, int] = {}  # of the blocks, by name: a ViT's, or those of all of a Swin's stages
    for name, _ in vit.named_parameters():
        if found := _BLOCK.match(name):
            order.setdefault(found[0], len(order) + 1)
    depth = len(order)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in vit.named_parameters():
        if name.startswith(("patch_embed", "cls_token", "pos_embed")):
            layer = 0
        elif found := _BLOCK.match(name):
            layer = order[found[0]]
        elif found := _MERGING.match(name):  # goes with the first block of its stage
            layer = order[f"{found[1]}.blocks.0."]
        else:
            layer = depth + 1
        decays = parameter.ndim >= 2 and not name.endswith(_UNDECAYED)
        group = groups.setdefault(
            (layer, decays),
            {"params": [], "peak": lr * layer_decay ** (depth + 1 - layer), "weight_decay": weight_decay * decays},
        )
        group["params"].append(parameter)
    return list(groups.values())


class LowShot(Evaluation):
    """Fine-tuning on a few labels, pre-trained against from scratch, with raw pixels beside them.

    Metrics: test accuracies `low_shot/pretrained`, `low_shot/scratch` and `low_shot/raw_pixels` (logistic regression
    on the same labels), means over draws of the labels; and `low_shot/gain`, pre-trained minus scratch. Each draw's
    own as `low_shot/pretrained/draw0`; of several draws, half the width of the mean's 95 % interval (Student's t) as
    `low_shot/pretrained/interval`.

    Args:
        labels: labelled images of a draw, the same number of each class. Default 500, unless `fraction` is given.
        fraction: share of the labels instead, e.g. 0.01; of each class its share, rounded, but at least one image.
        draws: how many times labels are drawn.
        epochs: passes over them.
        batch_size: images a step.
        lr: peak learning rate from pre-trained weights.
        scratch_lr: peak learning rate from scratch, where no layer decay applies.
        layer_decay: factor between the learning rates of neighboring layers, from pre-trained weights.
        weight_decay: AdamW's.
        warmup: share of the steps spent warming up.
        smoothing: label smoothing.
        scale: area of the random crops, relative to the image.
        flip: probability of mirroring.
        test_images: at most so many; None for all.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to train from scratch and on raw pixels too; without, there is only `low_shot/pretrained`.
    """

    seeded = False  # draws are numbered: runs are compared on the same labels
    shared = True

    def __init__(
        self,
        *,
        labels: int | None = None,
        fraction: float | None = None,
        draws: int = 2,
        epochs: int = 40,
        batch_size: int = 50,
        lr: float = 2e-3,
        scratch_lr: float = 1e-3,
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        smoothing: float = 0.1,
        scale: tuple[float, float] = (0.6, 1.0),
        flip: float = 0.0,
        test_images: int | None = 2000,
        pool: str = "mean",
        baselines: bool = True,
    ) -> None:
        if labels is not None and fraction is not None:
            raise ValueError(
                f"LowShot.labels = {labels} and LowShot.fraction = {fraction} say the same thing twice; set one to None"
            )
        if fraction is not None and not 0 < fraction <= 1:
            raise ValueError(f"LowShot.fraction = {fraction} must be a share of the labels, more than 0 and at most 1")
        labels = 500 if labels is None and fraction is None else labels
        require_counts(
            "LowShot", labels=labels, draws=draws, epochs=epochs, batch_size=batch_size, test_images=test_images
        )
        for name, rate in (("lr", lr), ("scratch_lr", scratch_lr), ("layer_decay", layer_decay)):
            if rate <= 0:
                raise ValueError(f"LowShot.{name} = {rate} must be positive")
        if labels is not None and batch_size > labels:
            raise ValueError(f"LowShot.batch_size = {batch_size} is more than LowShot.labels = {labels}")
        if weight_decay < 0:
            raise ValueError(f"LowShot.weight_decay = {weight_decay} must be at least 0")
        require_shares("LowShot", warmup=warmup, smoothing=smoothing)
        check_pool("LowShot", pool)
        self.labels = labels
        self.fraction = fraction
        self.draws = draws
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.scratch_lr = scratch_lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup = warmup
        self.smoothing = smoothing
        self.test_images = test_images
        self.pool = pool
        self.baselines = baselines
        try:
            self.crop = RandomResizedCrop(scale=scale, flip=flip)
        except ValueError as error:  # a run has another RandomResizedCrop: name the argument that was given
            raise ValueError(str(error).replace("RandomResizedCrop", "LowShot")) from None

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        counts_Y = torch.bincount(labels_of(source.train()), minlength=source.num_classes)
        scarcest = int(counts_Y.min())
        if self.labels is not None and not 1 <= self.labels // source.num_classes <= scarcest:
            raise ValueError(
                f"LowShot.labels = {self.labels} are {self.labels // source.num_classes} for each of "
                f"{source.num_classes} classes; there must be 1 to {scarcest}, so choose {source.num_classes} to "
                f"{source.num_classes * scarcest}"
            )
        drawn = sum(self._per_class(source))
        if self.batch_size > drawn:
            asked = f"LowShot.fraction = {self.fraction}" if self.labels is None else f"LowShot.labels = {self.labels}"
            raise ValueError(
                f"LowShot.batch_size = {self.batch_size} is more than the {drawn} images that {asked} gives "
                f"{source.num_classes} classes; choose less"
            )

    def _per_class(self, source: ImageSource) -> list[int]:
        """How many images of each class are labelled."""
        if self.labels is not None:
            return [self.labels // source.num_classes] * source.num_classes
        assert self.fraction is not None
        counts_Y = torch.bincount(labels_of(source.train()), minlength=source.num_classes)
        return [max(1, round(self.fraction * count)) for count in counts_Y.tolist()]

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        results = self._results(context)
        metrics: dict[str, float] = {}
        if self.baselines:
            pairs = zip(results["pretrained"], results["scratch"], strict=True)
            results["gain"] = [pretrained - scratch for pretrained, scratch in pairs]
        for name, values in results.items():
            metrics[f"low_shot/{name}"] = sum(values) / self.draws
            metrics |= {f"low_shot/{name}/draw{draw}": value for draw, value in enumerate(values)}
            if self.draws > 1:
                metrics[f"low_shot/{name}/interval"] = half_interval(values)
        return metrics

    def _results(self, context: EvaluationContext) -> dict[str, list[float]]:
        """Accuracies, one for each draw. Processes take turns at the draws, each works alone on its own."""
        source, processes, context = context.source, context.processes, replace(context, processes=DistributedContext())
        train, test = source.train(), source.test()
        test_N = sample_indices(self.test_images, len(test))
        trained = [("pretrained", context.model, self.lr, self.layer_decay)]
        if self.baselines:
            trained.append(("scratch", context.initial(), self.scratch_lr, 1.0))
        found: dict[int, dict[str, float]] = {}
        for draw in range(processes.rank, self.draws, processes.world_size):
            train_N = draw_labels(labels_of(train), self._per_class(source), source.num_classes, draw)
            for name, model, lr, decay in trained:
                vit = self._fine_tune(context, model, train_N, lr=lr, layer_decay=decay, draw=draw)
                found.setdefault(draw, {})[name] = accuracies(vit, context, test_N)[""]
            if self.baselines:
                found[draw]["raw_pixels"] = self._raw_pixels(source, train_N, test_N)
        for theirs in processes.gather(found):
            found |= theirs
        return {name: [found[draw][name] for draw in range(self.draws)] for name in found[0]}

    def _fine_tune(
        self,
        context: EvaluationContext,
        model: MaskedModel,
        train_N: Tensor,
        *,
        lr: float,
        layer_decay: float,
        draw: int,
    ) -> nn.Module:
        source, split = context.source, context.source.train()
        vit = classifier(model, source.num_classes, pool=self.pool).train()
        optimizer = torch.optim.AdamW(
            layer_groups(vit, lr=lr, layer_decay=layer_decay, weight_decay=self.weight_decay), fused=True
        )
        generator = torch.Generator().manual_seed(hash_words(draw, Stream.LOW_SHOT_ORDER) % 2**63)
        crop_seed = hash_words(draw, Stream.LOW_SHOT_CROPS)
        steps_per_epoch = len(train_N) // self.batch_size
        total, step = self.epochs * steps_per_epoch, 0
        for epoch in range(self.epochs):
            order = torch.randperm(len(train_N), generator=generator)[: steps_per_epoch * self.batch_size]
            for place_B in order.split(self.batch_size):
                done = step / total
                factor = min(1.0, (step + 1) / max(1, self.warmup * total)) * 0.5 * (1 + math.cos(math.pi * done))
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                labels_B = labels_of(split)[train_N[place_B]].to(context.device)
                noise = Noise(crop_seed, epoch, train_N[place_B])
                logits = vit(self._augmented(source, split, noise).to(context.device))
                F.cross_entropy(logits, labels_B, label_smoothing=self.smoothing).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
        return vit.eval()

    def _augmented(self, source: ImageSource, split: Split, noise: Noise) -> Tensor:
        """Crops of the images that the noise names: a step's, so that no training set lies in memory."""

        def choose(rows: slice, sizes_N2: Tensor) -> tuple[Tensor, Tensor]:
            return self.crop.draw(sizes_N2, Noise(noise.seed, noise.step, noise.rows_N[rows]))

        return source.normalize(split.view(noise.rows_N, source.img_size, choose).images_NCSS)

    def _raw_pixels(self, source: ImageSource, train_N: Tensor, test_N: Tensor) -> float:
        train, test = source.train(), source.test()
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        regression.fit(raw_pixels(source, train, train_N).numpy(), labels_of(train)[train_N].numpy())
        return float(regression.score(raw_pixels(source, test, test_N).numpy(), labels_of(test)[test_N].numpy()))
