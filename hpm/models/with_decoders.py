"""What models have in common that reconstruct, and predict losses, by decoders."""

from __future__ import annotations

from torch import nn

from hpm.models.base import MaskedModel
from hpm.models.decoder import DecoderHead


class ModelWithDecoders(MaskedModel):
    """A student with a decoder that reconstructs and perhaps one that predicts the losses.

    Attributes:
        reconstructor: the first.
        loss_predictor: the second, or a head on the reconstructor's last block; None for a model without one.
    """

    reconstructor: DecoderHead
    loss_predictor: DecoderHead | None

    @property
    def shares_decoder(self) -> bool:
        """Whether the loss predictor is a head on the reconstructor's last block."""
        return self.loss_predictor is not None and not len(self.loss_predictor.blocks)

    @property
    def reconstruction_head(self) -> nn.Linear:
        return self.reconstructor.head

    def set_outputs(self, outputs: int) -> None:
        if outputs != self.outputs:
            self.reconstructor.head = nn.Linear(self.reconstructor.head.in_features, outputs)

    @property
    def decoders(self) -> list[DecoderHead]:
        """The reconstructor, and the loss predictor where there is one."""
        return [decoder for decoder in (self.reconstructor, self.loss_predictor) if decoder is not None]

    @property
    def head_widths(self) -> list[int]:
        return [self.mask_token.shape[-1]] * len(self.decoders)
