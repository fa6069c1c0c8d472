"""Settings of how a step is computed that do not go together, told alike by a run and by its plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.planning.plan import make_plan
from hpm.runtime.settings import Runtime

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"compile": "all"}, "Runtime.compile = 'all' is unknown; choose False, True, 'blocks'"),
    ({"cuda_graphs": True, "accumulate": 2}, "Runtime.cuda_graphs = True needs Schedule.accumulate = 1"),
    ({"cuda_graphs": True, "compile": True}, "Runtime.cuda_graphs = True needs Runtime.compile = 'blocks' or False"),
    ({"cuda_graphs": True, "grad_checkpointing": True}, "needs Runtime.grad_checkpointing = False"),
    ({"teacher_precision": "bf16", "precision": "fp16"}, "goes with Runtime.precision = 'bf16', and here it is 'fp16'"),
    ({"teacher_precision": "bf16", "sharding": "fsdp"}, "goes with Runtime.sharding = 'none'"),
    ({"compile_mode": "max-autotune-no-cudagraphs"}, "does nothing where Runtime.compile = False"),
    (
        {"residual_precision": "bf16", "precision": "fp32"},
        "goes with Runtime.precision = 'bf16', and here it is 'fp32'",
    ),
]
ALONE = ({"sharding": "fsdp"}, "spreads the model over processes, and this is the only one")
ALONE_IN_A_PLAN = ({"sharding": "fsdp"}, "spreads the model over GPUs, and --gpus is 1")


def check(device_type: str = "cuda", processes: int = 1, accumulate: int = 1, **settings: Any) -> None:
    """Everything that a run checks of these settings, on a device that has bf16."""
    runtime = Runtime(**settings)
    precision = "bf16" if runtime.precision == "auto" else runtime.precision
    runtime.check(device_type=device_type, precision=precision, world_size=processes, accumulate=accumulate)


@pytest.mark.parametrize(("settings", "told"), [*REFUSED, ALONE])
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match="Runtime") as refused:
        check(**settings)
    assert told in str(refused.value)


@pytest.mark.parametrize(("settings", "told"), [*REFUSED, ALONE_IN_A_PLAN])
def test_a_plan_refuses_what_its_run_would(tiny: Path, settings: dict[str, Any], told: str) -> None:
    bindings = [
        f"{'Schedule' if name == 'accumulate' else 'Runtime'}.{name} = {value!r}" for name, value in settings.items()
    ]
    with pytest.raises(UserError) as refused:
        make_plan(parse_config([str(tiny)], bindings))
    assert told in str(refused.value)


def test_graphs_are_of_one_process_on_cuda() -> None:
    check(cuda_graphs=True, compile="blocks", teacher_precision="bf16")
    for where in ({"device_type": "cpu"}, {"processes": 8}):
        with pytest.raises(ValueError, match=r"Runtime\.cuda_graphs = True needs"):
            check(**where, cuda_graphs=True, precision="bf16")


def test_sharding_goes_with_bf16_and_fp32() -> None:
    check(processes=2, sharding="fsdp")
    check(processes=2, sharding="fsdp", precision="fp32")
    with pytest.raises(ValueError, match="not with 'fp16'"):
        check(processes=2, sharding="fsdp", precision="fp16")
