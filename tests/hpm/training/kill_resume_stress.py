"""Trains, killing the process at random moments: at steps, and between the operations that write checkpoints.

    python kill_resume_stress.py CONFIG OUTPUT KILLS SEED

Forks, so that what takes seconds, importing, happens once. Prints how many kills fell on steps and on writing.
"""

import os
import random
import signal
import sys
from pathlib import Path

import hpm.training.trainer  # noqa: F401 - imported here, once, for all that are forked
from hpm.cli import main
from hpm.runs.checkpoint import list_checkpoints, step_of

_WRITING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"}


def train(arguments: list[str], *, kill_at_write: int | None, kill_at_step: int | None) -> int:
    """Run `hpm` in a child; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    writes = 0

    def notice(event: str, values: tuple[object, ...]) -> None:
        nonlocal writes
        if event in _WRITING and "checkpoint" in str(values[0]):
            writes += 1
            if writes == kill_at_write:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(notice)
    if kill_at_step is not None:
        os.environ["KILL_AT"] = str(kill_at_step)
    sys.argv = ["hpm", *arguments]
    try:
        main()
    except SystemExit as stopped:
        sys.stdout.flush()
        os._exit(int(stopped.code or 0))
    os._exit(1)


def kill_and_resume(config: str, output: str, kills: int, seed: int) -> None:
    """Kill a run `kills` times, then let it end."""
    draw = random.Random(seed)
    arguments = ["pretrain", config, "--resume", "--output", output]
    for number in range(kills):
        newest = list_checkpoints(Path(output, "checkpoints"))
        step = step_of(newest[0]) if newest else 0
        at_write = draw.randrange(1, 60) if number % 2 else None
        at_step = None if number % 2 else step + draw.randrange(0, 10)
        status = train(arguments, kill_at_write=at_write, kill_at_step=at_step)
        if status != signal.SIGKILL:
            raise SystemExit(f"kill {number} (write {at_write}, step {at_step}) did not happen: status {status}")
        print(f"killed at {'write ' + str(at_write) if at_write else 'step ' + str(at_step)}", flush=True)
    raise SystemExit(os.waitstatus_to_exitcode(train(arguments, kill_at_write=None, kill_at_step=None)))


if __name__ == "__main__":
    kill_and_resume(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
