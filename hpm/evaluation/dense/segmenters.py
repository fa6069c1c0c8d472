"""Networks that segment: a decoder on a copy of the encoder.

Shape suffixes: N images, C channels, S S height and width in pixels, Y classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_model
from torch import Tensor, nn

from curriculum.sizes import pair, spell_size
from hpm.evaluation.dense.encoder_maps import EncoderMap
from hpm.models.base import MaskedModel
from hpm.runtime.extras import import_extra

_DPT_LEVELS = 4  # blocks that it reads


class LinearSegmenter(nn.Module):
    """Logits by a convolution of 1 x 1 on the encoder's map, enlarged to the image.

    Args:
        model: whose encoder is copied.
        num_classes: Y.
        drop_path: stochastic depth of the encoder's last block. Default none.
    """

    def __init__(self, model: MaskedModel, num_classes: int, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.encoder = EncoderMap(model, drop_path=drop_path)
        self.head = nn.Conv2d(self.encoder.width, num_classes, 1)

    def forward(self, images_NCSS: Tensor) -> Tensor:
        """[N, Y, S, S]."""
        # A pixel's logits side by side: softmax and argmax over them take half the time on a CPU.
        logits = self.head(self.encoder(images_NCSS)).contiguous(memory_format=torch.channels_last)
        return F.interpolate(logits, images_NCSS.shape[2:], mode="bilinear", align_corners=False)


class DPTSegmenter(nn.Module):
    """segmentation-models-pytorch's DPT, on a copy of the encoder.

    Its decoder has batch norms: of a micro-batch, or on several GPUs of all of their micro-batches, so that
    `accumulate` changes what is learned. It reads the blocks and not the norm behind the last, which learns nothing.

    Args:
        model: whose encoder is copied; a ViT of at least four blocks.
        num_classes: Y.
        channels: of the decoder.
        drop_path: stochastic depth of the encoder's last block. Default none.

    Raises:
        ValueError: for another encoder, one of fewer blocks, or images of a size that the decoder cannot put together.
        UserError: if the package is missing.
    """

    def __init__(self, model: MaskedModel, num_classes: int, *, channels: int = 256, drop_path: float = 0.0) -> None:
        super().__init__()
        smp = import_extra(
            "segmentation_models_pytorch",
            package="segmentation-models-pytorch",
            needed_by="FineTuneSegmentation.decoder = 'dpt'",
        )
        blocks = len(model.encoder.blocks_in_order())
        if not model.encoder.num_prefix_tokens:
            kind = type(model.encoder).__name__
            raise ValueError(
                f"FineTuneSegmentation.decoder = 'dpt' reads a class token, which {kind} has not; choose 'linear'"
            )
        if blocks < _DPT_LEVELS:
            raise ValueError(
                f"FineTuneSegmentation.decoder = 'dpt' reads {_DPT_LEVELS} blocks of the encoder, which has {blocks}; "
                "choose 'linear'"
            )
        network: Any = model.encoder.timm_model(drop_path=drop_path)
        network.pretrained_cfg = {"input_size": (model.in_chans, *pair(model.img_size)), "fixed_input_size": True}
        self.dpt: Any = smp.DPT(
            encoder_name=f"tu-{masked_encoder.__name__}",
            encoder_weights=None,
            encoder_depth=_DPT_LEVELS,
            decoder_intermediate_channels=[channels // 4, channels // 2, channels, channels],
            decoder_fusion_channels=channels,
            in_channels=model.in_chans,
            classes=num_classes,
            network=network,
        )
        self.encoder = _Network(network)
        self._require_fitting(model)

    @torch.no_grad()
    def _require_fitting(self, model: MaskedModel) -> None:
        """Its maps of several sizes are made by factors of 2, which do not meet again on every grid."""
        try:
            self.dpt.eval()(torch.zeros(1, model.in_chans, *pair(model.img_size)))
        except RuntimeError as error:
            raise ValueError(
                f"FineTuneSegmentation.decoder = 'dpt' cannot put together images of {spell_size(model.img_size)} "
                "pixels in these patches; sides that are multiples of 32 fit, or choose 'linear'"
            ) from error

    def forward(self, images_NCSS: Tensor) -> Tensor:
        """[N, Y, S, S]."""
        logits = self.dpt(images_NCSS)  # as large as the image where patches have 16 pixels
        return F.interpolate(logits, images_NCSS.shape[2:], mode="bilinear", align_corners=False)


@register_model
def masked_encoder(pretrained: bool = False, *, network: nn.Module, **_: Any) -> nn.Module:
    """The name under which timm, and what builds on it, makes a network that is there already: that network.

    Args:
        pretrained: what timm says to all; the network has the weights that it has.
        network: timm's model of the encoder.
    """
    return network


class _Network:
    """Where `DenseProtocol` finds timm's model; no module, so that its parameters have one name."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
