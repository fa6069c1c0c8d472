"""Which settings of how a step is computed go together; what a run, its plan and the benchmarks check alike."""

from __future__ import annotations

from dataclasses import dataclass

from hpm.models.low_precision import TEACHER_PRECISIONS

COMPILATIONS = (False, True, "blocks")
COMPILE_MODES = ("default", "max-autotune-no-cudagraphs")
RESIDUAL_PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Compute:
    """How a step is computed; the fields are `Trainer`'s arguments of these names, and where it runs.

    Args:
        device_type: "cuda" or "cpu".
        processes: that train together.

    Raises:
        ValueError: naming the binding, where settings are unknown or do not go together.
    """

    device_type: str
    precision: str
    compile: bool | str = False
    compile_mode: str = "default"
    cuda_graphs: bool = False
    residual_precision: str = "fp32"
    teacher_precision: str = "same"
    accumulate: int = 1
    grad_checkpointing: bool = False
    sharding: str = "none"
    processes: int = 1

    def __post_init__(self) -> None:
        for name, choices in (
            ("compile", COMPILATIONS),
            ("compile_mode", COMPILE_MODES),
            ("residual_precision", RESIDUAL_PRECISIONS),
            ("teacher_precision", TEACHER_PRECISIONS),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"Trainer.{name} = {value!r} is unknown; choose {', '.join(map(repr, choices))}")
        low = (("residual_precision", "fp32"), ("teacher_precision", "same"))
        for name, default in low:
            if (value := getattr(self, name)) != default and self.precision != "bf16":
                raise ValueError(
                    f"Trainer.{name} = {value!r} goes with Runtime.precision = 'bf16', and here it is "
                    f"{self.precision!r}"
                )
        if self.compile_mode != "default" and not self.compile:
            raise ValueError(f"Runtime.compile_mode = {self.compile_mode!r} does nothing where Runtime.compile = False")
        if self.teacher_precision != "same" and self.sharding != "none":
            raise ValueError(
                f"Runtime.teacher_precision = {self.teacher_precision!r} goes with Runtime.sharding = 'none': it "
                "copies the whole teacher"
            )
        if self.teacher_precision == "fp8" and self.device_type != "cuda":
            raise ValueError(
                f"Runtime.teacher_precision = 'fp8' needs an H100, an RTX 4090 or newer, and this is {self.device_type}"
            )
        if self.cuda_graphs:
            self._check_graphs()

    def _check_graphs(self) -> None:
        for needed, lacks in (
            (f"a CUDA device, and this is {self.device_type}", self.device_type != "cuda"),
            ("one process", self.processes > 1),
            ("Schedule.accumulate = 1", self.accumulate > 1),
            ("Runtime.grad_checkpointing = False", self.grad_checkpointing),
            ("Runtime.compile = 'blocks' or False", self.compile is True),
        ):
            if lacks:
                raise ValueError(f"Runtime.cuda_graphs = True needs {needed}")
