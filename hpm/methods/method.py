"""Method: the mathematics of one training step.

    batch -> Curriculum.draw -> Mask -> student -> target -> losses -> (backward, optimizer) -> teacher update

Shape suffixes: N images, C channels, H and W pixels, M masked patches, P values of a patch's target.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from curriculum import Batch, Curriculum, Feedback, ImageCurriculum, Mask, Noise, Scheduler
from curriculum.validation import require_at_least, require_instance
from hpm.methods.checks import check_parts
from hpm.methods.decay import Decay
from hpm.methods.gathering import ShardedModels
from hpm.methods.loss_prediction import PredictionLoss, RelativeLoss
from hpm.methods.student_pass import Losses, StudentPass
from hpm.methods.supervision import SemiSupervised
from hpm.methods.teacher import EMATeacher, ModelTeacher, StudentTeacher
from hpm.models.base import MaskedModel, in_evaluation_mode
from hpm.runtime.distributed import DistributedContext
from hpm.targets import Target


class Method:
    """Masked image modelling under a curriculum: student, teacher, target and losses.

    It is made with random weights on the CPU, and can be evaluated once `initialize` was called. What trains it
    (`hpm.training.setup`) may replace `forward` by the same pass compiled, recorded or distributed, and set
    `processes` and `sharded`.

    Args:
        model: the student.
        curriculum: draws the masks.
        target: what is reconstructed.
        prediction_loss: how the loss predictor learns; unused where the model has none.
        prediction_weight: its weight beside the reconstruction's loss (HPM: 1).
        dense_prediction_every: in every so many steps the loss predictor also learns on the full image, at the content
            tokens of the masked patches, from the losses that the step has measured for them: there `PredictedLoss`
            without probes reads it. The same loss with the same weight; its gradient reaches the loss predictor's own
            parameters alone. 0 for never, as published.
        ema_decay: how fast the teacher, a moving average of the student, forgets; None for no moving average, which
            plain MAE does without.
        image_curriculum: decides which images an epoch shows; None for each once.
        supervision: what the labels of a part of the training images teach beside; None, the default, for nothing.

    Attributes:
        student: the model.
        teacher: what the curriculum and the target ask.
        forward: the `StudentPass` that `losses` calls.
        processes: that train together.
        sharded: makes whole models where the student is spread over processes, else None.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        model: MaskedModel,
        curriculum: Curriculum,
        target: Target,
        prediction_loss: PredictionLoss | None = None,
        prediction_weight: float = 1.0,
        dense_prediction_every: int = 0,
        ema_decay: Decay | None = None,
        image_curriculum: ImageCurriculum | None = None,
        supervision: SemiSupervised | None = None,
    ) -> None:
        require_instance("Method", MaskedModel, model=model)
        require_instance("Method", Curriculum, curriculum=curriculum)
        require_instance("Method", Target, target=target)
        require_instance("Method", PredictionLoss | None, prediction_loss=prediction_loss)
        require_instance("Method", Decay | None, ema_decay=ema_decay)
        require_instance("Method", ImageCurriculum | None, image_curriculum=image_curriculum)
        require_instance("Method", SemiSupervised | None, supervision=supervision)
        require_at_least("Method", 0, prediction_weight=prediction_weight)
        require_at_least("Method", 0, dense_prediction_every=dense_prediction_every)
        self.student = model
        self.curriculum = curriculum
        self.target = target
        model.set_outputs(target.outputs(model))
        if supervision is not None:
            model.set_classes(supervision.num_classes)
        self.prediction_loss = RelativeLoss() if prediction_loss is None else prediction_loss
        self.prediction_weight = float(prediction_weight)
        self.dense_prediction_every = dense_prediction_every
        self.ema_decay = ema_decay
        self.image_curriculum = image_curriculum
        self.supervision = supervision
        self.processes = DistributedContext()
        self.sharded: ShardedModels | None = None
        self._autocast: torch.dtype | None = None
        self.teacher: ModelTeacher = StudentTeacher(model, target)  # `initialize` starts the average
        self.forward: Callable[..., tuple[Any, ...]] = self.student_pass()
        check_parts(self)

    @property
    def reads_predictions(self) -> bool:
        """Whether the difficulty is made of what the loss predictor says, the student's or the teacher's."""
        difficulty = self.curriculum.difficulty
        return difficulty.needs_predictions or "predicted_loss" in difficulty.needs

    @property
    def uses_predictions(self) -> bool:
        """Whether anything but the evaluations would miss the loss predictor."""
        watches = any(metric.startswith("prediction_") for metric in self.watched)
        supervision = self.supervision is not None and self.supervision.reads_predictions
        return self.reads_predictions or supervision or watches or self.dense_prediction_every > 0

    @property
    def remembers_images(self) -> bool:
        """Whether something is kept of every training image, so that a run cannot go on over others."""
        return self.image_curriculum is not None or self.curriculum.difficulty.remembers_images

    @property
    def feedback(self) -> tuple[str, ...]:
        """The metrics that schedulers can be told of at the end of each interval.

        "probe_loss" takes passes of its own, and is measured where a scheduler watches it.
        """
        prediction = () if self.student.loss_predictor is None else ("prediction_loss", "prediction_accuracy")
        supervision = () if self.supervision is None else self.supervision.feedback
        return ("loss", "reconstruction_loss", *prediction, *supervision, "probe_loss")

    @property
    def watched(self) -> set[str]:
        """The metrics that some scheduler needs."""
        return {metric for scheduler in self.schedulers() for metric in scheduler.watches}

    def schedulers(self) -> list[Scheduler]:
        """Those of the curricula and of the supervision, each once."""
        parts = (self.curriculum, self.image_curriculum, self.supervision)
        found = [one for part in parts if part is not None for one in part.schedulers().values()]
        return list({id(one): one for one in found}.values())

    def observe(self, feedback: Feedback) -> None:
        """Give the schedulers the metrics of the last interval, reduced over processes; at fixed global steps."""
        for scheduler in self.schedulers():
            scheduler.observe(feedback)

    def initialize(
        self,
        device: torch.device,
        *,
        autocast: torch.dtype | None,
        seed: int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        teacher_precision: str = "same",
    ) -> None:
        """Initialize the weights from the seed, move to the device, and start the teacher as the student's copy.

        Args:
            device: where to compute.
            autocast: dtype of low-precision passes, None for float32.
            seed: of the weights.
            mean: of the data's normalization, for targets that see images otherwise; None where it is not known.
            std: likewise.
            teacher_precision: see `EMATeacher.precision`.
        """
        self.student.cpu().init_weights(torch.Generator().manual_seed(seed))
        self.student.to(device)
        self._autocast = autocast
        self.target.prepare(device, autocast=autocast, mean=mean, std=std)
        self.start_teacher(teacher_precision)

    def start_teacher(self, precision: str = "same") -> None:
        """Start the teacher anew from the student's present weights.

        Args:
            precision: see `EMATeacher.precision`.
        """
        if self.ema_decay is None:
            self.teacher = StudentTeacher(self.student, self.target, autocast=self._autocast)
        else:
            self.teacher = EMATeacher(self.student, self.target, autocast=self._autocast, precision=precision)
        self.forward = self.student_pass()

    def student_pass(self) -> StudentPass:
        """The student's pass, neither compiled nor distributed."""
        return StudentPass(self.student, self.target, self.prediction_loss, self._autocast)

    def student_loss(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M]: the student's loss of reconstructing the masked patches, in evaluation mode, without gradients."""
        asked = StudentTeacher(self.student, self.target, autocast=self._autocast, reference=self.teacher)
        with in_evaluation_mode(self.student):
            return asked.reconstruction_loss(images_NCHW, mask)

    def initial_copy(self, seed: int) -> MaskedModel:
        """A model as it was before training: the same architecture at the initialization that `seed` gives."""
        initial = copy.deepcopy(self.student).cpu() if self.sharded is None else self.sharded.empty()
        initial.requires_grad_(False).init_weights(torch.Generator().manual_seed(seed))
        return initial.to(self.student.mask_token.device)

    def gathered(self) -> tuple[MaskedModel, ModelTeacher]:
        """Student and teacher as whole models, copies where they are sharded. Every process must call this."""
        if self.sharded is None:
            return self.student, self.teacher
        student = self.sharded.gather(self.student)
        if self.teacher.averaged_model is None:
            return student, StudentTeacher(student, self.target, autocast=self._autocast)
        averaged = self.sharded.gather(self.teacher.averaged_model)
        return student, EMATeacher(student, self.target, autocast=self._autocast, averaged=averaged)

    def losses(self, batch: Batch, progress: float, noise: Noise) -> Losses:
        """Draw a mask, reconstruct, predict the reconstruction's loss; classify, where labels are learned from.

        The prediction's loss is an average over the pairs of the whole batch, other processes' images included, and so
        is the dense prediction's; `total` is scaled so that the processes' mean gradient is that of the whole batch.
        """
        mask = self.curriculum.draw(batch, self.teacher, progress, noise)
        self.target.advance(progress)
        target_NMP: Tensor | None = None
        if self.target.needs or not self.target.in_pass:
            target_NMP = self.target(batch.images, mask, self.student.patch_size, self.teacher)
        supervision = self.supervision
        pseudo = None if supervision is None else supervision.pseudo_labels(batch, self.teacher, progress)
        dense = self.dense_prediction_every > 0 and noise.step % self.dense_prediction_every == 0
        reconstruction, total, count, predicted_NM, true_NM, densely, logits_NY = self.forward(
            batch.images, mask.visible, mask.masked, target_NMP, mask.blanked, dense
        )
        with torch.no_grad():
            self.curriculum.remember(batch, mask, true_NM=true_NM, predicted_NM=predicted_NM, noise=noise)
            if self.image_curriculum is not None:
                self.image_curriculum.remember(batch, true_NM)
        learned, minimized = None, reconstruction
        if supervision is not None:
            learned = supervision.losses(batch, logits_NY, pseudo, true_NM, progress=progress, noise=noise)
            minimized = reconstruction + learned.total
        prediction = torch.zeros_like(reconstruction)
        if predicted_NM is not None:
            prediction = predicting = self._mean_over_batch(total, count)
            if densely is not None:
                predicting = prediction + self._mean_over_batch(*densely)
            minimized = minimized + self.prediction_weight * predicting
        return Losses(
            total=minimized,
            reconstruction=reconstruction,
            prediction=prediction,
            predicted_NM=predicted_NM,
            true_NM=true_NM,
            mask=mask,
            supervision=learned,
        )

    def _mean_over_batch(self, total: Tensor, count: Tensor) -> Tensor:
        """The mean of this process's sum over the whole batch's count, times the number of processes."""
        count = self.processes.sum(count.float())
        return total * self.processes.world_size / count.clamp(min=1)
