"""PredictedLoss: HPM's own difficulty.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.difficulty.probes import check_probes, mean_over_probes
from curriculum.noise import Noise
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class PredictedLoss(DifficultyEstimator):
    """Scores patches by the teacher's loss predictor (HPM, arXiv 2304.05919, sec. 3.3).

    As published, the predictor is asked once about the full, unmasked image. There it reads tokens of patches that the
    encoder has seen, and it has learned at mask tokens alone: what it says of a seen patch need not be what it would
    say of the same patch masked. With probes, which are not published, it is asked where it has learned: at mask
    tokens, in masked passes at the training mask ratio. These are the probes of `TrueLoss`: with two or more every
    patch is masked in some probe, and its score is the mean over the probes that masked it; with one probe the
    visible patches score NaN.

    It costs one pass of encoder and loss predictor over the full image, or `probes` masked ones.

    Args:
        probes: masked passes for each batch; 0 for the published pass over the full image. Default 0.
    """

    needs = ("predicted_loss",)

    def __init__(self, *, probes: int = 0) -> None:
        require_in("PredictedLoss", "[0, 1000]", probes=probes)
        self.probes = probes

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse more than one probe that still leave some patch visible in all of them."""
        check_probes("PredictedLoss", self.probes, num_patches, num_masked)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        if self.probes == 0:
            return teacher.predicted_loss(batch.images)
        self.check(batch.num_patches, num_masked)
        return mean_over_probes(
            lambda mask: teacher.predicted_loss(batch.images, mask),
            batch,
            probes=self.probes,
            num_masked=num_masked,
            noise=noise,
        )
