"""Copies to a CUDA device that wait for nothing, and batches brought there while it computes with those before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class OneAhead(Iterator[T], Generic[T]):
    """The same items, but when one is given out the next has been taken from its source.

    An exception of the source is raised after the items that came before it.

    Args:
        items: the source; nothing is taken from it before the first item is asked for.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._taken: deque[T] = deque()
        self._end: Exception | None = None

    def __next__(self) -> T:
        while self._end is None and len(self._taken) < 2:
            try:
                self._taken.append(next(self._items))
            except Exception as error:  # a StopIteration as well
                self._end = error
        if self._taken:
            return self._taken.popleft()
        assert self._end is not None
        raise self._end


def prefetch(items: Iterator[T], bring: Callable[[T], T], stream: torch.cuda.Stream) -> Iterator[T]:
    """Bring items to a CUDA device, one ahead of those given out, on a stream of its own.

    The host waits for nothing. The stream that is current where an item is given out waits until the item is there.

    Args:
        items: tuples of tensors in pinned memory, and whatever else `bring` takes.
        bring: copies an item to the device and computes there what is to be ready beforehand.
        stream: the stream that it does this on.
    """

    def queue(item: T) -> tuple[T, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return bring(item), stream.record_event()

    def give(queued: tuple[T, torch.cuda.Event]) -> T:
        item, event = queued
        current = torch.cuda.current_stream(stream.device)
        current.wait_event(event)
        for part in item if isinstance(item, tuple) else ():
            if isinstance(part, Tensor):
                part.record_stream(current)  # else its memory could be given away while `current` still reads it
        return item

    return map(give, OneAhead(map(queue, items)))


def move(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device, the copy queued on the current stream."""
    if x.device.type == device.type:
        return x
    if device.type == "cuda" and not x.is_pinned():
        x = x.pin_memory()  # else the copy would wait for the device
    return x.to(device, non_blocking=True)
