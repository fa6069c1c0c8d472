"""A user's own module: a schedule in the middle of which the disk is full, as far as this process can tell."""

import os
import resource

import gin

from curriculum import Ramp
from curriculum.schedulers import Feedback


@gin.register
class FullDisk(Ramp):
    """A ramp; from progress 0.3 until FULL_UNTIL no file may grow beyond 2 KB."""

    running = False

    def __call__(self, progress: float) -> float:
        if self.running:  # not while it is merely tried out
            full = 0.3 < progress < float(os.environ["FULL_UNTIL"])
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (2000 if full else resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
        return super().__call__(progress)

    def observe(self, feedback: Feedback) -> None:
        self.running = True
