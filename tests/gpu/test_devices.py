"""The device and the precision that a run gets where there is a GPU."""

from __future__ import annotations

import torch

from hpm.runtime.devices import choose_device, choose_precision


def test_a_gpu_is_chosen() -> None:
    assert choose_device("auto") == torch.device("cuda", 0)


def test_its_precision_is_one_that_it_computes_in() -> None:
    computes = torch.cuda.get_device_capability() >= (8, 0)  # bf16, from Ampere on
    assert choose_precision("auto", choose_device("auto")) == ("bf16" if computes else "fp32")
