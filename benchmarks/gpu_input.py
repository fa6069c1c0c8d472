"""The sections of `benchmarks/gpu.py` that read images and train: the loader, and whole runs through the command."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from gpu_checks import same_bits
from gpu_speed import Result
from machine import seconds_of, synchronize
from PIL import Image

from hpm.data import ImageFolder, Loader, RandomResizedCrop
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

_NEEDED = ("gin", "typeguard", "typer", "rich")
_FEW_IMAGES = ("DigitScenes.train_size = 640", "DigitScenes.test_size = 128", "Monitoring.evaluations = []")


def data(device: torch.device, tiny: bool) -> Iterator[Result]:
    """JPEGs a second: workers that decode with Pillow, workers that leave decoding to the GPU, and nvJPEG alone."""
    result: Result = {"images_per_second": {}, "failed": []}
    files = _jpegs()
    result["kilobytes"] = sum(map(len, files)) / len(files) / 1e3
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "train" / "c").mkdir(parents=True)
        (Path(folder) / "val" / "c").mkdir(parents=True)
        (Path(folder) / "val" / "c" / "0.jpg").write_bytes(files[0])
        for number in range(64 if tiny else 4096):
            (Path(folder) / "train" / "c" / f"{number:05}.jpg").write_bytes(files[number % len(files)])
        for workers in (1,) if tiny else (8, 15):
            for on_gpu in (False, True) if device.type == "cuda" else (False,):
                name = f"{workers} workers, {'decoded on the GPU' if on_gpu else 'decoded by Pillow'}"
                try:
                    result["images_per_second"][name] = _read(folder, device, workers, on_gpu, tiny)
                except Exception as error:
                    result["failed"].append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
                yield result
    if device.type == "cuda":
        from torchvision.io import ImageReadMode, decode_jpeg

        raw = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files] * 4
        seconds = seconds_of(lambda: decode_jpeg(raw, mode=ImageReadMode.RGB, device=device), str(device), repeats=5)
        result["images_per_second"]["nvJPEG alone"] = len(raw) / seconds
        yield result


def _jpegs() -> list[bytes]:
    """64 JPEGs of 500 x 375 pixels that compress as photographs do, about 110 kB each."""
    random, files = np.random.default_rng(0), []
    for _ in range(64):
        coarse = random.integers(0, 256, (8, 10, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = np.clip(smooth + random.normal(0, 9, (375, 500, 1)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def _read(folder: str, device: torch.device, workers: int, on_gpu: bool, tiny: bool) -> float:
    """Images a second of a whole epoch, the start of the workers left out."""
    loader = Loader(
        source=ImageFolder(root=folder),
        batch_size=16 if tiny else 128,
        patch_size=16,
        crop=RandomResizedCrop(),
        seed=0,
        num_workers=workers,
        device=device,
        gpu_decode=on_gpu,
    )
    images, started = 0, 0.0
    for number, batches in enumerate(loader.epoch(0)):
        if number == 0:
            synchronize(str(device))
            started = time.perf_counter()
        else:
            images += sum(len(batch) for batch in batches)
    synchronize(str(device))
    return images / (time.perf_counter() - started)


def train(device: torch.device, tiny: bool) -> Iterator[Result]:
    """A deterministic, compiled run through the command, stopped by SIGTERM and resumed, equals one never stopped."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        yield {"skipped": f"the command needs {', '.join(missing)}"}
        return
    result: Result = {"failed": []}
    with tempfile.TemporaryDirectory() as folder:
        bindings = [
            f"Runtime.device = '{device}'",
            *("Runtime.deterministic = True", "MLflowTracker.enabled = False"),
            *("Checkpointing.every = 4", "Monitoring.log_every = 2", "Monitoring.probe_every = 0"),
            *("Schedule.epochs = 2", "DigitScenes.train_size = 4000", "Monitoring.evaluations = [@Ridge()]"),
            f"Runtime.compile = {False if tiny else 'blocks'!r}",
        ]
        if tiny:
            bindings += _FEW_IMAGES
        yield result
        whole = _start(Path(folder, "whole"), bindings)
        stopped = _stop_at(Path(folder, "stopped"), _start(Path(folder, "stopped"), bindings), rows=3)
        again = _start(Path(folder, "stopped"), bindings)
        for name, process, expected in (("whole", whole, 0), ("stopped", stopped, 75), ("resumed", again, 0)):
            if process.wait() != expected:
                told = _last_line(Path(folder, "whole" if name == "whole" else "stopped"))
                result["failed"].append(f"the {name} run ended with {process.returncode}: {told}")
        if not result["failed"]:
            result["metrics"] = json.loads(Path(folder, "whole", "summary.json").read_text())["metrics"]
            result["failed"] += _differences(Path(folder, "whole"), Path(folder, "stopped"))
        yield result


def _differences(first: Path, second: Path) -> list[str]:
    """In what the last checkpoints of two runs differ."""
    a, b = (Checkpoint(list_checkpoints(folder / "checkpoints")[0]) for folder in (first, second))
    odd = [name for name in a.names() if not same_bits(a.tensor(name), b.tensor(name))]
    return [f"the resumed run differs in {len(odd)} tensors, {odd[0]}"] if odd else []


def accuracy(device: torch.device, tiny: bool) -> Iterator[Result]:
    """What the levers do to what is learned: HPM at quickstart scale in bf16 under each, the same seeds."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        yield {"skipped": f"the command needs {', '.join(missing)}"}
        return
    variants = {
        "fp32": ["Runtime.precision = 'fp32'"],
        "bf16": [],
        "bf16 residual": ["Runtime.residual_precision = 'bf16'"],
        "bf16 teacher": ["Runtime.teacher_precision = 'bf16'"],
    }
    result: Result = {"runs": [], "failed": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for seed in range(1 if tiny else 2):
            for name, more in variants.items():
                bindings = [
                    f"Runtime.device = '{device}'",
                    *("Runtime.precision = 'bf16'", "MLflowTracker.enabled = False", f"Trainer.seed = {seed}"),
                    "Monitoring.probe_every = 0",
                    *more,
                ]
                small = [*_FEW_IMAGES, "Schedule.epochs = 1", "Schedule.warmup_epochs = 0"]
                bindings += small if tiny else ["LowShot.baselines = False"]
                path = Path(folder, f"{name.replace(' ', '_')}-{seed}")
                runs[name, seed] = path, _start(path, bindings)
        for (name, seed), (path, process) in runs.items():
            if process.wait():
                result["failed"].append(f"{name}, seed {seed}: {_last_line(path)}")
                continue
            metrics = json.loads((path / "summary.json").read_text())["metrics"]
            rows = (path / "metrics.jsonl").read_text().splitlines()
            losses = [row["loss"] for row in map(json.loads, rows) if row["kind"] == "train"]
            result["runs"].append({"variant": name, "seed": seed, "last_loss": losses[-1], "metrics": metrics})
            yield result


def _start(folder: Path, bindings: list[str]) -> subprocess.Popen[bytes]:
    """Start a run in a folder, or go on with it; what it prints goes into a file beside the folder."""
    root = Path(__file__).parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    words = ["quickstart", "curricula/hpm_easy_to_hard", "--resume", "--output", str(folder)]
    words += [word for binding in bindings for word in ("-b", binding)]
    with _log(folder).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "hpm", "pretrain", *words],
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _log(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.txt")


def _stop_at(folder: Path, process: subprocess.Popen[bytes], *, rows: int) -> subprocess.Popen[bytes]:
    """Send a run SIGTERM once its metrics have so many rows, and wait until it has ended."""
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") >= rows):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return process


def _last_line(folder: Path) -> str:
    """What a run printed last."""
    return (_log(folder).read_text(errors="replace").strip().splitlines() or [""])[-1][:150]
