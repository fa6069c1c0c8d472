"""Settings of how a step is computed that do not go together, told alike by a run and by its plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from hpm.training.compute import Compute

from hpm.config import parse_config
from hpm.errors import UserError
from hpm.planning import plan

REFUSED = [
    ({"compile": "all"}, "Runtime.compile = 'all' is unknown; choose False, True, 'blocks'"),
    ({"cuda_graphs": True, "accumulate": 2}, "Runtime.cuda_graphs = True needs Schedule.accumulate = 1"),
    ({"cuda_graphs": True, "compile": True}, "Runtime.cuda_graphs = True needs Runtime.compile = 'blocks' or False"),
    ({"cuda_graphs": True, "grad_checkpointing": True}, "needs Runtime.grad_checkpointing = False"),
    ({"teacher_precision": "fp8", "precision": "fp16"}, "goes with Runtime.precision = 'bf16', and here it is 'fp16'"),
    ({"teacher_precision": "bf16", "sharding": "fsdp"}, "goes with Runtime.sharding = 'none'"),
    ({"compile_mode": "max-autotune-no-cudagraphs"}, "does nothing where Runtime.compile = False"),
]


@pytest.mark.parametrize(("settings", "told"), REFUSED)
def test_what_does_not_go_together_is_refused(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match="Trainer") as refused:
        Compute(**{"device_type": "cuda", "precision": "bf16", **settings})
    assert told in str(refused.value)


@pytest.mark.parametrize(("settings", "told"), REFUSED)
def test_a_plan_refuses_what_its_run_would(tiny: Path, settings: dict, told: str) -> None:
    bindings = [f"Trainer.{name} = {value!r}" for name, value in settings.items()]
    with pytest.raises(UserError) as refused:
        plan.make(parse_config([str(tiny)], bindings))
    assert told in str(refused.value)


def test_graphs_are_of_one_process_on_cuda() -> None:
    Compute(device_type="cuda", precision="bf16", cuda_graphs=True, compile="blocks", teacher_precision="fp8")
    for settings in ({"device_type": "cpu"}, {"device_type": "cuda", "processes": 8}):
        with pytest.raises(ValueError, match=r"Trainer\.cuda_graphs = True needs"):
            Compute(precision="bf16", cuda_graphs=True, **settings)
