"""Runtime: on what, in which precision and how fast a step is computed."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from curriculum.validation import require_choice
from hpm.runtime.devices import PRECISIONS, choose_device, choose_precision
from hpm.runtime.distributed import SHARDINGS, DistributedContext

COMPILATIONS = (False, True, "blocks")
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
RESIDUAL_PRECISIONS = ("fp32", "bf16")
TEACHER_PRECISIONS = ("same", "bf16")


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How steps are computed. Changes numbers by their rounding alone.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16", "fp16", "tf32" or "fp32".
        compile: False; True for the student's and the teacher's whole passes, which takes minutes for a ViT-B; or
            "blocks" for their transformer blocks, which takes seconds. Evaluations are not compiled.
        compile_mode: "default", or "max-autotune-no-cudagraphs" to try more kernels, which takes longer still.
        cuda_graphs: record the student's pass and the teacher's as CUDA graphs and replay them, so that the host
            launches three graphs for hundreds of kernels: for small models and batches, and where a host is slow. Goes
            with compile False or "blocks", in one process, without accumulation or dense prediction. Of the teacher's
            passes it is the one over the full image, which `PredictedLoss` without probes asks for.
        residual_precision: what autocast keeps the tokens between the blocks in: "fp32", or "bf16", which is faster
            and changes what is learned by its rounding.
        teacher_precision: what the moving average predicts losses in: "same" as the student, or "bf16" throughout,
            weights too. The average itself stays in float32, and only the order of the losses matters.
        grad_checkpointing: compute activations again in the backward pass rather than keep them.
        sharding: "none" gives every process the whole model, "fsdp" a part of it.
        deterministic: bit-exact repetition on CUDA too, at some cost; a CPU always repeats.

    Raises:
        ValueError: naming the setting at fault.
    """

    resume_rounding: ClassVar[frozenset[str]] = frozenset(
        {
            "device",
            "precision",
            "compile",
            "compile_mode",
            "cuda_graphs",
            "grad_checkpointing",
            "sharding",
            "deterministic",
        }
    )

    device: str = "auto"
    precision: str = "auto"
    compile: bool | str = False
    compile_mode: str = "default"
    cuda_graphs: bool = False
    residual_precision: str = "fp32"
    teacher_precision: str = "same"
    grad_checkpointing: bool = False
    sharding: str = "none"
    deterministic: bool = False

    def __post_init__(self) -> None:
        require_choice("Runtime", ("auto", *PRECISIONS), precision=self.precision)
        require_choice("Runtime", COMPILATIONS, compile=self.compile)
        require_choice("Runtime", COMPILE_MODES, compile_mode=self.compile_mode)
        require_choice("Runtime", RESIDUAL_PRECISIONS, residual_precision=self.residual_precision)
        require_choice("Runtime", TEACHER_PRECISIONS, teacher_precision=self.teacher_precision)
        require_choice("Runtime", SHARDINGS, sharding=self.sharding)
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"Runtime.compile_mode = {self.compile_mode!r} does nothing where Runtime.compile = False")
        if self.teacher_precision != "same" and self.sharding != "none":
            raise ValueError(
                f"Runtime.teacher_precision = {self.teacher_precision!r} goes with Runtime.sharding = 'none': it "
                "copies the whole teacher"
            )
        if self.cuda_graphs and self.grad_checkpointing:
            raise ValueError("Runtime.cuda_graphs = True needs Runtime.grad_checkpointing = False")
        if self.cuda_graphs and self.compile is True:
            raise ValueError("Runtime.cuda_graphs = True needs Runtime.compile = 'blocks' or False")

    def choose_device(self, processes: DistributedContext) -> torch.device:
        """This process's device.

        Raises:
            ValueError: for a device that is not there, or that all processes would share.
        """
        device = choose_device(self.device, local_rank=processes.local_rank)
        if ":" in self.device and processes.world_size > 1:
            raise ValueError(
                f"Runtime.device = {self.device!r} would be shared by all processes; choose 'cuda' or 'auto'"
            )
        return device

    def choose_precision(self, device: torch.device) -> str:
        """What "auto" means on the device; any other precision that it has is itself.

        Raises:
            ValueError: for a precision that the device does not have.
        """
        return choose_precision(self.precision, device)

    def check(self, *, device_type: str, precision: str, world_size: int, accumulate: int) -> None:
        """Refuse settings that do not go together on a device.

        Args:
            device_type: "cuda" or "cpu".
            precision: what "auto" has become there.
            world_size: processes that train together.
            accumulate: micro-batches of a process's share of a batch.

        Raises:
            ValueError: naming the setting at fault.
        """
        for name, default in (("residual_precision", "fp32"), ("teacher_precision", "same")):
            if (value := getattr(self, name)) != default and precision != "bf16":
                raise ValueError(
                    f"Runtime.{name} = {value!r} goes with Runtime.precision = 'bf16', and here it is {precision!r}"
                )
        if self.sharding == "fsdp" and world_size == 1:
            raise ValueError(
                "Runtime.sharding = 'fsdp' spreads the model over processes, and this is the only one; start several "
                "with torchrun --nproc-per-node N -m hpm pretrain ..., or set Runtime.sharding = 'none'"
            )
        if self.sharding == "fsdp" and precision == "fp16":
            raise ValueError(
                "Runtime.sharding = 'fsdp' goes with Runtime.precision = 'bf16' or 'fp32', not with 'fp16'"
            )
        for needed, lacks in (
            (f"a CUDA device, and this is {device_type}", device_type != "cuda"),
            ("one process", world_size > 1),
            ("Schedule.accumulate = 1", accumulate > 1),
        ):
            if self.cuda_graphs and lacks:
                raise ValueError(f"Runtime.cuda_graphs = True needs {needed}")

    def uncompiled(self) -> AbstractContextManager[Any]:
        """Within it nothing is compiled: measurements ask for other shapes than training does."""
        return torch.compiler.set_stance("force_eager") if self.compile else nullcontext()

    def check_compiler(self) -> None:
        """Refuse to compile where there is no compiler.

        Raises:
            ValueError: naming what is missing.
        """
        if not self.compile:
            return
        named = os.environ.get("CXX", "").split()
        if named and shutil.which(named[0]) is None:
            raise ValueError(
                f"Runtime.compile = {self.compile!r} needs a C++ compiler, and CXX = {named[0]} is not there"
            )
        if not named and not (shutil.which("g++") or shutil.which("clang++")):
            raise ValueError(
                f"Runtime.compile = {self.compile!r} needs a C++ compiler, and there is neither g++ nor clang++ here"
            )
