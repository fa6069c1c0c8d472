"""Passes recorded once as CUDA graphs and replayed in every step, so that the host launches one graph for hundreds of
kernels.

A host that is slow, a model that is small or a batch that is small leaves a GPU waiting for launches; a graph does
not. It replays the kernels of the passes it recorded, on the same memory, which it keeps; all graphs of a process
share theirs: their steps take turns. Recording comes before training, since no other thread may ask CUDA for memory
meanwhile, as a loader's does.

Shape suffixes: N images, L patches, V visible, M masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

T = TypeVar("T")
_WARM_UP = 3  # passes before recording, which compile, choose kernels and fill caches


class _Pool:
    """The memory that all graphs of a device share.

    It holds a graph of its own, of one fill: torch refuses to record into a pool all of whose graphs are gone, and
    those of a discarded step go whenever Python collects them.
    """

    def __init__(self, device: torch.device) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            torch.zeros(1, device=device)
        self.handle: Any = self._graph.pool()


_pools: WeakValueDictionary[torch.device, _Pool] = WeakValueDictionary()


def _pool(device: torch.device) -> _Pool:
    """The pool of the graphs that there are, or a new one; whoever records into it holds it."""
    pool = _pools.get(device)
    if pool is None:
        _pools[device] = pool = _Pool(device)
    return pool


def record(action: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """Record what an action launches, after passes on a stream aside that are not.

    Args:
        action: computes on CUDA, always on the same memory.
        pool: handle of the memory that the graph may share; None for memory of its own.

    Returns:
        The graph, and what the action gave, which every replay writes anew.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            action()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        outputs = action()
    return graph, outputs


class GraphedStudent:
    """The student's pass and its backward pass, recorded when this is made; every batch must be of the samples' shape.

    Takes what `StudentPass` takes, of which neither a target nor blanked patches nor a dense pass may be asked for. The
    student has no classifier.

    Args:
        student_pass: a `StudentPass`; its blocks may be compiled.
        samples: images, visible and masked patches of a batch.
    """

    def __init__(self, student_pass: nn.Module, samples: tuple[Tensor, Tensor, Tensor]) -> None:
        self._pool = _pool(samples[0].device)
        recorded: Any = torch.cuda.make_graphed_callables(
            _Outputs(student_pass),
            samples,
            num_warmup_iters=_WARM_UP,
            allow_unused_input=True,
            pool=self._pool.handle,
        )
        self._replay: Callable[..., tuple[Tensor, ...]] = recorded
        # Gradients of a replayed pass are added up on the stream of its recording, of which torch warns since 2.9.
        if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)

    def __call__(
        self,
        images_NCHW: Tensor,
        visible_NV: Tensor,
        masked_NM: Tensor,
        target_NMP: Tensor | None = None,
        blanked_NV: Tensor | None = None,
        dense: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor, None, None]:
        if target_NMP is not None or blanked_NV is not None or dense:
            raise ValueError(
                "a recorded pass takes images and masks alone, neither a target nor blanked patches, and is not dense"
            )
        # Copies, since the next step writes over what a graph gives; and to autograd, whatever it gives has a gradient.
        outputs = [x.clone() for x in self._replay(images_NCHW, visible_NV, masked_NM)]
        if len(outputs) == 2:
            return outputs[0], None, None, None, outputs[1].detach(), None, None
        reconstruction, total, count, predicted_NM, true_NM = outputs
        return reconstruction, total, count.detach(), predicted_NM.detach(), true_NM.detach(), None, None


class _Outputs(nn.Module):
    """The tensors that a pass gives, without the places where a student without loss predictor has none."""

    def __init__(self, student_pass: nn.Module) -> None:
        super().__init__()
        self.student_pass = student_pass

    def forward(self, images_NCHW: Tensor, visible_NV: Tensor, masked_NM: Tensor) -> tuple[Tensor, ...]:
        outputs = self.student_pass(images_NCHW, visible_NV, masked_NM, None)
        return tuple(x for x in outputs if x is not None)


class GraphedScores:
    """A function of images that needs no gradient, recorded when this is made.

    Images of another shape than the sample, and those of evaluations, which compute without TF32, are given to the
    function itself.

    Args:
        score: images [N, C, H, W] to scores [N, L].
        sample: images of a training step.
    """

    @torch.no_grad()
    def __init__(self, score: Callable[[Tensor], Tensor], sample_NCHW: Tensor) -> None:
        self.score = score
        self._images_NCHW = sample_NCHW.clone()
        self._precision = torch.get_float32_matmul_precision()
        self._pool = _pool(sample_NCHW.device)
        self._graph, self._scores_NL = record(lambda: score(self._images_NCHW), self._pool.handle)

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor) -> Tensor:
        same = torch.get_float32_matmul_precision() == self._precision
        if not same or images_NCHW.shape != self._images_NCHW.shape:
            return self.score(images_NCHW)
        self._images_NCHW.copy_(images_NCHW)
        self._graph.replay()
        return self._scores_NL.clone()  # the next step writes over it
