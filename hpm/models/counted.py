"""What models of masked images tell of themselves to those who count what their passes cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from hpm.models.encoder import Encoder


class CountedModel(nn.Module, ABC):
    """A model whose operations and memory can be told from the sizes of its parts.

    Attributes:
        encoder: what sees visible patches.
        loss_predictor: None for a model without one.
    """

    encoder: Encoder
    loss_predictor: nn.Module | None

    @property
    @abstractmethod
    def num_patches(self) -> int:
        """L, of an image."""

    @abstractmethod
    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        """(tokens, width) of every block that the student's pass runs; what it costs follows from them."""

    @property
    @abstractmethod
    def head_widths(self) -> list[int]:
        """What each layer of the heads on the masked patches reads: the reconstruction's, and the loss predictor's."""

    def kept_beside_blocks(self, masked: int, thrown: int) -> int:
        """Values of one image that a backward pass keeps beside those of blocks and heads.

        Args:
            masked: number of masked patches.
            thrown: number of patches that are thrown away.
        """
        return 0

    def dense_block_sizes(self) -> list[tuple[int, int]]:
        """(tokens, width) of the loss predictor's blocks where it predicts the losses of the full image."""
        predictor: Any = self.loss_predictor
        return [(self.encoder.num_prefix_tokens + self.num_patches, self.head_widths[-1])] * len(predictor.blocks)

    def dense_kept_beside_blocks(self) -> int:
        """Values of one image that a backward pass keeps of that pass, beside those of these blocks."""
        return 0

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Multiply-adds of one image's forward pass that published code spends on this model and ours does not.

        Args:
            masked: number of masked patches.
            thrown: number of patches that are thrown away.
        """
        return 0
