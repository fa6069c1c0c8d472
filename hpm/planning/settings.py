"""The settings of a run that is planned: built as the run would build them, and refused where it would refuse them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from curriculum.validation import require_choice, require_instance
from hpm.config import Config
from hpm.data import ImageSource, RandomResizedCrop
from hpm.methods.method import Method
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.optimization import Optimization
from hpm.optim.schedule import Schedule
from hpm.planning.gpus import Machine
from hpm.runtime.settings import Runtime
from hpm.training.checks import check_method, check_objects
from hpm.training.settings import Checkpointing, Loading, Monitoring
from hpm.training.trainer import PROGRESS_PER


@dataclass(frozen=True)
class RunSettings:
    """What of a run's settings its cost depends on.

    Args:
        method: its tensors without content, on PyTorch's meta device.
        source: of the images, none of which was looked for.
        schedule: epochs and batches.
        runtime: how steps are computed.
        progress_per: when the curriculum moves, "epoch" or "step".
        image_sizes: of the crops of each epoch.
    """

    method: Method
    source: ImageSource
    schedule: Schedule
    runtime: Runtime
    progress_per: str
    image_sizes: ImageSizes

    def precision_on(self, machine: Machine) -> str:
        """What a GPU of the machine will compute in.

        Raises:
            ValueError: for a precision that it does not have.
        """
        name, peaks = self.runtime.precision, machine.gpu.peaks
        if name == "auto":
            return "bf16" if "bf16" in peaks else "fp32"
        if name not in peaks:
            raise ValueError(
                f"Runtime.precision = {name!r} is not what --device {machine.device} has: {', '.join(peaks)}"
            )
        return name

    def check(self, machine: Machine) -> None:
        """Refuse what a run on the machine would refuse. Left out is what takes the images, or a compiler.

        Raises:
            ValueError: naming the setting at fault.
        """
        runtime, method, source = self.runtime, self.method, self.source
        if runtime.sharding == "fsdp" and machine.gpus == 1:
            raise ValueError(
                "Runtime.sharding = 'fsdp' spreads the model over GPUs, and --gpus is 1; plan for several, e.g. "
                "--gpus 8, or set Runtime.sharding = 'none'"
            )
        runtime.check(
            device_type="cuda",
            precision=self.precision_on(machine),
            world_size=machine.gpus,
            accumulate=self.schedule.accumulate,
        )
        if machine.gpus > 1 and ":" in runtime.device:
            raise ValueError(
                f"Runtime.device = {runtime.device!r} would be shared by all --gpus {machine.gpus}; choose 'cuda' or "
                "'auto'"
            )
        check_method(method, runtime, self.schedule, self.image_sizes, machine.gpus)
        check_objects(method, source)
        method.student.check_images(source.img_size, source.in_chans, type(source).__name__)


def read_settings(config: Config) -> RunSettings:
    """Build what a configuration says of a run, without reading images or allocating weights.

    Args:
        config: the configuration that was parsed last.

    Raises:
        UserError: for a value that a part refuses, or a binding that nothing uses.
        ValueError: for a part that is not what the `Trainer` takes.
    """
    with torch.device("meta"):
        method = _part(config, "method", Method)
    source = _part(config, "source", ImageSource)
    _part(config, "crop", RandomResizedCrop)
    schedule = _group(config, "schedule", Schedule)
    runtime = _group(config, "runtime", Runtime)
    for name, kind in (
        ("optimization", Optimization),
        ("loading", Loading),
        ("checkpointing", Checkpointing),
        ("monitoring", Monitoring),
    ):
        _group(config, name, kind)
    progress_per: str = config.parameter("Trainer", "progress_per")
    require_choice("Trainer", PROGRESS_PER, progress_per=progress_per)
    image_sizes = ImageSizes(
        config.parameter("Trainer", "image_size"),
        img_size=method.student.img_size,
        patch_size=method.student.patch_size,
        epochs=schedule.epochs,
    )
    config.parameter("Trainer", "seed")
    config.check_bindings(in_files=True)
    return RunSettings(method, source, schedule, runtime, progress_per, image_sizes)


def _part(config: Config, name: str, kind: type) -> Any:
    """What the `Trainer` cannot be without."""
    part = config.parameter("Trainer", name)
    require_instance("Trainer", kind, **{name: part})
    return part


def _group(config: Config, name: str, kind: type) -> Any:
    """Settings that have defaults."""
    group = config.parameter("Trainer", name)
    if group is None:
        return kind()
    require_instance("Trainer", kind, **{name: group})
    return group
