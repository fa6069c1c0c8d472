"""One optimizer step: micro-batches, reduction over processes, clipping, and steps that are skipped.

Nothing here waits for the device: what a step measures adds up there, in a `Tally`, and is fetched once an interval.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from curriculum import Batch, Noise
from hpm.methods.method import Method
from hpm.methods.student_pass import Losses
from hpm.methods.supervision_losses import MEASURED
from hpm.optim.param_groups import set_learning_rate
from hpm.runtime.distributed import DistributedContext, full_tensor, without_reduction
from hpm.training.auxiliary_step import AuxiliaryStep


class Tally:
    """What the steps of an interval measured, summed on the device.

    Args:
        device: where.
        others: how many terms a step has beside its three losses.

    Attributes:
        sums: float32 [8 + others]: total loss, reconstruction, prediction and gradient norm, summed over the steps that
            were taken; how many were; how many were skipped; how many were skipped in a row, up to now and at most;
            the other terms, summed as the first.
    """

    def __init__(self, device: torch.device, others: int = 0) -> None:
        self.sums = torch.zeros(8 + others, device=device)

    def add(self, terms: Tensor, norm: Tensor, finite: Tensor) -> None:
        """Count a step, by the terms of `Losses.measured`; of one that was skipped only that it was."""
        taken, skipped = finite.float(), (~finite).float()
        measured = torch.cat([terms[:3], norm.reshape(1), terms[3:]])
        measured = torch.where(finite, measured, torch.zeros_like(measured))
        in_a_row = (self.sums[6] + 1) * skipped
        most = torch.maximum(self.sums[7], in_a_row)
        self.sums = torch.cat(
            [
                self.sums[:4] + measured[:4],
                self.sums[4:6] + torch.stack([taken, skipped]),
                torch.stack([in_a_row, most]),
                self.sums[8:] + measured[4:],
            ]
        )

    def start_interval(self) -> None:
        """Forget the interval; what was skipped in a row goes on."""
        self.sums[:6].zero_()
        self.sums[7:].zero_()


class TrainingStep:
    """Takes optimizer steps.

    A step whose gradient is not finite is skipped, weights and moments stay as they are, and counted.

    Args:
        method: student, teacher and losses, prepared and distributed.
        optimizer: of the student's parameters; fused.
        processes: who trains together.
        seed: of the masks.
        batch_size: images of a step, over all processes and micro-batches, an image counting once for each of its
            masks.
        clip_grad: the gradient's norm is at most this; None for no limit.
        scaler: for fp16, else None.
    """

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        *,
        processes: DistributedContext,
        seed: int,
        batch_size: int,
        clip_grad: float | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.method = method
        self.optimizer = optimizer
        self.processes = processes
        self.seed = seed
        self.batch_size = batch_size
        self.clip_grad = clip_grad
        self.scaler = scaler
        self.auxiliary = self._auxiliary_steps()
        others = 0 if method.supervision is None else MEASURED
        self.tally = Tally(method.student.mask_token.device, others)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def __call__(
        self, batches: Sequence[Batch], *, step: int, progress: float, lr: float, decay: float | None
    ) -> list[Losses]:
        """Take a step.

        Args:
            batches: this process's micro-batches, on the device; the next rows of the global batch, in order.
            step: the global step, which addresses the masks.
            progress: of the curriculum, in [0, 1].
            lr: learning rate.
            decay: of the teacher, None where it keeps no average.

        Returns:
            Each micro-batch's losses.
        """
        row = self.processes.rank * (self.batch_size // self.processes.world_size)
        terms: Any = 0.0
        measured: list[Losses] = []
        for place, batch in enumerate(batches):
            noise = Noise.for_batch(
                seed=self.seed,
                step=step,
                batch_size=len(batch),
                first=row,
                device=batch.images.device,
                of=self.batch_size,
            )
            row += len(batch)
            last = place == len(batches) - 1
            with nullcontext() if last else without_reduction(self.method.forward):
                losses = self.method.losses(batch, progress, noise)
                loss = losses.total / len(batches)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            if "masker" in self.auxiliary:
                loss = self.method.curriculum.masker_loss(batch, losses.mask, losses.true_NM, progress, noise)
                (loss / len(batches)).backward()
            terms = terms + losses.measured() / len(batches)
            measured.append(losses.detach())
        taken = self._update(terms, lr)
        for auxiliary in self.auxiliary.values():
            auxiliary.update(lr, taken=taken)
        if decay is not None:
            self.method.teacher.update(self.method.student, decay)
        return measured

    def _auxiliary_steps(self) -> dict[str, AuxiliaryStep]:
        """Of what is trained beside the model, by the name of its optimizer in checkpoints."""
        steps: dict[str, AuxiliaryStep] = {}
        trained, target = self.method.curriculum.trained, self.method.target
        if trained is not None:
            assert trained.module is not None  # by `Curriculum.prepare`
            adamw = torch.optim.AdamW(
                trained.module.parameters(), lr=trained.lr, weight_decay=trained.weight_decay, fused=True
            )
            steps["masker"] = AuxiliaryStep(trained.module, adamw, self.processes)
        if target.trained:
            assert target.module is not None  # by `Target.outputs`
            steps["target_optimizer"] = AuxiliaryStep(
                target.module, target.optimizer(self.optimizer.defaults["lr"]), self.processes
            )
        return steps

    def _update(self, terms: Tensor, lr: float) -> Tensor:
        """Take the model's step; bool, whether its gradient was finite."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = full_tensor(torch.nn.utils.get_total_norm(gradients))
        finite = norm.isfinite()
        self.tally.add(terms, norm, finite)
        if self.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self.clip_grad, norm)
        set_learning_rate(self.optimizer, lr)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            # How a gradient scaler tells a fused optimizer to skip a step without asking the host.
            self.optimizer.grad_scale, self.optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return finite
