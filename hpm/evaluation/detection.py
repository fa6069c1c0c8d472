"""Detection: boxes, classes and masks of objects, by a detector on an encoder that learns with it.

Shape suffixes: N images of a batch, C channels, S S height and width in pixels, O objects of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from curriculum.sizes import Size
from curriculum.validation import require_in
from hpm.data import AnnotatedBatch, Annotating, ImageSource, Split, annotated_views
from hpm.errors import UserError
from hpm.evaluation.augmentation import named_crop
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.dense.coco_ap import KINDS, DetectionResults
from hpm.evaluation.dense.crop_objects import crop_objects
from hpm.evaluation.dense.encoder_maps import require_channels
from hpm.evaluation.dense.mask_rcnn import MaskRCNNOnEncoder
from hpm.evaluation.dense_protocol import DenseProtocol
from hpm.evaluation.features import batches
from hpm.evaluation.gallery import Panel, shown_rows
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule
from hpm.runtime.extras import import_extra

_BATCH, _PIXELS = 16, 1 << 21  # images that are looked at together, and their pixels: each may have a hundred masks


class DetectionSchedule(Schedule):
    """The schedule of `Detection`, in whose name its errors speak."""

    owner = "Detection"


class Detection(DenseProtocol):
    """COCO's average precision after fine-tuning the encoder and a detector on annotated objects, beside from scratch.

    The detector is torchvision's Mask R-CNN on ViTDet's simple feature pyramid (Li et al. 2022, arXiv 2203.16527), of
    the encoder as it is, with global attention in every block. Images are seen as other evaluations see them, at the
    model's size, and cropped as `scale` says: ViTDet pads images of 1024 pixels and jitters their size by 0.1 to 2.
    Crowds are background to what learns, and finding them is no mistake.

    Metrics, of boxes and of masks: `detection/pretrained/box_ap`, the mean over intersections over union of 0.5 to 0.95
    and over classes, `box_ap50` and `box_ap75`; `mask_ap` and so on; with `baselines` the same of `detection/scratch`.
    Needs the package faster-coco-eval.

    Args:
        channels: of the pyramid and the mask head. Default 256.
        hidden: width of the box head. Default 1024.
        anchor_scale: side of a level's anchors relative to its stride. Default 8.
        regions: proposals of each image that the heads learn from; fewer cost less. Default 512.
        proposals: of each image that `regions` are drawn from, and that the heads look at when they no longer learn.
            Default 1000.
        epochs: passes over the training images. Default 100.
        batch_size: images of a step. Default 64.
        accumulate: micro-batches into which a batch is cut, where memory is short. Default 1.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`. Default 4e-4.
        min_lr: learning rate at the end of the cosine. Default 0.
        warmup_epochs: epochs of linear warm-up. Default 0.14.
        layer_decay: factor between the learning rates of neighboring layers; 1 from scratch. Default 0.7.
        weight_decay: AdamW's, on weights alone. Default 0.1.
        clip_grad: largest norm of the gradient; None, the default, for no limit.
        drop_path: stochastic depth of the last block. Default 0.1.
        scale: area of the random crops, relative to the image. Default (0.25, 1.0).
        flip: probability of mirroring. Default 0.5.
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32". The heads compute in fp32.
        num_workers: processes that load images; 0 for none but this one. Default 0.
        test_images: at most so many test images, and as many validation images; None, the default, for all.
        baselines: whether to train from scratch too, by the same recipe. Default False.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "detection"
    prefix = "detection"
    metrics = DECLARED[protocol]

    def __init__(
        self,
        *,
        channels: int = 256,
        hidden: int = 1024,
        anchor_scale: float = 8.0,
        regions: int = 512,
        proposals: int = 1000,
        epochs: int = 100,
        batch_size: int = 64,
        accumulate: int = 1,
        blr: float = 4e-4,
        min_lr: float = 0.0,
        warmup_epochs: float = 0.14,
        layer_decay: float = 0.7,
        weight_decay: float = 0.1,
        clip_grad: float | None = None,
        drop_path: float = 0.1,
        scale: tuple[float, float] = (0.25, 1.0),
        flip: float = 0.5,
        precision: str = "auto",
        num_workers: int = 0,
        test_images: int | None = None,
        baselines: bool = False,
    ) -> None:
        require_channels("Detection", channels)
        require_in("Detection", "[16, 16384]", hidden=hidden)
        require_in("Detection", "[1, 64]", anchor_scale=anchor_scale)
        self.channels = channels
        self.hidden = hidden
        require_in("Detection", "[4, 10000]", regions=regions, proposals=proposals)
        self.anchor_scale = float(anchor_scale)
        self.regions = regions
        self.proposals = proposals
        super().__init__(
            schedule=DetectionSchedule(
                epochs=epochs,
                batch_size=batch_size,
                accumulate=accumulate,
                blr=blr,
                min_lr=min_lr,
                warmup_epochs=warmup_epochs,
            ),
            crop=named_crop("Detection", scale=scale, flip=flip),
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
        if not source.object_classes:
            raise ValueError(
                f"Detection needs images whose objects are annotated, and {type(source).__name__} knows none; use "
                "CocoDetection (config data/coco_detection) or a data set of scenes"
            )
        import_extra("faster_coco_eval", package="faster-coco-eval", needed_by="Detection")
        super().check(source, model)

    def num_classes(self, source: ImageSource) -> int:
        """Of objects."""
        return len(source.object_classes)

    def parts(self, network: nn.Module, images_1CSS: Tensor) -> dict[str, Callable[[], Any]]:
        """As if a quarter of the regions, the most there may be, showed objects."""
        assert isinstance(network, MaskRCNNOnEncoder)
        return network.parts(images_1CSS, regions=self.regions)

    def network(self, model: MaskedModel, num_classes: int) -> nn.Module:
        """A `MaskRCNNOnEncoder`."""
        return MaskRCNNOnEncoder(
            model,
            num_classes,
            channels=self.channels,
            hidden=self.hidden,
            anchor_scale=self.anchor_scale,
            regions=self.regions,
            proposals=self.proposals,
            drop_path=self.drop_path,
        )

    def annotating(self, split: Split, size: Size) -> Annotating:
        """Objects, with the boxes of what the crop shows."""
        return partial(crop_objects, split, size)

    def loss(self, network: nn.Module, batch: AnnotatedBatch, precision: str) -> Tensor:
        """The sum of Mask R-CNN's five losses."""
        losses = network(batch.images, batch.annotations.unpacked(batch.images.device), precision=precision)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    @torch.no_grad()
    def measure_split(
        self, context: EvaluationContext, network: nn.Module, name: str, split_name: str, precision: str, *, show: bool
    ) -> dict[str, float]:
        """COCO's AP of boxes and masks."""
        source, processes = context.source, context.processes
        split, classes = source.get_split(split_name), source.object_classes
        indices_N = self.scored(split)
        shown_N = indices_N[shown_rows(len(indices_N))]
        results = DetectionResults(classes)
        shown: dict[int, dict[str, Tensor]] = {}
        own_N = processes.share(indices_N)
        loaded = batches(source, split, own_N, device=context.device, batch_size=_BATCH, num_workers=self.num_workers)
        for indices, images_NCSS in zip(own_N.split(_BATCH) if len(own_N) else (), loaded, strict=True):
            found = network(images_NCSS, precision=precision)
            objects = annotated_views.objects(source, split, indices)
            for index, of_image, here in zip(indices.tolist(), objects, found, strict=True):
                results.add(index, of_image, here)
                if index in shown_N:
                    surest = _surest(here, len(of_image.labels_O))
                    shown[index] = {what: values.cpu() for what, values in surest.items()}
        everyones = processes.gather(results)
        shown = {index: here for theirs in processes.gather(shown) for index, here in theirs.items()}
        if not processes.is_main:
            return {}
        together = results.with_others(everyones)
        if not any(not entry["iscrowd"] for entry in together.annotations):
            raise UserError(
                f"none of the {len(indices_N)} {split_name} images of {type(source).__name__} shows an object"
            )
        metrics: dict[str, float] = {}
        for kind in KINDS:
            figures, per_class = together.evaluate(kind)
            metrics |= {f"/{kind}_{what}": value for what, value in figures.items()}
            noted = context.per_class.setdefault(metric_on(split_name, f"{self.prefix}/{name}/{kind}_ap"), {})
            for label, value in per_class.items():
                noted.setdefault(label, []).append(value)
        if show:
            title = f"{name}\nAP {100 * metrics['/box_ap']:.1f} %"
            panel = self._panel(source, title, [shown[index] for index in shown_N.tolist()])
            self.add_panel(context, panel, partial(self._start_gallery, source, split, shown_N), split, shown_N)
        return metrics

    def _start_gallery(self, source: ImageSource, split: Split, indices_N: Tensor) -> tuple[str, Panel]:
        objects = annotated_views.objects(source, split, indices_N)
        truth = [{"labels": of.labels_O, "boxes": of.boxes_O4, "masks": of.masks_OHW} for of in objects]
        title = "as many detections as objects are annotated, those of the highest scores, of 0.05 or more"
        return title, self._panel(source, "annotated", truth)

    @staticmethod
    def _panel(source: ImageSource, title: str, images: list[dict[str, Tensor]]) -> Panel:
        names = source.object_classes
        notes = []
        for image in images:
            named = [names[label] for label in image["labels"].tolist()]
            if "scores" in image:
                scores = image["scores"].tolist()
                named = [f"{name} {score:.2f}" for name, score in zip(named, scores, strict=True)]
            notes.append(", ".join(named) or "nothing")
        return Panel(
            title,
            outlines=torch.stack([image["masks"].any(dim=0) for image in images]),
            boxes=tuple(image["boxes"] for image in images),
            notes=tuple(notes),
        )


def _surest(found: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """The detections of the highest scores; they come in this order."""
    return {what: values[:count] for what, values in found.items()}
