"""Fine-tuning for segmentation: the class of every pixel, by a decoder on an encoder that learns with it.

Shape suffixes: N images of a batch, C channels, S S height and width in pixels, P pixels of the batch, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum.sizes import Size
from curriculum.validation import require_choice
from hpm.data import IGNORED, AnnotatedBatch, Annotating, ImageSource, Split, annotated_views
from hpm.evaluation.augmentation import named_crop
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.dense.class_iou import ConfusionMatrix
from hpm.evaluation.dense.encoder_maps import require_channels
from hpm.evaluation.dense.segmenters import DPTSegmenter, LinearSegmenter
from hpm.evaluation.dense_protocol import DenseProtocol
from hpm.evaluation.features import batches
from hpm.evaluation.gallery import Panel, shown_rows
from hpm.evaluation.segmentation import class_panel, note_iou, require_pixel_classes
from hpm.evaluation.supervised_protocol import autocast
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule

DECODERS = ("linear", "dpt")
_BATCH = 16  # images whose logits are in memory at once


class SegmentationSchedule(Schedule):
    """The schedule of `FineTuneSegmentation`, in whose name its errors speak."""

    owner = "FineTuneSegmentation"


class FineTuneSegmentation(DenseProtocol):
    """mIoU after fine-tuning the encoder and a decoder on annotated pixels, beside the same from scratch.

    The decoder is linear, a convolution of 1 x 1 on the encoder's last map, whose logits are enlarged (bilinear); or
    DPT's (Ranftl et al. 2021, arXiv 2103.13413), which reads four of a ViT's blocks, as segmentation-models-pytorch
    makes it. Published figures of masked autoencoders use UPerNet; `evaluation/segmentation_ade20k` names what differs.
    Images and class maps are seen as other evaluations see images, at the model's size.

    Metrics: `segmentation_finetune/pretrained` and, with `baselines`, `segmentation_finetune/scratch`.

    Args:
        decoder: "linear" or "dpt"; the latter needs the package segmentation-models-pytorch. Default "linear".
        channels: of the decoder of DPT. Default 256.
        epochs: passes over the training images. Default 100.
        batch_size: images of a step. Default 16.
        accumulate: micro-batches into which a batch is cut, where memory is short. Default 1.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`. Default 1.6e-3.
        min_lr: learning rate at the end of the cosine. Default 0.
        warmup_epochs: epochs of linear warm-up. Default 1.
        layer_decay: factor between the learning rates of neighboring layers; 1 from scratch. Default 0.65.
        weight_decay: AdamW's, on weights alone. Default 0.05.
        clip_grad: largest norm of the gradient; None, the default, for no limit.
        drop_path: stochastic depth of the last block. Default 0.1.
        scale: area of the random crops, relative to the image. Default (0.25, 1.0).
        flip: probability of mirroring. Default 0.5.
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load images; 0 for none but this one. Default 0.
        test_images: at most so many test images, and as many validation images; None, the default, for all.
        baselines: whether to train from scratch too, by the same recipe. Default False.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "segmentation-finetune"
    prefix = "segmentation_finetune"
    metrics = DECLARED[protocol]

    def __init__(
        self,
        *,
        decoder: str = "linear",
        channels: int = 256,
        epochs: int = 100,
        batch_size: int = 16,
        accumulate: int = 1,
        blr: float = 1.6e-3,
        min_lr: float = 0.0,
        warmup_epochs: float = 1,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        clip_grad: float | None = None,
        drop_path: float = 0.1,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: float = 0.5,
        precision: str = "auto",
        num_workers: int = 0,
        test_images: int | None = None,
        baselines: bool = False,
    ) -> None:
        require_choice("FineTuneSegmentation", DECODERS, decoder=decoder)
        require_channels("FineTuneSegmentation", channels)
        self.decoder = decoder
        self.channels = channels
        super().__init__(
            schedule=SegmentationSchedule(
                epochs=epochs,
                batch_size=batch_size,
                accumulate=accumulate,
                blr=blr,
                min_lr=min_lr,
                warmup_epochs=warmup_epochs,
            ),
            crop=named_crop("FineTuneSegmentation", scale=scale, flip=flip),
            layer_decay=layer_decay,
            weight_decay=weight_decay,
            clip_grad=clip_grad,
            drop_path=drop_path,
            precision=precision,
            num_workers=num_workers,
            test_images=test_images,
            baselines=baselines,
        )

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_pixel_classes("FineTuneSegmentation", source)
        super().check(source, model)
        if self.decoder == "dpt":
            with torch.random.fork_rng(devices=[]):
                DPTSegmenter(model, len(source.pixel_classes), channels=self.channels)  # refuses what it cannot serve

    def num_classes(self, source: ImageSource) -> int:
        """Of pixels."""
        return len(source.pixel_classes)

    def network(self, model: MaskedModel, num_classes: int) -> nn.Module:
        """A `LinearSegmenter` or a `DPTSegmenter`."""
        if self.decoder == "linear":
            return LinearSegmenter(model, num_classes, drop_path=self.drop_path)
        return DPTSegmenter(model, num_classes, channels=self.channels, drop_path=self.drop_path)

    def parts(self, network: nn.Module, images_1CSS: Tensor) -> dict[str, Callable[[], Any]]:
        """All in one."""
        return {"encoder and decoder": lambda: network(images_1CSS)}

    def annotating(self, split: Split, size: Size) -> Annotating:
        """Class maps."""
        return partial(annotated_views.class_maps_in, split, size=size)

    def loss(self, network: nn.Module, batch: AnnotatedBatch, precision: str) -> Tensor:
        """The cross-entropy of all pixels that count, mean over them."""
        maps_NSS = batch.annotations.long()
        with autocast(precision, batch.images.device):
            logits_NYSS = network(batch.images)
        logits_PY = logits_NYSS.permute(0, 2, 3, 1).flatten(0, 2).float()
        total = F.cross_entropy(logits_PY, maps_NSS.flatten(), ignore_index=IGNORED, reduction="sum")
        return total / (maps_NSS != IGNORED).sum().clamp(min=1)  # of a batch that has none, 0 rather than NaN

    @torch.no_grad()
    def measure_split(
        self, context: EvaluationContext, network: nn.Module, name: str, split_name: str, precision: str, *, show: bool
    ) -> dict[str, float]:
        """The mIoU."""
        split, processes = context.source.get_split(split_name), context.processes
        indices_N = self.scored(split)
        matrix = ConfusionMatrix(len(context.source.pixel_classes))
        shown: list[Tensor] = []
        rows = set(indices_N[shown_rows(len(indices_N))].tolist())
        own_N = processes.share(indices_N)
        loaded = batches(
            context.source,
            split,
            own_N,
            device=context.device,
            batch_size=_BATCH,
            num_workers=self.num_workers,
        )
        for indices, images_NCSS in zip(own_N.split(_BATCH) if len(own_N) else (), loaded, strict=True):
            with autocast(precision, context.device):
                logits_NYSS = network(images_NCSS)
            predicted_NSS = logits_NYSS.argmax(dim=1).to(torch.int16).cpu()
            matrix.add(annotated_views.class_maps(context.source, split, indices), predicted_NSS)
            shown += [
                predicted for index, predicted in zip(indices.tolist(), predicted_NSS, strict=True) if index in rows
            ]
        matrix.counts_CC = sum(processes.gather(matrix.counts_CC), torch.zeros_like(matrix.counts_CC))
        maps = [map_SS for theirs in processes.gather(shown) for map_SS in theirs]
        if not processes.is_main:
            return {}
        if show:
            shown_N = indices_N[shown_rows(len(indices_N))]

            def start() -> tuple[str, Panel]:
                truth = annotated_views.class_maps(context.source, split, shown_N)
                title = f"segmentation after fine-tuning, {self.decoder} decoder"
                return title, class_panel(context, "annotated", truth)

            title = f"{name}\nmIoU {100 * matrix.mean_iou():.1f} %"
            panel = class_panel(context, title, torch.stack(maps))
            self.add_panel(context, panel, start, split, shown_N)
        return {"": note_iou(context, split_name, f"{self.prefix}/{name}", matrix)}
