"""A user's own module: a sampler that records every mask it draws, and can end the process at a step."""

import os
import signal
from pathlib import Path

import gin
import torch

from curriculum import HardestFirst, Mask, Noise


@gin.register
class RecordingSampler(HardestFirst):
    """HPM's split; appends `step checksum` to the file RECORD_MASKS, and dies without a word at step KILL_AT."""

    def __call__(
        self, scores_NL: torch.Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Mask:
        if str(noise.step) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        mask = super().__call__(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise)
        weights = torch.arange(1, mask.masked.numel() + 1).reshape(mask.masked.shape)
        with Path(os.environ["RECORD_MASKS"]).open("a") as file:
            file.write(f"{noise.step} {int((mask.masked * weights).sum())}\n")
        return mask
