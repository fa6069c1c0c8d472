"""Method: the mathematics of one training step.

    batch -> Curriculum.draw -> Mask -> student -> target -> losses -> (backward, optimizer) -> teacher update

Shape suffixes: N images, M masked patches, P values of a patch's target.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from curriculum import Batch, Curriculum, Mask, Noise
from hpm.methods.ema_teacher import Decay, EMATeacher
from hpm.methods.loss_prediction import PredictionLoss, RelativeLoss, ranking_accuracy
from hpm.models.base import MaskedModel
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.runtime.cuda_graphs import GraphedStudent
from hpm.runtime.distributed import DistributedContext, full_tensor, shard
from hpm.targets import Target

_BLOCK_SHAPES = 64  # widths, times numbers of tokens, times with and without gradients


@dataclass(frozen=True)
class Losses:
    """A step's losses, on the device.

    Args:
        total: what is minimized; carries the gradient.
        reconstruction: mean loss of the masked patches.
        prediction: loss of the loss predictor, 0 where there is none.
        predicted_NM: predicted losses, or None.
        true_NM: the reconstruction's loss of each masked patch.
        mask: what was masked.
    """

    total: Tensor
    reconstruction: Tensor
    prediction: Tensor
    predicted_NM: Tensor | None
    true_NM: Tensor
    mask: Mask

    def detach(self) -> Losses:
        """The same without the graph behind them."""
        return replace(
            self,
            total=self.total.detach(),
            reconstruction=self.reconstruction.detach(),
            prediction=self.prediction.detach(),
        )

    def ranking_accuracy(self) -> Tensor:
        """Share of pairs of masked patches that the student's prediction orders rightly; NaN without predictor."""
        if self.predicted_NM is None:
            return self.true_NM.new_full((), float("nan"))
        return ranking_accuracy(self.predicted_NM, self.true_NM)


class Method:
    """Masked image modelling under a curriculum: student, teacher, target and losses.

    Args:
        model: the student.
        curriculum: draws the masks.
        target: what is reconstructed.
        prediction_loss: how the loss predictor learns; unused where the model has none.
        prediction_weight: its weight beside the reconstruction's loss (HPM: 1).
        ema_decay: how fast the moving average forgets; None for no moving average, which plain MAE does without.
    """

    def __init__(
        self,
        *,
        model: MaskedModel,
        curriculum: Curriculum,
        target: Target,
        prediction_loss: PredictionLoss | None = None,
        prediction_weight: float = 1.0,
        ema_decay: Decay | None = None,
    ) -> None:
        for name, value, kind in (
            ("model", model, MaskedModel),
            ("curriculum", curriculum, Curriculum),
            ("target", target, Target),
            ("prediction_loss", prediction_loss, PredictionLoss | None),
            ("ema_decay", ema_decay, Decay | None),
        ):
            if not isinstance(value, kind):
                expected = getattr(kind, "__name__", str(kind))
                raise ValueError(f"Method.{name} must be a {expected}, got {value!r}")
        if prediction_weight < 0:
            raise ValueError(f"Method.prediction_weight = {prediction_weight} must not be negative")
        self.student = model
        self.curriculum = curriculum
        self.target = target
        model.set_outputs(target.outputs(model))
        self.prediction_loss = RelativeLoss() if prediction_loss is None else prediction_loss
        self.prediction_weight = float(prediction_weight)
        self.ema_decay = ema_decay
        self.autocast: torch.dtype | None = None
        self._teacher_precision = "same"
        self._processes = DistributedContext()
        self._skeleton: MaskedModel | None = None
        self.teacher = EMATeacher(model, target, average=False)  # `prepare` starts the average
        self._forward: Callable[..., tuple[Any, ...]] = self._student_pass()
        curriculum.check(self.teacher, model.num_patches)
        if isinstance(model, MaskedAutoencoder) and (curriculum.blank_ratio > 0) != (
            model.encoder_mask_token is not None
        ):
            needed = curriculum.blank_ratio > 0
            raise ValueError(
                f"Curriculum.blank_ratio = {curriculum.blank_ratio} {'needs' if needed else 'never uses'} a mask token "
                f"in the encoder; set MaskedAutoencoder.blank_token = {needed}"
            )
        if ema_decay is None and curriculum.difficulty.needs and curriculum.sampler.needs_scores(1.0, 1):
            name = type(curriculum.difficulty).__name__
            raise ValueError(
                f"Curriculum.difficulty = {name} asks a teacher, but Method.ema_decay = None means that there is "
                "none; set it, e.g. to @HorizonDecay()"
            )
        if ema_decay is None and target.needs:
            raise ValueError(
                f"Method.target = {type(target).__name__} is what the moving average makes of an image, but "
                "Method.ema_decay = None means that there is none; set it, e.g. to @HorizonDecay()"
            )
        for capability in target.needs:
            if reason := self.teacher.unsupported_reason(capability):
                raise ValueError(f"Method.target = {type(target).__name__} needs {capability}, but {reason}")
        for scheduler in curriculum.schedulers().values():
            for metric in set(scheduler.watches) - set(self.feedback):
                name = type(scheduler).__name__
                raise ValueError(f"{name} watches the metric {metric!r}; this run measures {', '.join(self.feedback)}")

    def prepare(
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
            device: where to train.
            autocast: dtype of low-precision passes, None for float32.
            seed: of the weights.
            mean: of the data's normalization, for targets that see images otherwise; None where it is not known.
            std: likewise.
            teacher_precision: see `EMATeacher.precision`.
        """
        self.student.cpu().init_weights(torch.Generator().manual_seed(seed))
        self.student.to(device)
        self.autocast = autocast
        self._teacher_precision = teacher_precision
        self.target.prepare(device, autocast=autocast, mean=mean, std=std)
        self.start_teacher()

    def start_teacher(self) -> None:
        """Start the moving average anew from the student's present weights, and forget compiled passes."""
        average = self.ema_decay is not None
        self.teacher = EMATeacher(
            self.student, self.target, autocast=self.autocast, average=average, precision=self._teacher_precision
        )
        self._forward = self._student_pass()

    def _student_pass(self) -> nn.Module:
        return StudentPass(self.student, self.target, self.prediction_loss, self.autocast)

    def distribute(self, processes: DistributedContext, *, sharding: str) -> None:
        """Train together with other processes: replicated ("none") or sharded ("fsdp"). Once, after `prepare`."""
        device = self.student.mask_token.device
        if sharding == "fsdp":
            self._skeleton = copy.deepcopy(self.student).to("meta")
            for model in (self.student, *([self.teacher.model] if self.teacher.average else [])):
                methods = ("reconstruct", "predict_loss", "attention", "features")
                shard(model, model.blocks(), methods=methods, device=device)
        elif processes.world_size > 1:
            devices = [device] if device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the argument's new name, which older versions do not know
                self._forward = DistributedDataParallel(
                    self._student_pass(), device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        self._processes = processes

    def compile(self, *, blocks: bool = False, backend: str = "inductor", mode: str = "default") -> None:
        """Compile the student's pass and the teacher's. Shapes are static and alpha is no part of the graphs.

        Args:
            blocks: compile the transformer blocks rather than whole passes. Blocks of the same width and number of
                tokens share one graph, so that this takes seconds where a whole pass takes a minute and more, and
                what lies between the blocks stays as it was.
            backend: torch.compile's.
            mode: torch.compile's: "default", or "max-autotune-no-cudagraphs" to try more kernels.
        """
        if blocks:
            import torch._dynamo.config as dynamo  # seconds of imports that other runs are spared

            # All blocks are one function to torch, which by default compiles a function for eight shapes and no more.
            dynamo.recompile_limit = max(dynamo.recompile_limit, _BLOCK_SHAPES)
            for block in self.student.blocks():
                block.compile(dynamic=False, backend=backend, mode=mode)
        else:
            self._forward = torch.compile(self._forward, dynamic=False, backend=backend, mode=mode)
        self.teacher.compile(blocks=blocks, backend=backend, mode=mode)

    def record(self, batch_size: int) -> None:
        """Record the student's pass and the teacher's as CUDA graphs.

        After `prepare` and `compile`, before training; in one process, with one mask ratio, without blanked patches,
        and with a target that is computed in the pass. A step's gradients lie where the next step's will: no
        accumulation.

        Args:
            batch_size: images of every step, on this device.
        """
        student, device = self.student, self.student.mask_token.device
        patches = torch.arange(student.num_patches, device=device).expand(batch_size, -1)
        masked = self.curriculum.count_masked(student.num_patches)
        visible = student.num_patches - masked - self.curriculum.count_thrown(student.num_patches)
        images = torch.randn(batch_size, student.in_chans, student.img_size, student.img_size, device=device)
        samples = (images, patches[:, :visible].contiguous(), patches[:, visible : visible + masked].contiguous())
        self._forward = GraphedStudent(self._student_pass(), samples)
        self.teacher.record(images.clone())

    def without_reduction(self) -> AbstractContextManager[Any]:
        """For all micro-batches of a step but the last: gradients stay in this process."""
        wrapped = getattr(self._forward, "_orig_mod", self._forward)
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    @property
    def feedback(self) -> tuple[str, ...]:
        """The metrics that the curriculum is told of at the end of each interval."""
        prediction = () if self.student.loss_predictor is None else ("prediction_loss", "prediction_accuracy")
        return ("loss", "reconstruction_loss", *prediction)

    def initial_copy(self, seed: int) -> MaskedModel:
        """A model as it was before training: the same architecture at the initialization that `seed` gives."""
        initial = self._empty() if self._skeleton is not None else copy.deepcopy(self.student).cpu()
        initial.requires_grad_(False).init_weights(torch.Generator().manual_seed(seed))
        return initial.to(self.student.mask_token.device)

    def gathered(self) -> tuple[MaskedModel, EMATeacher]:
        """Student and teacher as whole models, copies where they are sharded. Every process must call this."""
        if self._skeleton is None:
            return self.student, self.teacher
        student = self._gather(self.student)
        teacher = EMATeacher(student, self.target, autocast=self.autocast, average=False)
        if self.teacher.average:
            teacher.model = self._gather(self.teacher.model)
        return student, teacher

    def _gather(self, model: MaskedModel) -> MaskedModel:
        gathered = self._empty()
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                value = full_tensor(tensor)
                if self._processes.is_main:
                    gathered.state_dict()[name].copy_(value)
        # In the other processes it is never used, and must not take a device's memory.
        return gathered.requires_grad_(False).to(self.student.mask_token.device if self._processes.is_main else "cpu")

    def _empty(self) -> MaskedModel:
        assert self._skeleton is not None
        empty = copy.deepcopy(self._skeleton).to_empty(device="cpu")
        for name, buffer in empty.named_buffers():  # positions, which no initialization sets
            buffer.copy_(self.student.get_buffer(name))
        return empty

    def losses(self, batch: Batch, progress: float, noise: Noise) -> Losses:
        """Draw a mask, reconstruct, predict the reconstruction's loss.

        The prediction's loss is an average over the pairs of the whole batch, other processes' images included;
        `total` is scaled so that the processes' mean gradient is that of the whole batch.
        """
        mask = self.curriculum.draw(batch, self.teacher, progress, noise)
        self.target.advance(progress)
        target_NMP = None
        if self.target.needs or not self.target.in_pass:
            target_NMP = self.target(batch.images, mask, self.student.patch_size, self.teacher)
        reconstruction, total, count, predicted_NM, true_NM = self._forward(
            batch.images, mask.visible, mask.masked, target_NMP, mask.blanked
        )
        if predicted_NM is None:
            return Losses(reconstruction, reconstruction, torch.zeros_like(reconstruction), None, true_NM, mask)
        count = self._processes.sum(count.float())
        prediction = total * self._processes.world_size / count.clamp(min=1)
        return Losses(
            reconstruction + self.prediction_weight * prediction,
            reconstruction,
            prediction,
            predicted_NM,
            true_NM,
            mask,
        )


class StudentPass(nn.Module):
    """The student's forward pass and its losses: what is compiled, and what distributed training wraps."""

    def __init__(
        self,
        student: MaskedModel,
        target: Target,
        prediction_loss: PredictionLoss,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.student = student
        self.target = target
        self.prediction_loss = prediction_loss
        self.autocast = autocast

    def forward(
        self,
        images_NCHW: Tensor,
        visible_NV: Tensor,
        masked_NM: Tensor,
        target_NMP: Tensor | None,
        blanked_NV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
        """Mean reconstruction loss; sum and count of the prediction loss; predicted and true losses [N, M].

        The target is computed here where none is given: what `Target.in_pass` allows.
        """
        mask = Mask(visible_NV, masked_NM, blanked=blanked_NV)
        with torch.autocast(images_NCHW.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output = self.student(images_NCHW, mask)
        if target_NMP is None:
            target_NMP = self.target(images_NCHW, mask, self.student.patch_size)
        true_NM = self.target.loss(output.reconstruction_NMP, target_NMP)
        if output.predicted_loss_NM is None:
            return true_NM.mean(), None, None, None, true_NM.detach()
        total, count = self.prediction_loss(output.predicted_loss_NM, true_NM)
        return true_NM.mean(), total, count, output.predicted_loss_NM.detach(), true_NM.detach()
