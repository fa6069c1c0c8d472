"""Model: a trained model and its curriculum, and what they make of images.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from curriculum import Batch, Curriculum, Mask, Noise
from curriculum.sizes import pair
from hpm.errors import UserError
from hpm.evaluation import EvaluationContext
from hpm.evaluation.features import POOLS, pooled, require_class_token
from hpm.inference.images import read
from hpm.inference.loading import LoadedModel
from hpm.interface.isolation import isolated
from hpm.models.base import MaskedModel, in_evaluation_mode
from hpm.models.encoder import Encoder
from hpm.runtime.files import expanded
from hpm.visualization.panels import reconstruct
from hpm.visualization.picture import held_out


class Model:
    """A trained model with the curriculum that it was trained under, on its device.

    Images are float32 [N, C, H, W] as the model sees them: of its size, cropped and normalized, as `read_images` and
    `validation_images` give them; a `UserError` says where they are not. Every method computes without gradients; for
    training use `masked_model`, which is an ordinary `torch.nn.Module`.

    Args:
        loaded: the model, as it was read.
        weights: whose are used, "student" or "teacher".

    Attributes:
        path: the checkpoint or file.
        step: optimizer steps that it was trained for, 0 where the file does not say.
        weights: whose are used.
        device: where it is.
    """

    def __init__(self, loaded: LoadedModel, weights: str) -> None:
        self.path: Path = loaded.path
        self.step: int = loaded.step
        self.weights: str = weights
        self.device: torch.device = loaded.device
        self._loaded = loaded
        self._context: EvaluationContext = loaded.context(weights)

    def __repr__(self) -> str:
        name = type(self.encoder).__name__
        return f"Model({str(self.path)!r}, {name} of width {self.encoder.num_features}, {self.weights}'s weights)"

    @property
    def masked_model(self) -> MaskedModel:
        """Encoder and decoder."""
        return self._context.model

    @property
    def encoder(self) -> Encoder:
        """The encoder: images -> tokens [N, prefix tokens + L, D], the patches' in raster order."""
        return self._context.model.encoder

    @property
    def curriculum(self) -> Curriculum:
        """What drew the masks."""
        return self._context.curriculum

    @property
    def img_size(self) -> int | tuple[int, int]:
        """Pixels of the side of an image, or (height, width)."""
        return self._loaded.source.img_size

    def read_images(self, paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Tensor:
        """Read image files of any size through the evaluation crop and the normalization of the model's data.

        Args:
            paths: of N files, or of a single one.

        Returns:
            Float32 [N, C, H, W].

        Raises:
            UserError: naming a file that cannot be read.
        """
        files = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        with isolated():
            found = read(self._loaded.source, [expanded(os.fspath(path)) for path in files])
        if found.problems:
            raise UserError(f"an image cannot be read: {found.problems[0]}")
        return found.images_KCSS.to(self.device)

    def validation_images(self, count: int) -> Tensor:
        """The first validation images of the data that the model was trained on; training images where there are none.

        Args:
            count: how many, as far as there are so many.

        Returns:
            Float32 [N, C, H, W].

        Raises:
            UserError: if the data are not there any more, or for published weights without a config.
        """
        if count < 1:
            raise UserError(f"count = {count} must be at least 1")
        with isolated():
            return held_out(self._loaded.source, self.masked_model.patch_size, count).images.to(self.device)

    def pixels(self, images: Tensor) -> Tensor:
        """Images as they are shown.

        Args:
            images: [N, C, H, W], normalized.

        Returns:
            Float32 [N, C, H, W] in [0, 1].
        """
        return self._loaded.source.denormalize(images)

    @torch.no_grad()
    def features(self, images: Tensor, *, pool: str = "mean") -> Tensor:
        """What the encoder makes of whole images: what k-NN and linear probes see.

        Args:
            images: [N, C, H, W].
            pool: "mean" of the patches' tokens, or the class "token". Default "mean".

        Returns:
            Float32 [N, D].

        Raises:
            UserError: for another pooling, or the class token of an encoder that has none.
        """
        if pool not in POOLS:
            raise UserError(f"pool = {pool!r} is unknown; choose {' or '.join(POOLS)}")
        try:
            require_class_token("Model.features", self.encoder, pool)
        except ValueError as error:
            raise UserError(str(error)) from error
        with in_evaluation_mode(self.masked_model):
            return pooled(self.encoder, self._batch(images).images, pool).float()

    @torch.no_grad()
    def difficulty(self, images: Tensor, *, seed: int = 0) -> Tensor:
        """How hard the curriculum's difficulty estimator calls each patch; the teacher answers where one is asked.

        Args:
            images: [N, C, H, W].
            seed: of what the estimator draws, if it draws anything. Default 0.

        Returns:
            Float [N, L], higher is harder; NaN is not scored.

        Raises:
            UserError: if the difficulty knows training images alone, or asks what the file has no weights for.
        """
        curriculum, batch = self._asked(images)
        num_masked = curriculum.count_masked(batch.num_patches)
        with in_evaluation_mode(self.masked_model):
            return curriculum.difficulty(batch, self._context.teacher, num_masked=num_masked, noise=_noise(batch, seed))

    @torch.no_grad()
    def draw_mask(self, images: Tensor, *, progress: float = 1.0, seed: int = 0) -> Mask:
        """The curriculum's mask of each image.

        Args:
            images: [N, C, H, W].
            progress: how far training is taken to have come, in [0, 1], which decides alpha. Default 1, its end.
            seed: of the draw. Default 0.

        Returns:
            The mask, whose `visible` [N, V] and `masked` [N, M] are patch indices; `to_bool()` is [N, L].

        Raises:
            UserError: as `difficulty` does, where alpha follows it; for a progress outside [0, 1].
        """
        if not 0.0 <= progress <= 1.0:
            raise UserError(f"progress = {progress} must be from 0 to 1")
        curriculum, batch = self._asked(images, progress)
        with in_evaluation_mode(self.masked_model):
            return curriculum.draw(batch, self._context.teacher, progress, _noise(batch, seed))

    @torch.no_grad()
    def reconstruct(self, images: Tensor, mask: Mask) -> Tensor:
        """The masked patches as the model reconstructs them from the visible ones, which stay as they are.

        A target of normalized pixels says how a patch differs from its own mean: the true mean and standard deviation
        of each patch are put in, as MAE does to show it.

        Args:
            images: [N, C, H, W].
            mask: what is hidden from the encoder, as `draw_mask` gives it.

        Returns:
            Float32 [N, C, H, W] in [0, 1], as `pixels` gives images.

        Raises:
            UserError: if the target cannot be shown as pixels, or the file has no reconstructor.
        """
        if "reconstructor" in self._context.untrained:
            raise UserError(f"{self.path} holds no reconstructor of its target, so that nothing can be reconstructed")
        batch = self._batch(images)
        if not isinstance(mask, Mask) or len(mask.masked) != len(batch) or mask.num_patches != batch.num_patches:
            raise UserError(f"mask must be a Mask of these {len(batch)} images of {batch.num_patches} patches each")
        with in_evaluation_mode(self.masked_model):
            reconstruction = reconstruct(self._context, batch, mask)
        if reconstruction is None:
            raise UserError(f"{type(self._context.target).__name__} is a target that cannot be shown as pixels")
        return reconstruction

    def _batch(self, images: Tensor) -> Batch:
        """Images on the device, which must be what the model sees."""
        height, width = pair(self.img_size)
        wanted = f"images must be a float32 tensor [N, {self.masked_model.in_chans}, {height}, {width}]"
        if not isinstance(images, Tensor):
            raise UserError(f"{wanted}, and these are a {type(images).__name__}; read_images reads files")
        if images.dtype != torch.float32 or images.ndim != 4 or len(images) == 0:
            raise UserError(f"{wanted}, and these are {images.dtype} {list(images.shape)}")
        if tuple(images.shape[1:]) != (self.masked_model.in_chans, height, width):
            raise UserError(f"{wanted}, and these are {list(images.shape)}")
        return Batch(images.to(self.device), self.masked_model.patch_size)

    def _asked(self, images: Tensor, progress: float | None = None) -> tuple[Curriculum, Batch]:
        """The curriculum and the images, where it can say something of them; at any progress it follows no scores, it
        always can.
        """
        curriculum, batch = self.curriculum.for_measuring(), self._batch(images)
        if progress is not None and not curriculum.needs_scores_at(progress, batch.num_patches):
            return curriculum, batch
        difficulty, context = curriculum.difficulty, self._context
        if difficulty.knows_training_images_alone:
            raise UserError(
                f"{type(difficulty).__name__} knows the losses of training images alone and can say nothing of others; "
                "the run's pictures show it"
            )
        if not context.can_answer(context.teacher, difficulty.needs):
            raise UserError(f"{self.path} lacks what {type(difficulty).__name__} asks: {', '.join(difficulty.needs)}")
        return curriculum, batch


def _noise(batch: Batch, seed: int) -> Noise:
    return Noise.for_batch(seed=seed, step=0, batch_size=len(batch), device=batch.images.device)
