"""DistributedContext without the seconds that each takes to import torch: one that has imported everything forks them.

What is forked has a process id, memory and an end of its own, as what `python -m hpm` starts. With `processes` it is
what `torchrun --standalone` is, torch's elastic agent with its rendezvous, restarts and environment, whose workers are
forked too.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Forks:
    """Asks the process that forks; starts it when it is first needed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def run(
        self,
        program: str,
        *arguments: object,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        processes: int = 0,
        restarts: int = 0,
        start_new_session: bool = False,
        timeout: float = 1200,
    ) -> subprocess.CompletedProcess[str]:
        """Run a module, or a file whose name ends in .py, to its end, as `subprocess.run` would.

        Args:
            program: module or file.
            arguments: of the command line.
            env: the whole environment; by default this process's.
            cwd: the folder; by default this process's.
            processes: how many, under an elastic agent; 0 for a plain process.
            restarts: how often the agent starts them again.
            start_new_session: whether the process leads a session and group of its own.
            timeout: seconds after which it is killed.
        """
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )
        request = {
            "argv": [program, *map(str, arguments)],
            "env": dict(os.environ) if env is None else env,
            "cwd": str(cwd or Path.cwd()),
            "processes": processes,
            "restarts": restarts,
            "start_new_session": start_new_session,
            "timeout": timeout,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        assert not answer["late"], f"{program} was killed after {timeout} seconds: {answer['stdout']}{answer['stderr']}"
        return subprocess.CompletedProcess(request["argv"], answer["code"], answer["stdout"], answer["stderr"])

    def close(self) -> None:
        """Let the process that forks end."""
        if self._server is not None:
            # Its input has no end while a loader process that a test left behind, forked from here, holds it open.
            self._server.communicate("\n")


def serve() -> dict[str, Any] | None:
    """Fork for each request. Returns it in the child; in the parent None, when an empty line or the end follows."""
    while line := sys.stdin.readline().strip():
        request = json.loads(line)
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (to_out, 1), (to_err, 2)):
                os.dup2(source, target)
            for descriptor in (nothing, out, to_out, err, to_err):
                os.close(descriptor)
            return request
        os.close(to_out)
        os.close(to_err)
        texts, late = _read(child, (out, err), request["timeout"])
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answer = {"code": code, "late": late, "stdout": texts[0], "stderr": texts[1]}
        print(json.dumps(answer), flush=True)
    return None


def _read(child: int, pipes: tuple[int, int], timeout: float) -> tuple[list[str], bool]:
    """What comes out of two pipes until both are closed, and whether the child had to be killed for that."""
    last, late = time.monotonic() + timeout, False
    found: dict[int, bytes] = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(1):
                part = os.read(key.fd, 1 << 16)
                found[key.fd] += part
                if not part:
                    selector.unregister(key.fd)
                    os.close(key.fd)
            if time.monotonic() > last:
                late = True
                os.kill(child, signal.SIGKILL)
                break
    return [found[pipe].decode() for pipe in pipes], late


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    if request["start_new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:1] = [request["cwd"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if not request["processes"]:
        run(request["argv"])
        return
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=request["processes"],
        max_restarts=request["restarts"],
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=str(uuid.uuid4()),
        start_method="fork",
    )
    try:
        elastic_launch(config, work)(request["argv"])
    except ChildFailedError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def work(argv: list[str]) -> None:
    """One process under the agent, which takes a function's return for success."""
    try:
        run(argv)
    except SystemExit as stopped:
        if stopped.code:
            raise
    finally:
        # The program is over. Killed while it waits for the others, this process would leave torch's lock behind, and
        # the agent waiting for ever; a program that `torchrun` starts shares no lock with it.
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.cancel()


def run(argv: list[str]) -> None:
    """What `python -m` or `python` would."""
    program, *arguments = argv
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    import torch

    import hpm.config

    hpm.config.configurables()  # imports everything
    import hpm.inference.evaluate
    import hpm.training.loop

    torch.set_num_threads(1)
    wanted = serve()
    if wanted is not None:
        become(wanted)
