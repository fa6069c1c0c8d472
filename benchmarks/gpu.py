"""Everything that only a GPU can tell, in one command: checks, speed, and what bounds it. Prints a table, writes JSON.

    python benchmarks/gpu.py --out gpu.json                          nine minutes at most on one H100
    python benchmarks/gpu.py --out gpu.json --only vit_base parts    these sections anew; what else is in the file stays
    python benchmarks/gpu.py --out x.json --device cpu --tiny        every section, on a CPU, as small as it can be

Each section is a process of its own with a limit, and writes what it has found so far: an illegal access, a hang or
the end of the time costs one section, and not what it had measured. The checks run side by side, whatever is timed
runs alone, until the time is up. It needs torch, timm, torchvision, numpy, safetensors and pillow; where gin,
typeguard, typer and rich are there as well, it trains through the command too. No network. Exit code 1 where a section
failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # the project, whether it is installed or not

Result = dict[str, Any]


class Section(NamedTuple):
    """A part of the benchmark: its module, its function, and the seconds that it may take."""

    module: str
    function: str
    limit: int


# In this order, the most important first; those of CHECKS side by side, for nothing in them is timed.
SECTIONS = {
    "machine": Section("gpu_speed", "machine", 60),
    "attention": Section("gpu_speed", "attention", 60),
    "parity": Section("gpu_checks", "parity", 110),
    "sync": Section("gpu_checks", "no_sync", 110),
    "fp16": Section("gpu_checks", "fp16", 110),
    "resume": Section("gpu_checks", "resume", 110),
    "recompiles": Section("gpu_checks", "recompiles", 110),
    "train": Section("gpu_input", "train", 110),
    "accuracy": Section("gpu_input", "accuracy", 110),
    "warm": Section("gpu_races", "warm", 110),
    "vit_base": Section("gpu_races", "vit_base", 170),
    "published": Section("gpu_published", "published", 120),
    "parts": Section("gpu_speed", "parts", 60),
    "teacher": Section("gpu_speed", "teacher", 60),
    "vit_large": Section("gpu_races", "vit_large", 120),
    "data": Section("gpu_input", "data", 60),
    "vit_base_small": Section("gpu_races", "vit_base_small", 75),
    "vit_base_eager": Section("gpu_races", "vit_base_eager", 60),
    "compilation": Section("gpu_races", "compilation", 200),
}
CHECKS = ("parity", "sync", "fp16", "resume", "recompiles", "train", "accuracy", "warm")
_CHECKS_ON_A_CPU = 2  # side by side, one thread each
PASSED = ("ok", "skipped", "no time left")


class Run:
    """The command: its options, its results so far, and its clock."""

    def __init__(self, options: argparse.Namespace) -> None:
        from hpm.runtime.version import source_version

        self.options = options
        self.started = time.monotonic()
        self.out = Path(options.out)
        self.sections: dict[str, Result] = _kept(options) if self.out.exists() else {}
        self.statuses: dict[str, str] = {}
        self.running: set[subprocess.Popen[bytes]] = set()
        self.commit = options.commit or source_version()

    def everything(self) -> bool:
        """Run the sections, print a line for each; False where one failed."""
        chosen = [name for name in SECTIONS if not self.options.only or name in self.options.only]
        checks = [name for name in chosen if name in CHECKS]
        for name in chosen:
            if name not in CHECKS:
                self._finish(*self._start(name))
                continue
            beside = checks[: _CHECKS_ON_A_CPU if self.options.device == "cpu" else len(checks)]
            if name in beside[:1]:
                for started in [self._start(check) for check in beside]:
                    self._finish(*started)
                checks = checks[len(beside) :]
        return all(self.statuses[name] in PASSED for name in chosen)

    def _left(self) -> float:
        return 60 * self.options.minutes - (time.monotonic() - self.started)

    def _start(self, name: str) -> tuple[str, Path, subprocess.Popen[bytes] | None, float]:
        part, began = self.out.with_name(f"{self.out.name}.{name}"), time.monotonic()
        part.unlink(missing_ok=True)
        if self._left() < (1 if self.options.tiny else 12):
            return name, part, None, began
        words = ["--section", name, "--out", str(part), "--device", self.options.device]
        words += ["--tiny"] if self.options.tiny else []
        words += ["--published", self.options.published] if self.options.published else []
        # In a session of its own, so that what it has started can be ended with it.
        process = subprocess.Popen([sys.executable, __file__, *words], start_new_session=True)
        self.running.add(process)
        return name, part, process, began

    def _finish(self, name: str, part: Path, process: subprocess.Popen[bytes] | None, began: float) -> None:
        status = "no time left"
        if process is not None:
            limit = min(SECTIONS[name].limit - (time.monotonic() - began), self._left())
            try:
                code = process.wait(timeout=max(0.1, limit))
                status = "ok" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                status = "took too long"
            self._end(process)
        result: Result = json.loads(part.read_text()) if part.exists() else {}
        part.unlink(missing_ok=True)
        if status == "ok" and result.get("failed"):
            status = "failed"
        elif status == "ok" and "skipped" in result:
            status = "skipped"
        seconds = time.monotonic() - began
        self.statuses[name] = status
        if result or name not in self.sections:  # figures of an earlier run are not given up for none
            self.sections[name] = {"status": status, "seconds": round(seconds, 1), **result, "commit": self.commit}
        told = "; ".join(result.get("failed", [])) or result.get("skipped", "")
        print(f"{name:12s} {seconds:4.0f} s  {status}{': ' if told else ''}{told}", flush=True)
        whole = {"benchmark": "gpu", "device": self.options.device, "tiny": self.options.tiny}
        whole["sections"] = {name: self.sections[name] for name in SECTIONS if name in self.sections}
        _write(self.out, whole)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a section's process and whatever it has left running."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.running.discard(process)

    def end(self) -> None:
        """Kill whatever is still running, and remove what it had written beside the results."""
        for process in list(self.running):
            self._end(process)
        for name in SECTIONS:
            self.out.with_name(f"{self.out.name}.{name}").unlink(missing_ok=True)


def _kept(options: argparse.Namespace) -> dict[str, Result]:
    """The sections of an earlier run's file, of the same device."""
    try:
        found = json.loads(Path(options.out).read_text())
        kept, same = dict(found["sections"]), (found["device"], found["tiny"]) == (options.device, options.tiny)
    except (ValueError, KeyError, TypeError, OSError):
        _refuse(f"--out {options.out} is no file of this command's results; name another")
    if not same:
        _refuse(
            f"--out {options.out} holds results of {found['device']}{', --tiny' * found['tiny']}; name another file"
        )
    return kept


def _refuse(reason: str) -> NoReturn:
    """End with what was wrong with the command."""
    print(f"gpu.py: error: {reason}", file=sys.stderr)
    sys.exit(2)


def run_section(options: argparse.Namespace) -> None:
    """In a process of its own: run one section, and write what it has found whenever there is more."""
    import importlib

    import torch

    warnings.simplefilter("ignore")
    if options.device == "cpu":
        torch.set_num_threads(1)
    section = SECTIONS[options.section]
    function: Callable[..., Iterator[Result]] = getattr(importlib.import_module(section.module), section.function)
    more = (Path(options.published) if options.published else None,) if options.section == "published" else ()
    for result in function(torch.device(options.device), options.tiny, *more):
        _write(Path(options.out), result)


def _write(path: Path, value: Result) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)


def _check(options: argparse.Namespace) -> None:
    """Refuse what cannot be, in one sentence, before anything is started."""
    import torch

    if not Path(options.out).absolute().parent.is_dir():
        _refuse(f"--out {options.out}: there is no folder {Path(options.out).parent}; make it, or name another file")
    if not options.minutes > 0:
        _refuse(f"--minutes {options.minutes} must be positive")
    if options.published and not Path(options.published, "models_mae_learn_loss.py").is_file():
        _refuse(
            f"--published {options.published} has no models_mae_learn_loss.py; give a checkout of the HPM repository"
        )
    try:
        device = torch.device(options.device)
    except RuntimeError:
        _refuse(f"--device {options.device} is no device; choose cuda:0 or cpu")
    if device.type not in ("cuda", "cpu"):
        _refuse(f"--device {options.device} is not measured here; choose cuda:0 or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        _refuse(f"--device {options.device} is not there: torch finds {torch.cuda.device_count()} CUDA devices")


def main() -> None:
    """Run everything, or one section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="gpu.json", help="a file for the JSON, written after each section")
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu to check the command itself")
    parser.add_argument("--tiny", action="store_true", help="every size as small as it can be")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these sections; others stay as they are in --out")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything")
    parser.add_argument("--published", help="a checkout of the published HPM code, to be timed beside ours")
    parser.add_argument("--commit", help="of the code, where a copy of it does not know; default what git says")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        run_section(options)
        return
    _check(options)
    run = Run(options)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM; what was found so far is kept"))
    try:
        passed = run.everything()
    except KeyboardInterrupt:
        sys.exit("stopped; what was found so far is kept")
    finally:
        run.end()
    from gpu_page import table

    print("\n" + table(json.loads(run.out.read_text())))
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
