"""LiDAR: how many directions tell images apart, whatever part of them is seen, without labels.

Shape suffixes: N images, Q views of each, B images of a batch, C channels, S side, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum import Noise, Random, Stream
from curriculum.validation import require_in
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.chosen_images import ChosenImages
from hpm.evaluation.feature_rank import FeatureRank, effective_number
from hpm.evaluation.features import BATCH_SIZE, batches, pool_tokens, require_finite_features
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel

_RIDGE = 1e-4  # added to the variance within images, in every direction


def discriminant_rank(features_NQD: Tensor) -> float:
    """The effective rank of linear discriminant analysis that has an image for a class and its views for samples.

    It is the exponential of the entropy of the shares of the eigenvalues of W^(-1/2) B W^(-1/2), with B the covariance
    of the images' means and W that within images plus a ridge (Thilak et al. 2023, arXiv 2312.04000).

    Args:
        features_NQD: of Q views of each of N images, at least 2.

    Returns:
        1 where the images' means lie on a line or in a point, min(N - 1, D) where they fill all directions alike,
        relative to how far views of an image differ there.
    """
    features_NQD = features_NQD.double()
    count, views, width = features_NQD.shape
    means_ND = features_NQD.mean(dim=1)
    within_KD = (features_NQD - means_ND.unsqueeze(1)).flatten(0, 1)
    within_DD = within_KD.T @ within_KD / (count * (views - 1)) + _RIDGE * torch.eye(width, dtype=torch.float64)
    variances_D, directions_DD = torch.linalg.eigh(within_DD)
    # In these directions, each divided by its deviation, the matrix has the same eigenvalues. By what the covariance of
    # the means is divided does not matter to shares.
    whitened_ND = (means_ND - means_ND.mean(dim=0)) @ (directions_DD / variances_D.clamp(min=_RIDGE).sqrt())
    values_D = torch.linalg.eigvalsh(whitened_ND.T @ whitened_ND).clamp(min=0)
    if not values_D.any():
        return 1.0
    return effective_number(values_D)


@torch.no_grad()
def view_features(
    context: EvaluationContext,
    model: MaskedModel,
    indices_N: Tensor,
    *,
    views: int,
    pool: str = "mean",
    num_workers: int = 0,
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    """Float32 [N, Q, D] on the CPU: features of un-augmented training images under the same Q masks.

    Raises what `hpm.evaluation.features.extract` does.
    """
    curriculum, train = context.curriculum, context.source.train()
    counts = curriculum.counts(model.num_patches, curriculum.count_masked(model.num_patches))
    features_NQD = torch.empty(len(indices_N), views, model.encoder.num_features)
    loaded = batches(
        context.source,
        train,
        indices_N,
        device=context.device,
        batch_size=batch_size,
        num_workers=num_workers,
        unreadable=context.unreadable,
    )
    for place, images_BCSS in enumerate(loaded):
        rows = slice(place * batch_size, (place + 1) * batch_size)
        noise = Noise(0, 0, torch.zeros_like(indices_N[rows], device=context.device))
        for view in range(views):
            mask = Random()(
                None,
                alpha=0.0,
                num_masked=counts.reconstructed,
                num_thrown=counts.thrown,
                grid=model.grid,
                noise=noise.fold(Stream.LIDAR_MASKS, view),
            )
            features_NQD[rows, view] = pool_tokens(model.encoder, model.encode(images_BCSS, mask), pool).cpu()
    require_finite_features(features_NQD)
    return features_NQD


class LiDAR(FeatureRank):
    """The effective rank of what tells training images apart under random masks: a curve that needs no labels.

    A view of an image is what the pre-training's own task shows the student: the image under a uniform random mask, at
    the mask ratio that the training ends with, whatever the curriculum's sampler is. Its feature is of the tokens that
    the encoder then gives: those of the visible patches, or of all patches where mask tokens stand in for the others
    (`SimMIM`). Directions in which an image's own views differ count for less than in `RankMe`.

    All images have the same masks, where the paper draws views for each: the means of few views would differ by chance
    then, in every direction, and features that tell nothing but the mask would have the highest rank. The paper takes
    50 views of masked methods. Where only visible patches are computed, a view costs the share of a whole image that is
    visible.

    Metrics: `lidar/pretrained` and, with `baselines`, `lidar/initialization`.

    Args:
        images: training images, at most, the same for every seed; more than the encoder is wide, or they bound the
            rank. Default 1000.
        views: of each image, by other masks, the same for every seed. Default 10.
        pool: "mean" of the patch tokens, or the class "token". Default "mean".
        baselines: whether to measure the random initialization too. Default False.
        num_workers: processes that load images; 0 for none but this one. Default 0.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "lidar"
    metrics = DECLARED[protocol]
    centered = True

    def __init__(
        self,
        *,
        images: int = 1000,
        views: int = 10,
        pool: str = "mean",
        baselines: bool = False,
        num_workers: int = 0,
    ) -> None:
        super().__init__(images=images, pool=pool, baselines=baselines, num_workers=num_workers)
        require_in("LiDAR", "[2, 1000]", views=views)
        self.views = views

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        """The mask token where the encoder reads it; it comes and goes with the reconstructor."""
        return frozenset({"reconstructor"} if model.encodes_mask_tokens else ())

    def features(self, context: EvaluationContext, model: MaskedModel, images: ChosenImages) -> Tensor:
        """Float32 [N, Q, D], of the images under masks."""
        return view_features(
            context, model, images.indices_N, views=self.views, pool=self.pool, num_workers=self.num_workers
        )

    def rank(self, features: Tensor) -> float:
        """`discriminant_rank`."""
        return discriminant_rank(features)
