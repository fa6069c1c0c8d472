"""A context in which waits for an accelerator are found on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
_WAITING_OPS = (_aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.equal)
_INDEX_OPS = (_aten.index, _aten.index_put, _aten.index_put_)
_WAITING_METHODS = ("tolist", "numpy", "__array__", "cpu")


def _refuse(what: str) -> None:
    raise AssertionError(f"{what} waits for the device; compute with tensor operations of a fixed shape instead")


class _RefuseOperations(TorchDispatchMode):
    """Operations whose result, or its shape, the host has to know."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        packet = func.overloadpacket
        if packet in _WAITING_OPS:
            _refuse(str(packet))
        # Indexing by a boolean tensor looks up its nonzero elements.
        if packet in _INDEX_OPS and any(
            isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        ):
            _refuse(f"{packet} by a boolean tensor")
        return func(*args, **(kwargs or {}))


class _RefuseMethods(TorchFunctionMode):
    """Methods that read a CPU tensor's memory directly, and so are no operation that the other mode could see."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _WAITING_METHODS:
            _refuse(f"Tensor.{name}")
        return func(*args, **(kwargs or {}))


@contextmanager
def refuse_host_sync() -> Iterator[None]:
    """Make every operation within this context raise that would have the host wait for an accelerator, on the CPU too.

    A hidden wait for every batch is a bug that no result shows: the masks are right and the training is slow.

    Raises:
        AssertionError: if an operation waits; it names the operation.
    """
    with _RefuseMethods(), _RefuseOperations():
        yield
