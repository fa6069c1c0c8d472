"""A user's own module: a curriculum that records the masks of every image trained on, and can end the process."""

import os
import signal
from pathlib import Path
from typing import Any

import gin
import torch

from curriculum import Batch, Curriculum, Mask, Noise, Teacher


@gin.register
class RecordingCurriculum(Curriculum):
    """Appends `step row sample crop mask;` for each image to the file RECORD, and dies without a word at step KILL_AT.

    Under torchrun only the last process dies, and only at its first start. SIGNAL_AT, a step and a signal's number,
    sends itself that signal.
    """

    def draw(self, batch: Batch, teacher: Teacher | None, progress: float, noise: Noise) -> Mask:
        last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
        first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if str(noise.step) == os.environ.get("KILL_AT") and last and first:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("SIGNAL_AT", "").split(" ")[0] == str(noise.step):
            number = int(os.environ["SIGNAL_AT"].split(" ")[1])
            if "SIGNAL_GROUP" in os.environ:  # the loader's workers get it too
                os.killpg(os.getpgrp(), number)
            else:
                os.kill(os.getpid(), number)
        return super().draw(batch, teacher, progress, noise)

    def remember(self, batch: Batch, mask: Mask, *, noise: Noise, **losses: Any) -> None:
        super().remember(batch, mask, noise=noise, **losses)
        assert batch.indices is not None
        assert batch.boxes is not None
        assert batch.flips is not None
        masks = (mask.masked * torch.arange(1, mask.num_masked + 1)).sum(dim=1).tolist()
        crops = [
            f"{box}{flip}".replace(" ", "")
            for box, flip in zip(batch.boxes.tolist(), batch.flips.tolist(), strict=True)
        ]
        rows = zip(noise.rows_N.tolist(), batch.indices.tolist(), crops, masks, strict=True)
        with Path(os.environ["RECORD"]).open("a") as file:
            file.write("".join(f"\n{noise.step} {row} {sample} {crop} {drawn};" for row, sample, crop, drawn in rows))
