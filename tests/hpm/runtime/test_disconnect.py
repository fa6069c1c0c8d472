"""Leaving the other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LEAVE_A_HUNDRED_TIMES = """
import sys, torch, torch.distributed as dist
from hpm.runtime.distributed import DistributedContext

for number in range(100):
    dist.init_process_group("gloo", store=dist.FileStore(f"{sys.argv[1]}/{number}", 1), rank=0, world_size=1)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    dist.all_gather_object([None], "metrics")
    DistributedContext().disconnect()
    del model
"""


def test_a_model_that_outlives_its_group_is_freed(tmp_path: Path) -> None:
    """With torch 2.8 about one group in ten was waited for without end; torch 2.13 does not show it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LEAVE_A_HUNDRED_TIMES, str(tmp_path)]
    subprocess.run(command, env=environment, check=True, timeout=120)
