"""Contrast of patches: each masked one is told from the others of its image by the features of the moving average.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, K keys (the patches that a masked one is
compared with, itself among them), P values of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum import Mask, Scheduler, Teacher
from curriculum.schedulers import Scalar, require_time_alone, values_of
from curriculum.sizes import Size
from curriculum.validation import require_at_least, require_choice, require_in
from hpm.runtime.precision import full_precision, without_autocast
from hpm.targets.teacher_features import TeacherFeatures

NEGATIVES = ("image", "masked")


class PatchContrast(TeacherFeatures):
    """InfoNCE between the patches of an image (ConMIM, Yi et al. 2023, arXiv 2205.09616), with hard negatives.

    With s_ij the cosine of what is predicted for masked patch i and the features that the moving average gives patch j
    of the full image, the loss of i is log(sum over j of w_ij exp(s_ij / temperature)) - s_ii / temperature. Not as
    published: features are the encoder's, where ConMIM projects both sides by an MLP with batch norms, and the average
    sees the same crop, where ConMIM changes its colors.

    The weights of the negatives j != i are those of Robinson et al. 2021 (arXiv 2010.04592), w_ij proportional to
    exp(beta s_ij / temperature) with mean one over the negatives, and w_ii = 1. As in their code beta is of similarity
    over temperature, and the gradient passes through the weights: the hardest negatives are pushed away the more, and
    the easiest drawn near a little. Their correction for false negatives (tau_plus) is not there.

    An image's loss depends on that image alone, so that how a batch is cut into micro-batches and shared among
    processes changes nothing. Negatives of other images would break this, and are not offered.

    Args:
        temperature: of the cosines; 0.01 or more. Default 0.1, as published.
        negatives: "image", all other patches, as published; "masked", the other masked ones alone.
        beta: how hard negatives count, a number or a scheduler of time, at least 0. Default 0, all alike; published
            for hard negatives, in another task and at a temperature of 0.5: 1.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(self, *, temperature: float = 0.1, negatives: str = "image", beta: Scalar = 0.0) -> None:
        require_at_least("PatchContrast", 0.01, temperature=temperature)
        require_choice("PatchContrast", NEGATIVES, negatives=negatives)
        require_time_alone("PatchContrast.beta", beta)
        for value in values_of(beta):
            require_in("PatchContrast", "[0, inf)", beta=value)
        self.temperature = float(temperature)
        self.negatives = negatives
        self.beta = beta
        self.whole_image = negatives == "image"
        self.fewest_masked = 2 if negatives == "masked" else 1
        self._weighs = max(values_of(beta)) > 0
        self._now = torch.zeros(())
        self.advance(1.0)  # what a finished model is judged by

    def __call__(self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: Teacher | None = None) -> Tensor:
        """[N, K, P]: features of the masked patches, and then of all others where they are negatives."""
        with torch.no_grad():
            features_NLP = self.features(images_NCHW, teacher)
            keys_NK = self._keys(mask)
            return features_NLP.gather(1, keys_NK.unsqueeze(-1).expand(-1, -1, features_NLP.shape[-1]))

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: as the class says, at the present beta; 0 where there is no negative."""
        logits_NMK = _cosines(prediction_NMP, target_NMP) / self.temperature
        positive_NM = logits_NMK.diagonal(dim1=1, dim2=2)
        if self._weighs and logits_NMK.shape[2] > 1:
            logits_NMK = logits_NMK + self._log_weights(logits_NMK)
        return logits_NMK.logsumexp(dim=2) - positive_NM

    def similarities(self, prediction_NMP: Tensor, target_NMP: Tensor, mask: Mask) -> Tensor:
        """[N, M, L]: cosines; NaN with what is no negative."""
        cosines_NMK = _cosines(prediction_NMP, target_NMP)
        everywhere_NML = cosines_NMK.new_full((*cosines_NMK.shape[:2], mask.num_patches), torch.nan)
        return everywhere_NML.scatter(2, self._keys(mask).unsqueeze(1).expand_as(cosines_NMK), cosines_NMK)

    def prepare(self, device: torch.device, **known: object) -> None:
        self._now = self._now.to(device)

    def advance(self, progress: float) -> None:
        # Changed in place: a compiled graph reads it as data.
        self._now.fill_(self.beta(progress) if isinstance(self.beta, Scheduler) else self.beta)

    def _keys(self, mask: Mask) -> Tensor:
        """Int64 [N, K]: the patches that each masked one is compared with, the masked ones first."""
        if not self.whole_image:
            return mask.masked
        thrown = [] if mask.thrown is None else [mask.thrown]
        return torch.cat([mask.masked, mask.visible, *thrown], dim=1)

    def _log_weights(self, logits_NMK: Tensor) -> Tensor:
        """[N, M, K]: logarithms of the weights, 0 for a patch itself; where beta is 0, 0 to the last bit."""
        masked, keys = logits_NMK.shape[1:]
        own_MK = torch.eye(masked, keys, dtype=torch.bool, device=logits_NMK.device)
        scaled_NMK = self._now.to(logits_NMK.dtype) * logits_NMK
        negative_NMK = scaled_NMK.masked_fill(own_MK, -torch.inf)
        most_NM1 = negative_NMK.detach().amax(dim=2, keepdim=True)
        mean_NM1 = (negative_NMK - most_NM1).exp().sum(dim=2, keepdim=True) / (keys - 1)
        return (scaled_NMK - most_NM1 - mean_NM1.log()).masked_fill(own_MK, 0.0)


def _cosines(prediction_NMP: Tensor, target_NKP: Tensor) -> Tensor:
    """[N, M, K], in float32 or better."""
    with without_autocast(prediction_NMP.device):
        prediction_NMP = F.normalize(full_precision(prediction_NMP), dim=-1)
        return prediction_NMP @ F.normalize(full_precision(target_NKP), dim=-1).mT
