from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hpm.data.crops import resample, whole_boxes
from hpm.evaluation import Evaluation
from hpm.runtime.precision import full_float32


def setting():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(params=["highest", "high"])
def process(request) -> Iterator[tuple[str, bool]]:
    """What the process has set, and what it is to have afterward."""
    before = setting()
    torch.set_float32_matmul_precision(request.param)
    torch.backends.cudnn.allow_tf32 = request.param == "high"
    yield setting()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_all_of_float32_inside_and_what_was_set_afterward(process):
    with full_float32():
        assert setting() == ("highest", False)
    assert setting() == process


def test_what_was_set_is_set_again_after_an_exception(process):
    with pytest.raises(RuntimeError, match="inside"), full_float32():
        raise RuntimeError("inside")
    assert setting() == process


class Products(TorchDispatchMode):
    """Notes the setting at every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.bmm.default, torch.ops.aten.mm.default):
            self.met.append(setting())
        return func(*args, **(kwargs or {}))


def test_resampling_uses_all_of_float32(process):
    images_NCHW = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    with Products() as products:
        resample(images_NCHW, whole_boxes(torch.tensor([[20, 24]] * 2)), torch.tensor([True, False]), 8)
    assert products.met == [("highest", False)] * 2
    assert setting() == process


class OfPrecision(Evaluation):
    def check(self, source) -> None:
        pass

    def __call__(self, context) -> dict[str, float]:
        return {"full": float(setting() == ("highest", False))}


def test_evaluations_are_measured_in_all_of_float32(process):
    assert OfPrecision().measure(None) == {"full": 1.0}
    assert setting() == process
