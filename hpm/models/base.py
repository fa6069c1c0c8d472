"""What all models of masked images have in common.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, Q queries, D encoder's width, P values of a
patch's target, Y classes.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from curriculum import Curriculum, Mask
from curriculum.sizes import Size, pair, spell_size
from hpm.models.blocks import Blocks, BlockStack
from hpm.models.class_head import ClassHead
from hpm.models.counted import CountedModel
from hpm.models.encoder import Encoder
from hpm.models.heads import Head


class Output(NamedTuple):
    """What the student says about the masked patches, in raster order, and about the image."""

    reconstruction_NMP: Tensor
    predicted_loss_NM: Tensor | None
    logits_NY: Tensor | None = None


class MaskedModel(CountedModel):
    """A student: an encoder, something that reconstructs what was masked, and perhaps a loss predictor.

    Attributes:
        encoder: what is kept after pre-training.
        mask_token: [1, 1, width], stands for a masked patch.
        loss_predictor: None for a model without one.
        class_head: what tells images' classes; None until `set_classes`.
        mlp_ratio: of every block.
        decoder_num_heads: of the reconstructor's blocks; None where it has none.
    """

    mlp_ratio: float
    encoder: Encoder
    mask_token: nn.Parameter
    loss_predictor: nn.Module | None
    decoder_num_heads: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.class_head: ClassHead | None = None

    @property
    def img_size(self) -> Size:
        """Of the image in pixels, the side of a square or (height, width)."""
        return self.encoder.img_size

    @property
    def patch_size(self) -> Size:
        """Of the patches that are masked, likewise."""
        return self.encoder.patch_size

    @property
    def in_chans(self) -> int:
        """Channels of the image."""
        return self.encoder.in_chans

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.encoder.grid

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_pixels(self) -> int:
        """Values of a patch, height * width * in_chans."""
        height, width = pair(self.patch_size)
        return height * width * self.in_chans

    @property
    def outputs(self) -> int:
        """P, what is reconstructed of each patch; its pixels, until `set_outputs`."""
        return self.reconstruction_head.out_features

    def at_size(self, img_size: Size) -> Self:
        """This model, with the same weights, as one of smaller images: what is counted and checked of these.

        The model itself computes images of such sizes as it is.

        Args:
            img_size: of the images in pixels, multiples of the patches' and no larger than its own.

        Raises:
            ValueError: if its encoder takes images of one size alone.
        """
        model = copy.copy(self)
        model._modules = self._modules | {"encoder": self.encoder.at_size(img_size)}
        return model

    @property
    @abstractmethod
    def reconstruction_head(self) -> Head:
        """What gives the reconstruction's values."""

    @property
    def reconstruction_heads(self) -> list[Head]:
        """All that give values of the reconstruction, where several do."""
        return [self.reconstruction_head]

    @abstractmethod
    def set_outputs(self, *outputs: int, make: Callable[[int, int], Head] = nn.Linear) -> None:
        """Make the reconstruction give other numbers of values. Before the weights are initialized.

        Args:
            outputs: of each target, in the order in which the values come.
            make: makes the head, given the width of the tokens that it reads and how many values it gives.

        Raises:
            ValueError: where this model does not reconstruct so many targets.
        """

    def set_classes(self, num_classes: int) -> None:
        """Have a classifier, which `forward` asks too. Before the weights are initialized.

        Args:
            num_classes: Y.
        """
        self.class_head = ClassHead(self.encoder.num_features, num_classes)

    @abstractmethod
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialize every parameter from the generator."""

    @abstractmethod
    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        """Reconstruct the masked patches, predict each one's loss where there is a loss predictor, and tell the classes
        of the images from their visible patches where there is a classifier.
        """

    @property
    def encodes_mask_tokens(self) -> bool:
        """Whether the encoder reads a mask token in the place of each masked patch."""
        return False

    @abstractmethod
    def encode(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        """[N, prefix + tokens, D]: what `forward` makes of images before anything is reconstructed.

        Args:
            images_NCHW: images.
            mask: None where every patch is seen. Of patches that it hides there are tokens only where the model
                `encodes_mask_tokens`.
        """

    @abstractmethod
    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M, P]: the masked patches' reconstruction alone."""

    @abstractmethod
    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        """The predicted loss of every patch of the full image, [N, L], or of the masked ones, [N, M].

        Reconstructs nothing.

        Args:
            images_NCHW: images.
            mask: None where every patch is seen.
            detached: compute what the loss predictor reads without gradients, so that these reach its own parameters
                alone. A head on the reconstructor's blocks owns none of these.
        """

    def class_logits(self, images_NCHW: Tensor) -> Tensor:
        """[N, Y]: what the classifier says of full images."""
        if self.class_head is None:
            raise ValueError("this model has no classifier; set Method.supervision, e.g. to @SemiSupervised()")
        return self.class_head(self.encode(images_NCHW)[:, self.encoder.num_prefix_tokens :])

    def _classify(self, tokens: Tensor, mask: Mask) -> Tensor | None:
        """[N, Y], from what `encode` gives for the masked images; None where there is no classifier."""
        if self.class_head is None:
            return None
        patches = tokens[:, self.encoder.num_prefix_tokens :]
        return self.class_head(mask.gather_visible(patches) if self.encodes_mask_tokens else patches)

    def check_images(self, img_size: Size, in_chans: int, source: str) -> None:
        """Refuse images of another size or number of channels.

        Args:
            img_size: of the images in pixels, the side of a square or (height, width).
            in_chans: their channels.
            source: where they come from, for errors.

        Raises:
            ValueError: naming the settings at fault.
        """
        if (self.img_size, self.in_chans) != (img_size, in_chans):
            raise ValueError(
                f"{self.image_settings}.img_size = {self.img_size} and in_chans = {self.in_chans} do not fit the "
                f"images of {source}: {spell_size(img_size)} pixels and {in_chans} channels"
            )

    @property
    def image_settings(self) -> str:
        """The part whose settings say what images this model takes."""
        return type(self.encoder).__name__

    def check_curriculum(self, curriculum: Curriculum) -> None:
        """Refuse a curriculum that this model cannot be trained under.

        Raises:
            ValueError: naming the setting at fault.
        """

    def unsupported_reason(self, capability: str) -> str | None:
        """Why this model cannot answer a question of `curriculum.Teacher`, or None where it can.

        Args:
            capability: the name of the method that asks, such as "attention".
        """
        if capability == "predicted_loss" and self.loss_predictor is None:
            return (
                f"the model has no loss predictor: {type(self).__name__}.loss_predictor_depth is None; set it to a "
                "number of blocks, or choose a difficulty that needs none"
            )
        if capability == "head_outputs":
            return (
                f"the head of a {type(self).__name__} reads what its decoder makes of the encoder's tokens, and not "
                "these; choose Method.model = @SimMIM()"
            )
        return self.encoder.unsupported_reason(capability)

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, heads, L]: the last block's attention from the class token; see `Encoder.attention`."""
        return self.encoder.attention(images_NCHW)

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """[N, L]: the first block's attention from the given patches, summed; see `Encoder.sampled_attention`."""
        return self.encoder.sampled_attention(images_NCHW, queries_NQ)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D]: the encoder's patch tokens of the full image."""
        return self.encoder(images_NCHW)[:, self.encoder.num_prefix_tokens :]

    def head_outputs(self, features_NLD: Tensor) -> Tensor:
        """[N, L, P]: what the reconstruction's head makes of the encoder's patch tokens, where it reads these.

        Raises:
            ValueError: where it does not, as `unsupported_reason` says.
        """
        raise ValueError(self.unsupported_reason("head_outputs"))

    def blocks(self) -> list[nn.Module]:
        """Every transformer block: the parts that are sharded one by one."""
        others = (
            module
            for name, module in self.named_modules()
            if isinstance(module, BlockStack) and not name.startswith("encoder.")
        )
        return self.encoder.blocks_in_order() + [block for module in others for block in module]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: a third more computation, activations of one block at a time."""
        self.encoder.set_grad_checkpointing(enable)
        for module in self.modules():
            if isinstance(module, BlockStack):
                module.grad_checkpointing = enable

    @property
    def has_residual_dtype(self) -> bool:
        """Whether `set_residual_dtype` changes anything: the encoder is made of our blocks."""
        return any(isinstance(module, Blocks) for module in self.encoder.modules())

    def set_residual_dtype(self, dtype: torch.dtype | None) -> None:
        """What the tokens between the blocks are kept in, under autocast; None for float32, autocast's own choice."""
        for module in self.modules():
            if isinstance(module, BlockStack):
                module.residual_dtype = dtype


@contextmanager
def in_evaluation_mode(model: MaskedModel) -> Iterator[None]:
    """A student in training is in training mode before and after."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
