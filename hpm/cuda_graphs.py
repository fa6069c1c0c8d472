"""Passes recorded once as CUDA graphs and replayed in every step, so that the host launches one graph for hundreds of
kernels.

A host that is slow, a model that is small or a batch that is small leaves a GPU waiting for launches; a graph does
not. It replays the same kernels on the same memory, so results are those of the passes it recorded, to the bit. What
is recorded keeps its memory, which all graphs of a process share: their steps take turns.

Shape suffixes: N images, L patches, V visible, M masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_WARM_UP = 3  # passes before recording, which compile, choose kernels and fill caches
_pools: dict[torch.device, Any] = {}


def _pool(device: torch.device) -> Any:
    """The memory that all graphs of a device share."""
    if device not in _pools:
        _pools[device] = torch.cuda.graph_pool_handle()
    return _pools[device]


class GraphedStudent:
    """The student's pass and its backward pass, recorded at the first batch; every batch must be of its shape.

    Takes what `StudentPass` takes, of which neither a target nor blanked patches may be given.

    Args:
        student_pass: a `StudentPass`; its blocks may be compiled.
    """

    def __init__(self, student_pass: nn.Module) -> None:
        self.student_pass = student_pass
        self._replay: Callable[..., tuple[Tensor, ...]] | None = None

    def __call__(
        self,
        images_NCHW: Tensor,
        visible_NV: Tensor,
        masked_NM: Tensor,
        target_NMP: Tensor | None = None,
        blanked_NV: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
        if target_NMP is not None or blanked_NV is not None:
            raise ValueError("a recorded pass takes images and masks alone, neither a target nor blanked patches")
        inputs = (images_NCHW, visible_NV, masked_NM)
        replay = self._replay or self._record(inputs)
        # Copies, since the next step writes over what a graph gives; and to autograd, whatever it gives has a gradient.
        outputs = [x.clone() for x in replay(*inputs)]
        if len(outputs) == 2:
            return outputs[0], None, None, None, outputs[1].detach()
        reconstruction, total, count, predicted_NM, true_NM = outputs
        return reconstruction, total, count.detach(), predicted_NM.detach(), true_NM.detach()

    def _record(self, inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, ...]]:
        recorded: Any = torch.cuda.make_graphed_callables(
            _Outputs(self.student_pass),
            tuple(x.clone() for x in inputs),
            num_warmup_iters=_WARM_UP,
            allow_unused_input=True,
            pool=_pool(inputs[0].device),
        )
        self._replay = recorded
        return recorded


class _Outputs(nn.Module):
    """The tensors that a pass gives, without the places where a student without loss predictor has none."""

    def __init__(self, student_pass: nn.Module) -> None:
        super().__init__()
        self.student_pass = student_pass

    def forward(self, images_NCHW: Tensor, visible_NV: Tensor, masked_NM: Tensor) -> tuple[Tensor, ...]:
        outputs = self.student_pass(images_NCHW, visible_NV, masked_NM, None)
        return tuple(x for x in outputs if x is not None)


class GraphedScores:
    """A function of images that needs no gradient, recorded for images of one shape; others are computed as before.

    Args:
        score: images [N, C, H, W] to scores [N, L].
        shape: of the images of a training step; evaluations may come first, with others.
    """

    def __init__(self, score: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        self.score, self.shape = score, shape
        self._replay: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, images_NCHW: Tensor) -> Tensor:
        if images_NCHW.shape != self.shape:
            return self.score(images_NCHW)
        if self._replay is None:
            self._replay = self._record(images_NCHW)
        return self._replay(images_NCHW)

    def _record(self, images_NCHW: Tensor) -> Callable[[Tensor], Tensor]:
        read_NCHW, stream = images_NCHW.clone(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                self.score(read_NCHW)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pool(images_NCHW.device)):
            scores_NL = self.score(read_NCHW)

        def replay(images_NCHW: Tensor) -> Tensor:
            read_NCHW.copy_(images_NCHW)
            graph.replay()
            return scores_NL.clone()  # the next step writes over it

        return replay
