"""What models have in common that reconstruct, and predict losses, by decoders."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hpm.models.base import MaskedModel
from hpm.models.decoder import DecoderHead
from hpm.models.heads import Head, input_widths


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
    def reconstruction_head(self) -> Head:
        return self.reconstructor.head

    def set_outputs(self, outputs: int, make: Callable[[int, int], Head] = nn.Linear) -> None:
        if outputs != self.outputs or make is not nn.Linear:
            self.reconstructor.head = make(self.mask_token.shape[-1], outputs)

    @property
    def decoders(self) -> list[DecoderHead]:
        """The reconstructor, and the loss predictor where there is one."""
        return [decoder for decoder in (self.reconstructor, self.loss_predictor) if decoder is not None]

    @property
    def head_widths(self) -> list[int]:
        return [*input_widths(self.reconstructor.head), *[self.mask_token.shape[-1]] * (len(self.decoders) - 1)]
