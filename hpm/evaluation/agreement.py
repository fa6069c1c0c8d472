"""Agreement: does the predicted loss rank patches as the true loss does?

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum import Batch, Noise, Random, TrueLoss, count_masked
from hpm.data import ImageSource
from hpm.evaluation.base import Evaluation, Subject, sample_indices


def spearman(one_NK: Tensor, other_NK: Tensor) -> Tensor:
    """[N]: Spearman's rank correlation of each row; ties take their mean rank, a constant row is NaN."""
    ranks = []
    for values in (one_NK, other_NK):
        below = (values.unsqueeze(1) < values.unsqueeze(2)).sum(dim=2)
        equal = (values.unsqueeze(1) == values.unsqueeze(2)).sum(dim=2)
        rank = below.double() + (equal.double() - 1) / 2
        ranks.append(rank - rank.mean(dim=1, keepdim=True))
    return (ranks[0] * ranks[1]).sum(dim=1) / (ranks[0].norm(dim=1) * ranks[1].norm(dim=1))


class Agreement(Evaluation):
    """Spearman's correlation of predicted and true loss over the patches of held-out images, mean over images.

    Metrics: `agreement/teacher`, the moving average's scores of the full image against its own true loss, measured
    by probe passes that mask every patch; `agreement/student`, the student's prediction for the masked patches of a
    random mask against its own loss there. The two see different inputs. None where there is no loss predictor.

    Args:
        images: test images, at most.
    """

    def __init__(self, *, images: int = 256) -> None:
        if images < 1:
            raise ValueError(f"Agreement.images = {images} must be at least 1")
        self.images = images

    def check(self, source: ImageSource) -> None:
        source.test()

    @torch.no_grad()
    def __call__(self, subject: Subject) -> dict[str, float]:
        if subject.model.loss_predictor is None:
            return {}
        source, split = subject.source, subject.source.test()
        indices_N = sample_indices(self.images, len(split))
        teacher, student = [], []
        for indices in indices_N.split(128):
            batch = Batch(source.load(split, indices).to(subject.device), subject.model.patch_size)
            noise = Noise(subject.seed, 0, indices.to(subject.device))
            num_masked = count_masked(batch.num_patches, subject.curriculum.mask_ratio)
            true_loss = TrueLoss.covering(batch.num_patches, num_masked)
            true_NL = true_loss(batch, subject.teacher, num_masked=num_masked, noise=noise)
            teacher.append(spearman(subject.teacher.predicted_loss(batch.images), true_NL))
            mask = Random()(None, alpha=0.0, num_masked=num_masked, grid=batch.grid, noise=noise)
            output = subject.model(batch.images, mask)
            target_NMP = subject.target(batch.images, mask, batch.patch_size)
            assert output.predicted_loss_NM is not None
            true_NM = subject.target.loss(output.reconstruction_NMP, target_NMP)
            student.append(spearman(output.predicted_loss_NM, true_NM))
        return {
            "agreement/teacher": torch.cat(teacher).nanmean().item(),
            "agreement/student": torch.cat(student).nanmean().item(),
        }
