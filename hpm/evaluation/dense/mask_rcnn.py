"""torchvision's Mask R-CNN on ViTDet's feature pyramid over an encoder.

Shape suffixes: N images, C channels, S S height and width in pixels, O objects of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from curriculum.sizes import pair
from hpm.data import Objects
from hpm.evaluation.dense.encoder_maps import EncoderMap, SimpleFeaturePyramid
from hpm.evaluation.dense.regions import Anchors, RegionPool
from hpm.models.base import MaskedModel

_RATIOS = (0.5, 1.0, 2.0)  # height over width of the anchors, as published
_SMALLEST = 1.0  # pixels of a box's side that can be learned


class MaskRCNNOnEncoder(nn.Module):
    """Mask R-CNN (He et al. 2017) on `SimpleFeaturePyramid`; images are as the model sees them, and of its size.

    Pyramid, anchors and the pooling of regions are ViTDet's (Li et al. 2022). The heads are torchvision's: two layers
    for boxes where ViTDet has four convolutions and a layer, one convolution for proposals where it has two, and no
    norms. Objects that are crowds are left out of what is learned, as background.

    Args:
        model: whose encoder is copied.
        num_classes: of objects.
        channels: of the pyramid and the mask head. ViTDet's are 256.
        hidden: width of the box head. ViTDet's is 1024.
        anchor_scale: side of a level's anchors relative to its stride; ViTDet's is 8.
        regions: proposals of each image that the heads learn from; ViTDet's are 512.
        proposals: of each image that `regions` are drawn from, and that the heads look at when they no longer learn;
            ViTDet's are 1000.
        drop_path: stochastic depth of the encoder's last block. Default none.
    """

    def __init__(
        self,
        model: MaskedModel,
        num_classes: int,
        *,
        channels: int,
        hidden: int,
        anchor_scale: float,
        regions: int,
        proposals: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = EncoderMap(model, drop_path=drop_path)
        self.pyramid = SimpleFeaturePyramid(self.encoder, channels=channels)
        height, width = pair(model.img_size)
        down, across = height / self.encoder.grid[0], width / self.encoder.grid[1]
        strides = [(down * factor, across * factor) for factor in (0.25, 0.5, 1, 2, 4)]
        self.detector: Any = MaskRCNN(
            self.pyramid,
            num_classes=None,
            rpn_anchor_generator=Anchors(strides, scale=anchor_scale, ratios=_RATIOS),
            box_batch_size_per_image=regions,
            rpn_pre_nms_top_n_train=2 * proposals,  # of each level
            rpn_post_nms_top_n_train=proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_test=proposals,
            **_heads(num_classes + 1, channels, hidden),
        )
        pooled = dict(zip(SimpleFeaturePyramid.LEVELS, strides, strict=False))
        self.detector.roi_heads.box_roi_pool = RegionPool(pooled, output_size=7)
        self.detector.roi_heads.mask_roi_pool = RegionPool(pooled, output_size=14)
        self.detector.transform = _AsTheyAre(
            min(height, width), max(height, width), [0.0] * model.in_chans, [1.0] * model.in_chans
        )

    def forward(self, images_NCSS: Tensor, objects: Sequence[Objects] | None = None, *, precision: str = "fp32") -> Any:
        """In training, given the objects, the losses by their names; else what is found, of each image.

        Args:
            images_NCSS: normalized images.
            objects: of each; crowds are left out.
            precision: of the encoder and the pyramid, "bf16" or "fp32". The heads compute in float32.

        Returns:
            Of each image float `boxes` [O, 4] (left, top, right, bottom), int64 `labels` [O] from 0, `scores` [O] from
            the highest, and bool `masks` [O, S, S].
        """
        images = list(images_NCSS)
        self.pyramid.precision = precision
        if objects is not None:
            return self.detector(images, [_target(of_image, images_NCSS.device) for of_image in objects])
        found = self.detector(images)
        for of_image in found:
            of_image["labels"] = of_image["labels"] - 1
            of_image["masks"] = of_image["masks"].squeeze(1) >= 0.5
        return found

    def parts(self, images_1CSS: Tensor, *, regions: int) -> dict[str, Callable[[], Any]]:
        """What computes the forward pass of one image in training, by its name, for counting operations.

        Args:
            images_1CSS: one image.
            regions: that the heads learn from, of which a quarter show objects.
        """
        detector, heads = self.detector, self.detector.roi_heads
        maps = {name: values.detach() for name, values in detector.backbone(images_1CSS).items()}
        channels, some = detector.backbone.out_channels, max(1, regions // 4)
        boxes = images_1CSS.new_empty(regions, channels, 7, 7)
        masks = images_1CSS.new_empty(some, channels, 14, 14)
        return {
            "encoder and pyramid": lambda: detector.backbone(images_1CSS),
            "proposals": lambda: detector.rpn.head(list(maps.values())),
            "box head": lambda: heads.box_predictor(heads.box_head(boxes)),
            "mask head": lambda: heads.mask_predictor(heads.mask_head(masks)),
        }


class _AsTheyAre(GeneralizedRCNNTransform):
    """torchvision's transform without its normalizing, resizing and padding; what is found is pasted as ever."""

    def forward(self, images: list[Tensor], targets: Any = None) -> tuple[ImageList, Any]:
        """The images in one tensor."""
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return ImageList(torch.stack(images), sizes), targets


def _heads(outputs: int, channels: int, hidden: int) -> dict[str, nn.Module]:
    return {
        "box_head": TwoMLPHead(channels * 7 * 7, hidden),
        "box_predictor": FastRCNNPredictor(hidden, outputs),
        "mask_head": MaskRCNNHeads(channels, (channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(channels, channels, outputs),
    }


def _target(objects: Objects, device: torch.device) -> dict[str, Tensor]:
    """What torchvision learns from: classes from 1; no crowds, and no boxes of less than a pixel."""
    boxes_O4 = objects.boxes_O4
    learned_O = ~objects.crowd_O & (boxes_O4[:, 2:] - boxes_O4[:, :2] >= _SMALLEST).all(dim=1)
    return {
        "boxes": boxes_O4[learned_O].to(device),
        "labels": objects.labels_O[learned_O].to(device) + 1,
        "masks": objects.masks_OHW[learned_O].to(torch.uint8).to(device),
    }
