"""What is evaluated, and the interface of an evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import torch

from curriculum import Batch, Curriculum, ImageCurriculum
from hpm.data import HELD_OUT, ImageSource, Split, UnreadableImages
from hpm.evaluation.gallery import Gallery
from hpm.methods.supervision import SemiSupervised
from hpm.methods.teacher import ModelTeacher
from hpm.metrics import Metric
from hpm.models.base import MaskedModel
from hpm.optim.clock import Clock
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_float32
from hpm.targets import Target


@dataclass(frozen=True)
class Pretraining:
    """What the computation of a pre-training depends on beside its method.

    Args:
        clock: the run's, at the step that was reached.
        batch_size: images of a step, an image counting once for each of its masks.
        progress_per: "epoch" or "step", as `Trainer` takes it.
        dense_prediction_every: as `Method` takes it. Default 0, never.
        supervision: likewise. Default None.
    """

    clock: Clock
    batch_size: int
    progress_per: str
    dense_prediction_every: int = 0
    supervision: SemiSupervised | None = None


_ANSWERING = {"predicted_loss": "loss predictor", "reconstruction_loss": "reconstructor"}  # other questions the encoder


@dataclass(frozen=True)
class EvaluationContext:
    """A model and everything that is needed to judge it.

    Args:
        model: the student.
        initial: makes the same architecture at its random initialization, as it was before training.
        teacher: what the curriculum asks: the student's moving average, or the student itself.
        curriculum: what the model was trained under; gives the mask ratio.
        target: what the model reconstructs.
        source: images and labels.
        device: where to compute.
        seed: of every draw.
        folder: where long protocols keep what they need to go on after a kill; None for nowhere.
        report: takes a line about the progress of a long protocol; None for silence.
        processes: that evaluate together. Default this one alone.
        scored_images: takes, by a metric's name, over how many images it is a share of right answers, so that nobody
            has to guess how finely it is resolved. One that is a mean over draws counts its images once for each draw.
            Metrics that are no such shares are not in it. Copies made by `dataclasses.replace` share it.
        pretraining: how the model was trained so far. Default None, not known.
        unreadable: the training images that evaluations found unreadable, for which others stand in where something is
            fitted; an image that is scored must be readable. Copies made by `dataclasses.replace` share it.
        untrained: the model's components that nobody has trained, such as the "reconstructor" that stands where a file
            holds an encoder alone, or the "moving average" of a file without one. What they would tell is left out.
            Default none.
        splits: which of "validation" and "test" are scored. Default both; what is looked at while something is still
            to be chosen, such as the length of the training, is scored on validation images alone.
        per_class: takes, by a metric's name, its value of each class, by the class's name, where it is a mean over
            classes; one for each seed that measures it. Copies made by `dataclasses.replace` share it.
        galleries: takes, by a protocol, what it found of some images, for whoever draws it; likewise shared.
        trained: takes the models whose encoders a protocol has trained, by names like "finetune-scratch"; likewise
            shared. Default None, where nobody keeps them.
        training_batches: gives up to so many training images, cropped as the run crops them, in batches that say which
            image each is and what was cropped. Default None, where no run is at hand.
        image_curriculum: what decided which images the run showed. Default None, where there was none.
    """

    model: MaskedModel
    initial: Callable[[], MaskedModel]
    teacher: ModelTeacher
    curriculum: Curriculum
    target: Target
    source: ImageSource
    device: torch.device
    seed: int
    folder: Path | None = None
    report: Callable[[str], None] | None = None
    processes: DistributedContext = field(default_factory=DistributedContext)
    pretraining: Pretraining | None = None
    untrained: frozenset[str] = frozenset()
    splits: tuple[str, ...] = HELD_OUT
    scored_images: dict[str, int] = field(default_factory=dict)
    per_class: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    galleries: dict[str, Gallery] = field(default_factory=dict)
    trained: dict[str, MaskedModel] | None = None
    training_batches: Callable[[int], Iterable[Batch]] | None = None
    image_curriculum: ImageCurriculum | None = None
    unreadable: UnreadableImages = field(default_factory=UnreadableImages)

    @property
    def held_out(self) -> dict[str, Split]:
        """The splits that are scored, by name, as far as the source has them."""
        return self.source.existing(self.splits)

    def can_answer(self, teacher: ModelTeacher, needs: Iterable[str]) -> bool:
        """Whether a teacher can answer some questions, and by components that are trained.

        Args:
            teacher: who would be asked.
            needs: the names of its methods, as `DifficultyEstimator.needs` has them.
        """
        return not any(teacher.unsupported_reason(name) or _ANSWERING.get(name) in self.untrained for name in needs)

    def mean_per_class(self, metrics: Iterable[str]) -> dict[str, dict[str, float]]:
        """What is noted in `per_class` of some metrics, the mean over the seeds; of those that have such."""
        noted = {name: self.per_class[name] for name in metrics if name in self.per_class}
        return {name: {label: fmean(values) for label, values in own.items()} for name, own in noted.items()}


def need_held_out(evaluations: Iterable[Evaluation]) -> bool:
    """Whether a run needs held-out images to measure these."""
    return not all(evaluation.of_training_images for evaluation in evaluations)


class Evaluation(ABC):
    """Measures a model. Draws nothing from global generators, so that training is the same with or without it.

    Attributes:
        protocol: the name that `hpm evaluate --protocol` takes.
        metrics: what is measured; every metric that the evaluation returns matches one, and the first that matches
            counts. Those of this package stand in `hpm.metrics.DECLARED`; an evaluation of your own lists its own here.
        seeded: whether the context's seed changes the metrics.
        seeds_argument: the argument that says how often an evaluation repeats by itself, whatever the context's seed;
            None for one that does not.
        of_training_images: whether a run measures its training images, so that it needs no held-out images for it.
        scores_training_images: whether it looks at training images alone, also where no run is at hand.
        shared: whether the context's processes share the work; where not, the main one measures alone. All processes
            then call, and the main one's metrics count.
    """

    protocol: ClassVar[str] = ""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    seeded: ClassVar[bool] = True
    seeds_argument: ClassVar[str | None] = None
    of_training_images: ClassVar[bool] = False
    scores_training_images: ClassVar[bool] = False
    shared: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        """Metrics by name, as `metrics` declares them: of every split in `context.held_out`, see `metric_on`."""

    def measure(self, context: EvaluationContext) -> dict[str, float]:
        """The metrics, measured without TF32: how runs call an evaluation.

        What an evaluation computes under an autocast of its own keeps that precision.
        """
        with full_float32():
            return self(context)

    def measure_values(self, context: EvaluationContext) -> dict[str, list[float]]:
        """The values of every metric, measured likewise: one, or as many as the evaluation repeats by itself."""
        return {name: [value] for name, value in self.measure(context).items()}

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        """Find out before training or measuring whether data and model can serve.

        Every evaluation needs images of the size that the model takes; those that need more add to this. Whether there
        are images to score is for the caller to find out, who knows which are scored.

        Args:
            source: images and labels.
            model: what is to be measured.

        Raises:
            ValueError: naming the binding or the data at fault.
            UserError: if images cannot be read.
        """
        model.check_images(source.img_size, source.in_chans, type(source).__name__)

    def needs_trained(self, model: MaskedModel) -> frozenset[str]:
        """The components of a model without which nothing is measured, such as "reconstructor" and "loss predictor".

        Args:
            model: what is to be measured.
        """
        return frozenset()

    def check_world_size(self, world_size: int) -> None:  # noqa: B027 - most can share with any number
        """Find out before measuring whether so many processes can share the work.

        Args:
            world_size: how many processes evaluate together.

        Raises:
            ValueError: naming the binding at fault.
        """

    @classmethod
    def find_metric(cls, name: str) -> Metric | None:
        """What this evaluation declares about a metric; None for one that it does not give.

        Args:
            name: the metric's, "knn/pretrained".
        """
        return next((metric for metric in cls.metrics if metric.matches(name)), None)
