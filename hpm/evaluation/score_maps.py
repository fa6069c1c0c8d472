"""What scores of patches may find the object: those of models, and controls that need none.

Shape suffixes: N images, L patches, D width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum import Attention, Batch, DifficultyEstimator, EdgeDensity, Noise, PredictedLoss, TrueLoss
from curriculum.streams import Stream
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.dense.patch_tokens import token_grid
from hpm.methods.teacher import ModelTeacher, StudentTeacher
from hpm.models.patches import patchify

_SIMILAR = 0.2  # the cosine from which on two patches are joined, TokenCut's tau
_PAIRS = 1 << 22  # of patches, whose weights are in memory at once
_APART = 1e-5  # the weight between others, so that the graph is one


def score_maps(context: EvaluationContext, batch: Batch, noise: Noise) -> Iterator[tuple[str, Tensor]]:
    """Scores [N, L] by name: see `Localization`. There are none of components that nobody has trained.

    Args:
        context: the models.
        batch: un-augmented images.
        noise: each image's own.
    """
    num_masked = context.curriculum.count_masked(batch.num_patches)
    estimators: dict[str, DifficultyEstimator] = {
        "predicted_loss": PredictedLoss(),
        "true_loss": TrueLoss.covering(batch.num_patches, num_masked),
        "attention": Attention(),
    }
    student = StudentTeacher(
        context.model, context.target, autocast=context.teacher.autocast, reference=context.teacher
    )
    models: dict[str, ModelTeacher] = {"student": student}
    if context.teacher.model is not context.model and "moving average" not in context.untrained:
        models["teacher"] = context.teacher
    for whose, model in models.items():
        for name, estimator in estimators.items():
            if context.can_answer(model, estimator.needs):
                yield f"{whose}/{name}", estimator(batch, model, num_masked=num_masked, noise=noise)
        yield f"{whose}/features", cut_out(_tokens(model, batch))
    yield "pixels", cut_out(patchify(batch.images, batch.patch_size))
    yield "edge_density", EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
    yield "center", _closeness_to_center(batch)
    yield "random", noise.fold(Stream.LOCALIZATION_RANDOM).uniform(batch.num_patches)


def _closeness_to_center(batch: Batch) -> Tensor:
    """[N, L]: minus the squared distance of each patch's middle from the image's, in patches; the same for all."""
    rows, columns = (torch.arange(count, device=batch.images.device) - (count - 1) / 2 for count in batch.grid)
    return -(rows.square().unsqueeze(1) + columns.square()).flatten().expand(len(batch), -1)


def _tokens(teacher: ModelTeacher, batch: Batch) -> Tensor:
    """The encoder's patch tokens, float [N, L, D]; where it merges patches, each for all that it stands for."""
    tokens_NTD = teacher.features(batch.images).float()
    maps = tokens_NTD.transpose(1, 2).unflatten(2, token_grid(tokens_NTD.shape[1], batch.grid))
    return F.interpolate(maps, batch.grid, mode="nearest").flatten(2).transpose(1, 2)


def cut_out(features_NLD: Tensor) -> Tensor:
    """How much each patch belongs to what a normalized cut takes out of the image, [N, L].

    TokenCut's (Wang et al. 2022, arXiv 2202.11539): patches whose cosine is 0.2 or more are joined, and the second
    eigenvector of the graph's Laplacian parts them; the side of its largest value, by amount, is the object. Cosines
    are of features less the image's mean, since those of masked autoencoders all point the same way; TokenCut takes
    the last block's keys as they are.

    Args:
        features_NLD: features of the patches.
    """
    at_once = max(1, _PAIRS // features_NLD.shape[1] ** 2)
    return torch.cat([_cut_out(chunk_NLD) for chunk_NLD in features_NLD.split(at_once)])


def _cut_out(features_NLD: Tensor) -> Tensor:
    centered_NLD = features_NLD.double() - features_NLD.double().mean(dim=1, keepdim=True)
    unit_NLD = F.normalize(centered_NLD, dim=2)
    # Two numbers alone would make float32, in which a cut through weights of 1e-5 has few digits.
    weights_NLL = torch.where(unit_NLD @ unit_NLD.mT >= _SIMILAR, unit_NLD.new_ones(()), _APART)
    scale_NL = weights_NLL.sum(dim=2).rsqrt()
    normalized_NLL = scale_NL.unsqueeze(2) * weights_NLL * scale_NL.unsqueeze(1)
    # The second smallest of the Laplacian is the second largest of this.
    second_NL = torch.linalg.eigh(normalized_NLL).eigenvectors[:, :, -2] * scale_NL
    largest_N1 = second_NL.gather(1, second_NL.abs().argmax(dim=1, keepdim=True))
    return second_NL * largest_N1.sign()
