"""Where a worker's runs compute: on its own GPUs, on its share of one, or on its share of the cores."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

import torch

from hpm.errors import UserError


@dataclass(frozen=True)
class Placement:
    """Where a worker's runs compute.

    Args:
        devices: CUDA devices by number; empty for the CPU.
        processes: of each run; more than one through `torchrun`.
        threads: of each process on the CPU; None for torch's own choice.
    """

    devices: tuple[int, ...] = ()
    processes: int = 1
    threads: int | None = None

    @classmethod
    def of_worker(cls, number: int, *, workers: int, processes: int) -> Placement:
        """The devices of one of several workers: its own GPUs, one that it shares, or its share of the cores.

        More workers than there are GPUs share them in turn, since small models leave most of one idle.

        Args:
            number: the worker's.
            workers: how many work at the same time.
            processes: of each run.

        Raises:
            UserError: where runs of several processes need more GPUs than there are.
        """
        count = torch.cuda.device_count()
        threads = max(1, (os.cpu_count() or 1) // (workers * processes))
        if not count:
            return cls(processes=processes, threads=threads)
        if workers * processes <= count:
            first = number * processes
            return cls(devices=tuple(range(first, first + processes)), processes=processes)
        if processes > 1:
            raise UserError(
                f"--workers {workers} with --processes {processes} needs {workers * processes} GPUs, this machine has "
                f"{count}"
            )
        return cls(devices=(number % count,), threads=threads)

    def environment(self) -> dict[str, str]:
        """The environment of a run's processes."""
        # MLflow's variable names one run, and a study has many.
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_RUN_ID"}
        if self.devices:
            visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
            chosen = [visible[device] if visible else str(device) for device in self.devices]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        return environment

    def command(self) -> list[str]:
        """The words that start `hpm`."""
        if self.processes == 1:
            return [sys.executable, "-m", "hpm"]
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={self.processes}",
            "-m",
            "hpm",
        ]
