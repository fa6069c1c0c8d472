"""SemiSupervised: labels of a part of the training images, and pseudo-labels of the others, beside reconstruction.

Shape suffixes: N images, K training images, M masked patches, L patches, Y classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum import Batch, Noise, Scheduler
from curriculum.schedulers.scheduled import Scalar, Scheduled, values_of
from curriculum.validation import require_at_least, require_choice, require_in, require_instance
from hpm.methods.labeled_images import draw_labeled
from hpm.methods.once_per_image import StepTeacher
from hpm.methods.recent_difficulties import RecentDifficulties
from hpm.methods.supervision_losses import PseudoLabels, SupervisionLosses
from hpm.runtime.precision import full_precision

DIFFICULTIES = ("predicted_loss", "reconstruction_loss", "confidence")


class SemiSupervised(Scheduled):
    """A supervised loss on a labeled part of the training images, and pseudo-labels for the others, easy ones first.

    A linear classifier reads the mean of the tokens that the student's encoder gives for the visible patches. On
    labeled images it minimizes the cross-entropy of their classes. Of the others, the teacher's classifier (the moving
    average's; the student's own where there is none, as in FixMatch) reads the full image, and its likeliest class is
    what the student must tell from the masked one: FixMatch (Sohn et al. 2020, arXiv 2001.07685), with the full image
    for the weak augmentation and the mask for the strong one. A pseudo-label is taken where its probability reaches
    `confidence` and its image is among the `share` of the unlabeled ones that are the least difficult. A share that
    rises with time is curriculum labeling (Cascante-Bonilla et al. 2020, arXiv 2001.06001).

    Both losses divide by the images that they may come from, whether taken or not: the cross-entropies of the labeled
    ones, summed, by N times the labeled share of all training images, and those of taken pseudo-labels by N times the
    rest. So neither depends on how a step's images are divided, and what is taken more often weighs more, as in
    FixMatch.

    Other than published: FixMatch draws labeled and unlabeled batches apart, and reconstructs nothing. Curriculum
    labeling trains in cycles, each from new weights and with more pseudo-labels, and asks the confidence alone.
    Semi-MAE (Yu et al. 2023, arXiv 2301.01431) and SSMAE (Faysal et al. 2026, arXiv 2601.20072) put masked
    autoencoders and pseudo-labels together too. By their abstracts, Semi-MAE reconstructs in a branch of its own
    beside, and SSMAE compares two augmented views once validation says so; here one masked pass does both. Which image
    is easy by its predicted loss is our own rule.

    The share is one of the images of the last `window` steps, by what the teacher said of them then. In the first step
    none is known, and none is taken unless the share is 1; of equally difficult images all are.

    Args:
        num_classes: Y, of the data.
        labeled_share: share of every class that is labeled, rounded, but at least one image; in (0, 1]. Default 0.1.
        labeled_per_class: labeled images of every class in its place.
        label_seed: of the draw of the labeled images, which is the same whatever `Trainer.seed` is.
        weight: of the supervised loss; a number or a scheduler, as the next three.
        pseudo_weight: of the pseudo-labels' loss. Where it is 0 no teacher is asked.
        confidence: the least probability of a pseudo-label that is taken, in [0, 1]; 0 for any.
        share: of the unlabeled images, the least difficult ones, whose pseudo-labels may be taken; in [0, 1]. Default
            1, where nobody asks for the difficulty.
        difficulty: an image's. "predicted_loss": the mean loss that the teacher's loss predictor gives its patches on
            the full image. "reconstruction_loss": the mean that the step itself measures of its masked patches.
            "confidence": minus the logarithm of the pseudo-label's probability.
        window: steps whose images a share is one of, 1 to 10,000.

    Attributes:
        module: what is kept from step to step; None where nothing is.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        labeled_share: float | None = None,
        labeled_per_class: int | None = None,
        label_seed: int = 0,
        weight: Scalar = 1.0,
        pseudo_weight: Scalar = 1.0,
        confidence: Scalar = 0.95,
        share: Scalar = 1.0,
        difficulty: str = "predicted_loss",
        window: int = 8,
    ) -> None:
        owner = "SemiSupervised"
        require_at_least(owner, 2, num_classes=num_classes)
        if labeled_share is not None and labeled_per_class is not None:
            raise ValueError(
                f"SemiSupervised.labeled_share = {labeled_share} and labeled_per_class = {labeled_per_class} say twice "
                "how many images are labeled; leave one of them out"
            )
        require_in(owner, "(0, 1]", labeled_share=labeled_share)
        require_at_least(owner, 1, labeled_per_class=labeled_per_class)
        require_in(owner, "[1, 10000]", window=window)
        require_choice(owner, DIFFICULTIES, difficulty=difficulty)
        scalars = {"weight": weight, "pseudo_weight": pseudo_weight, "confidence": confidence, "share": share}
        for name, scalar in scalars.items():
            require_instance(owner, float | int | Scheduler, **{name: scalar})
            for value in values_of(scalar):
                require_at_least(owner, 0, **{name: value})
                if name in ("confidence", "share"):
                    require_in(owner, "[0, 1]", **{name: value})
        self.num_classes = num_classes
        self.labeled_share = 0.1 if labeled_share is None else float(labeled_share)
        self.labeled_per_class = labeled_per_class
        self.label_seed = label_seed
        self.weight, self.pseudo_weight = weight, pseudo_weight
        self.confidence, self.share = confidence, share
        self.difficulty = difficulty
        self.window = window
        self.uses_pseudo_labels = max(values_of(pseudo_weight)) > 0
        self.uses_difficulty = self.uses_pseudo_labels and min(values_of(share)) < 1
        self.module: nn.Module | None = None

    @property
    def reads_predictions(self) -> bool:
        """Whether the loss predictor is asked."""
        return self.uses_difficulty and self.difficulty == "predicted_loss"

    @property
    def feedback(self) -> tuple[str, ...]:
        """The metrics of `training_metrics` that schedulers can be told of.

        None of them is made with the labels of images that are not labeled.
        """
        pseudo = ("pseudo_label_loss", "pseudo_labels_taken") if self.uses_pseudo_labels else ()
        return ("supervised_loss", *pseudo)

    def check_labels(self, labels_K: Tensor | None, num_classes: int, source: str) -> None:
        """Refuse data without labels, or of other classes, or of which too many or too few would be labeled.

        Args:
            labels_K: int64, of the training images; None where they have none.
            num_classes: of the data.
            source: where they come from, for errors.

        Raises:
            ValueError: naming the setting at fault.
        """
        if labels_K is None:
            raise ValueError(
                f"Method.supervision = SemiSupervised learns from labels, and the images of {source} have none; choose "
                "labeled images, or Method.supervision = None"
            )
        if num_classes < 2:
            raise ValueError(
                f"Method.supervision = SemiSupervised learns to tell classes apart, and the images of {source} are of "
                "one; choose images of several, or Method.supervision = None"
            )
        if num_classes != self.num_classes:
            raise ValueError(
                f"SemiSupervised.num_classes = {self.num_classes}, and {source} has {num_classes}; set it to "
                f"{num_classes}"
            )
        if self.uses_pseudo_labels and not self.hides_labels(labels_K):
            raise ValueError(
                "SemiSupervised labels every training image, so that there is none for a pseudo-label; set "
                "SemiSupervised.pseudo_weight = 0, or lower labeled_share or labeled_per_class"
            )

    def hides_labels(self, labels_K: Tensor) -> bool:
        """Whether some training images are not labeled, so that nothing may learn from the labels that they have.

        Args:
            labels_K: int64, of the training images.
        """
        return not bool(self._draw(labels_K).all())

    def describe(self) -> str:
        """Which images are labeled, and whether the others have pseudo-labels, in a few words."""
        per_class = self.labeled_per_class
        labeled = f"{self.labeled_share:.2g} of the images" if per_class is None else f"{per_class} images"
        return f"{labeled} of every class" + (", pseudo-labels of the others" if self.uses_pseudo_labels else "")

    def _draw(self, labels_K: Tensor) -> Tensor:
        share, per_class = self.labeled_share, self.labeled_per_class
        return draw_labeled(labels_K.cpu(), share=share, per_class=per_class, seed=self.label_seed)

    def prepare(self, labels_K: Tensor, *, batch_size: int, device: torch.device) -> None:
        """Draw the labeled images; called once, before training starts or is resumed.

        Args:
            labels_K: int64, of all training images. Those of images that are not drawn are measured against alone.
            batch_size: images of a step, over all processes and micro-batches.
            device: where to compute.
        """
        labeled_K = self._draw(labels_K)
        self._labeled_fraction = labeled_K.double().mean().item()
        self._known_K = torch.where(labeled_K, labels_K.cpu(), -1).to(device)  # what is learned from
        self._true_K = labels_K.to(device)  # what is measured against
        self.module = RecentDifficulties(self.window, batch_size).to(device) if self.uses_difficulty else None

    def pseudo_labels(self, batch: Batch, teacher: StepTeacher, progress: float) -> PseudoLabels | None:
        """Ask the teacher about full images; None where pseudo-labels have no weight now."""
        return None if self.at(progress).pseudo_weight == 0 else self.ask(batch, teacher)

    def asked_share(self, progresses: Sequence[float]) -> float:
        """Share of a run's steps in which the teacher is asked; all, where feedback may bring a weight.

        Args:
            progresses: of equal parts of the run.
        """
        weight = self.pseudo_weight
        if isinstance(weight, Scheduler) and weight.watches:
            return float(self.uses_pseudo_labels)
        return fmean(float(self.at(progress).pseudo_weight != 0) for progress in progresses)

    def ask(self, batch: Batch, teacher: StepTeacher) -> PseudoLabels:
        """What the teacher says of full images."""
        surprise_N, classes_N = (-teacher.class_logits(batch.images).log_softmax(dim=1)).min(dim=1)
        predicted_N = None
        if self.reads_predictions:
            predicted_N = teacher.predicted_loss(batch.images).mean(dim=1)
        return PseudoLabels(classes_N, surprise_N, predicted_N)

    def losses(
        self,
        batch: Batch,
        logits_NY: Tensor,
        pseudo: PseudoLabels | None,
        true_NM: Tensor,
        *,
        progress: float,
        noise: Noise,
    ) -> SupervisionLosses:
        """Measure what the student says of the masked images.

        Args:
            batch: the images.
            logits_NY: what the student's classifier says.
            pseudo: what the teacher's does.
            true_NM: the reconstruction loss of each masked patch.
            progress: of training, in [0, 1].
            noise: of the batch; says the step and where in the global batch each image stands.
        """
        if batch.indices is None:
            raise ValueError("SemiSupervised must know which training image each one is: Batch.indices is None")
        now: Any = self.at(progress)  # whose schedulers are numbers
        logits_NY = full_precision(logits_NY)
        known_N = self._known_K[batch.indices]
        unlabeled_N = known_N < 0
        each_N = F.cross_entropy(logits_NY, known_N, reduction="none", ignore_index=-1)
        supervised = each_N.sum() / (len(batch) * self._labeled_fraction)
        total = now.weight * supervised
        zero = torch.zeros_like(supervised)
        unlabeled = unlabeled_N.float().mean()
        if pseudo is None:
            return SupervisionLosses(total, supervised, zero, unlabeled, zero, zero)
        taken_N = unlabeled_N & (pseudo.surprise_N.neg().exp() >= now.confidence)
        taken_N &= self._is_easy(now.share, pseudo, true_NM, unlabeled_N, noise)
        learned_N = torch.where(taken_N, pseudo.classes_N, -1)
        each_N = F.cross_entropy(logits_NY, learned_N, reduction="none", ignore_index=-1)
        loss = each_N.sum() / (len(batch) * (1 - self._labeled_fraction))
        right_N = taken_N & (pseudo.classes_N == self._true_K[batch.indices])
        taken, right = taken_N.float().mean(), right_N.float().mean()
        return SupervisionLosses(total + now.pseudo_weight * loss, supervised, loss, unlabeled, taken, right)

    def _is_easy(
        self, share: float, pseudo: PseudoLabels, true_NM: Tensor, unlabeled_N: Tensor, noise: Noise
    ) -> Tensor:
        """Bool [N]: the images among the share of the least difficult ones; remembers how difficult each is."""
        if self.module is None:
            return torch.ones_like(unlabeled_N)
        assert isinstance(self.module, RecentDifficulties)
        difficulty_N = pseudo.surprise_N
        if self.difficulty == "predicted_loss":
            assert pseudo.predicted_N is not None
            difficulty_N = pseudo.predicted_N
        elif self.difficulty == "reconstruction_loss":
            difficulty_N = full_precision(true_NM).mean(dim=1)
        easy_N = difficulty_N <= self.module.threshold(noise.step, share)
        self.module.keep(noise.step, noise.rows_N, torch.where(unlabeled_N, difficulty_N, torch.nan))
        return easy_N if share < 1 else torch.ones_like(easy_N)
