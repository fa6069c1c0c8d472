"""Low-shot fine-tuning: what pre-training is worth where labels are few.

Representations of masked autoencoders show in fine-tuning first. The encoder is fine-tuned whole on a few labels,
once from its pre-trained weights and once from the initialization it had before: same labels, same order, same
augmentation, same schedule.

Shape suffixes: N images, B images of a step, C channels, S side.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from curriculum import Noise
from hpm.data import ImageSource, RandomResizedCrop, Split
from hpm.evaluation.base import Evaluation, Subject, labels_of, require_labels, sample_indices
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import check_pool, raw_pixels
from hpm.model import MaskedAutoencoder


def draw_labels(labels_N: Tensor, per_class: int, num_classes: int, seed: int) -> Tensor:
    """Int64: the indices of `per_class` images of every class, drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label in range(num_classes):
        members = (labels_N == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(chosen)


def layer_groups(vit: nn.Module, *, lr: float, layer_decay: float, weight_decay: float) -> list[dict]:
    """AdamW's groups with a learning rate that falls by `layer_decay` from each layer to the one before it.

    No weight decay on biases, norms, class token and positions (MAE's fine-tuning).
    """
    depth = len(vit.blocks)  # type: ignore[arg-type]
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in vit.named_parameters():
        if name.startswith(("patch_embed", "cls_token", "pos_embed")):
            layer = 0
        else:
            layer = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1
        decays = parameter.ndim >= 2 and name not in ("cls_token", "pos_embed")
        group = groups.setdefault(
            (layer, decays),
            {"params": [], "peak": lr * layer_decay ** (depth + 1 - layer), "weight_decay": weight_decay * decays},
        )
        group["params"].append(parameter)
    return list(groups.values())


class LowShot(Evaluation):
    """Fine-tuning on a few labels, pre-trained against from scratch, with raw pixels beside them.

    Metrics: test accuracies `low_shot/pretrained`, `low_shot/scratch` and `low_shot/raw_pixels` (logistic regression
    on the same labels), means over draws of the labels; each draw's own as `low_shot/pretrained/draw0`; and
    `low_shot/gain`, pre-trained minus scratch.

    Args:
        labels: labelled images of a draw, the same number of each class.
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
        test_images: at most so many.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to train from scratch and on raw pixels too; without, there is only `low_shot/pretrained`.
    """

    def __init__(
        self, *, labels: int = 500, draws: int = 2, epochs: int = 40, batch_size: int = 50, lr: float = 2e-3,
        scratch_lr: float = 1e-3, layer_decay: float = 0.75, weight_decay: float = 0.05, warmup: float = 0.1,
        smoothing: float = 0.1, scale: tuple[float, float] = (0.6, 1.0), flip: float = 0.0, test_images: int = 2000,
        pool: str = "mean", baselines: bool = True,
    ) -> None:  # fmt: skip
        for name, count in (("labels", labels), ("draws", draws), ("epochs", epochs), ("batch_size", batch_size),
                            ("test_images", test_images)):  # fmt: skip
            if count < 1:
                raise ValueError(f"LowShot.{name} = {count} must be at least 1")
        for name, rate in (("lr", lr), ("scratch_lr", scratch_lr), ("layer_decay", layer_decay)):
            if rate <= 0:
                raise ValueError(f"LowShot.{name} = {rate} must be positive")
        if batch_size > labels:
            raise ValueError(f"LowShot.batch_size = {batch_size} is more than LowShot.labels = {labels}")
        if weight_decay < 0:
            raise ValueError(f"LowShot.weight_decay = {weight_decay} must be at least 0")
        if not 0 <= warmup < 1 or not 0 <= smoothing < 1:
            raise ValueError(f"LowShot.warmup = {warmup} and LowShot.smoothing = {smoothing} must lie in [0, 1)")
        check_pool("LowShot", pool)
        self.labels, self.draws, self.epochs, self.batch_size = labels, draws, epochs, batch_size
        self.lr, self.scratch_lr, self.layer_decay, self.weight_decay = lr, scratch_lr, layer_decay, weight_decay
        self.warmup, self.smoothing, self.test_images, self.pool = warmup, smoothing, test_images, pool
        self.baselines = baselines
        try:
            self.crop = RandomResizedCrop(scale=scale, flip=flip)
        except ValueError as error:  # a run has another RandomResizedCrop: name the argument that was given
            raise ValueError(str(error).replace("RandomResizedCrop", "LowShot")) from None

    def check(self, source: ImageSource) -> None:
        require_labels(self, source)
        per_class = self.labels // source.num_classes
        scarcest = int(torch.bincount(labels_of(source.train()), minlength=source.num_classes).min())
        if not 1 <= per_class <= scarcest:
            raise ValueError(
                f"LowShot.labels = {self.labels} are {per_class} for each of {source.num_classes} classes; there must "
                f"be 1 to {scarcest}, so choose {source.num_classes} to {source.num_classes * scarcest}"
            )
        if self.batch_size > per_class * source.num_classes:
            raise ValueError(
                f"LowShot.batch_size = {self.batch_size} is more than the {per_class * source.num_classes} images that "
                f"LowShot.labels = {self.labels} gives {source.num_classes} classes in equal shares; choose less"
            )

    def __call__(self, subject: Subject) -> dict[str, float]:
        source = subject.source
        train, test = source.train(), source.test()
        test_N = sample_indices(self.test_images, len(test))
        metrics: dict[str, float] = {}
        trained = [("pretrained", subject.model, self.lr, self.layer_decay)]
        if self.baselines:
            trained.append(("scratch", subject.initial(), self.scratch_lr, 1.0))
        results: dict[str, list[float]] = {name: [] for name, *_ in trained}
        for draw in range(self.draws):
            # The draws do not depend on the run's seed: runs are compared on the same labels.
            train_N = draw_labels(labels_of(train), self.labels // source.num_classes, source.num_classes, draw)
            for name, model, lr, decay in trained:
                vit = self._fine_tune(subject, model, train_N, lr=lr, layer_decay=decay, draw=draw)
                results[name].append(self._accuracy(subject, vit, test_N))
            if self.baselines:
                results.setdefault("raw_pixels", []).append(self._raw_pixels(source, train_N, test_N))
        for name, accuracies in results.items():
            metrics[f"low_shot/{name}"] = sum(accuracies) / self.draws
            metrics |= {f"low_shot/{name}/draw{draw}": accuracy for draw, accuracy in enumerate(accuracies)}
        if self.baselines:
            metrics["low_shot/gain"] = metrics["low_shot/pretrained"] - metrics["low_shot/scratch"]
        return metrics

    def _fine_tune(
        self, subject: Subject, model: MaskedAutoencoder, train_N: Tensor, *, lr: float, layer_decay: float, draw: int
    ) -> nn.Module:
        source, split = subject.source, subject.source.train()
        vit = classifier(model, source.num_classes, pool=self.pool).train()
        optimizer = torch.optim.AdamW(
            layer_groups(vit, lr=lr, layer_decay=layer_decay, weight_decay=self.weight_decay), fused=True
        )
        generator = torch.Generator().manual_seed(draw)
        steps_per_epoch = len(train_N) // self.batch_size
        total, step = self.epochs * steps_per_epoch, 0
        for epoch in range(self.epochs):
            images_NCSS = self._augmented(source, split, train_N, Noise(draw, epoch, train_N))
            order = torch.randperm(len(train_N), generator=generator)[: steps_per_epoch * self.batch_size]
            for place_B in order.split(self.batch_size):
                done = step / total
                factor = min(1.0, (step + 1) / max(1, self.warmup * total)) * 0.5 * (1 + math.cos(math.pi * done))
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * factor
                labels_B = labels_of(split)[train_N[place_B]].to(subject.device)
                logits = vit(images_NCSS[place_B].to(subject.device))
                F.cross_entropy(logits, labels_B, label_smoothing=self.smoothing).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
        return vit.eval()

    def _augmented(self, source: ImageSource, split: Split, indices_N: Tensor, noise: Noise) -> Tensor:
        boxes_N4, flips_N = self.crop.draw(split.sizes(indices_N), noise)
        return source.normalize(split.crop(indices_N, boxes_N4, flips_N, source.img_size))

    @torch.no_grad()
    def _accuracy(self, subject: Subject, vit: nn.Module, test_N: Tensor) -> float:
        source, split = subject.source, subject.source.test()
        right = 0
        for indices in test_N.split(256):
            predicted = vit(source.load(split, indices).to(subject.device)).argmax(dim=1).cpu()
            right += int((predicted == labels_of(split)[indices]).sum())
        return right / len(test_N)

    def _raw_pixels(self, source: ImageSource, train_N: Tensor, test_N: Tensor) -> float:
        train, test = source.train(), source.test()
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        regression.fit(raw_pixels(source, train, train_N).numpy(), labels_of(train)[train_N].numpy())
        return float(regression.score(raw_pixels(source, test, test_N).numpy(), labels_of(test)[test_N].numpy()))
