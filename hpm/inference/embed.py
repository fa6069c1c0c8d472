"""`hpm embed`: features of a folder's images, in a Parquet file, at constant memory.

Shape suffixes: K readable images of a batch, D width.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from torch import Tensor

from hpm.data import describe_left_out, labeled_files
from hpm.errors import UserError
from hpm.evaluation.features import POOLS, pooled, require_finite_features
from hpm.inference.images import Read, read
from hpm.inference.loading import LoadedModel, load_model
from hpm.runtime.files import check_file, printable, replacing, require_new
from hpm.runtime.progress import progress_to, tracked

_AHEAD = 3  # batches that are read while one is computed
_MOST_AT_ONCE = 16_384  # images of a batch
_ROWS = 4096  # of a row group: few enough for memory, enough for readers


class Embedded(NamedTuple):
    """What was computed.

    Args:
        images: how many have features.
        problems: a line about each image that could not be read.
        left_out: files that are no images, by their kind; see `image_files`.
    """

    images: int
    problems: list[str]
    left_out: Counter[str]


def embed(
    path: Path,
    folder: Path,
    out: Path,
    console: Console,
    *,
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    pool: str = "mean",
    weights: str = "student",
    batch_size: int = 64,
) -> Embedded:
    """Write the features of a folder's images, in the order of their paths.

    Columns: `path`, below the folder; `label`, the first folder below it that the image lies in, null for images in
    none; `embedding`, float32 [D]. Images are seen through the run's evaluation crop.

    Args:
        path: what names a trained model, as `find_model` takes it.
        folder: of image files, in subfolders or not.
        out: the Parquet file to write; must not be there.
        console: where a person reads.
        configs: over what published weights tell.
        bindings: gin bindings over the configuration.
        pool: "mean" of the patches' tokens or the class "token", after the encoder's norm.
        weights: "student" or "teacher".
        batch_size: images at a time.

    Raises:
        UserError: for unknown options, a file that is there already, no model, or no readable image.
        TrainingError: for features that are not finite.
    """
    _check(folder, out, pool, batch_size)
    with console.status("loading the model ..."):
        loaded = load_model(path, configs, bindings, weights=weights)
    loaded.config.check_bindings()
    encoder = loaded.method.student.encoder
    if pool == "token" and not encoder.num_prefix_tokens:
        raise UserError(f"--pool token: {type(encoder).__name__} has no class token; choose --pool mean")
    for line in loaded.lines:
        console.print(line)
    try:
        with replacing(out) as unfinished:
            done = _write(loaded, folder, unfinished, console, pool=pool, weights=weights, batch_size=batch_size)
            if not done.images:
                raise UserError(f"{folder} holds no {'readable image' if done.problems else 'images'}")
            require_new("--out", out, unfinished)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error}; choose another --out") from error
    skipped = f", {len(done.problems)} unreadable ones left out" if done.problems else ""
    console.print(f"features of {done.images} images{skipped}: {out}")
    if done.left_out:
        console.print(f"{folder}: {describe_left_out(done.left_out)}")
    return done


def _check(folder: Path, out: Path, pool: str, batch_size: int) -> None:
    if pool not in POOLS:
        raise UserError(f"--pool {pool} is unknown; choose {' or '.join(POOLS)}")
    if not 1 <= batch_size <= _MOST_AT_ONCE:
        raise UserError(f"--batch-size {batch_size} must be 1 to {_MOST_AT_ONCE:,}; a whole batch is in memory")
    if out.suffix not in ("", ".parquet"):
        raise UserError(f"--out {out} is not the name of a Parquet file; let it end in .parquet")
    check_file("--out", out)
    if out.exists():
        raise UserError(f"--out {out} is there already; give a new name, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"--out {out} cannot be written: there is no folder {out.parent}")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds images")


def _write(
    loaded: LoadedModel, folder: Path, file: Path, console: Console, *, pool: str, weights: str, batch_size: int
) -> Embedded:
    context = loaded.context(weights)
    encoder, source = context.model.encoder, context.source
    schema = _schema(loaded, encoder.num_features, pool, weights)
    images = 0
    problems, left_out = [], Counter[str]()
    rows = _Rows(schema)
    batches = _ahead(_batches((path for path, _ in labeled_files(folder, left_out)), batch_size), partial(read, source))
    total = sum(1 for _ in labeled_files(folder, Counter()))
    with (
        pq.ParquetWriter(file, schema) as writer,
        progress_to(console),
        tracked("features of", total) as work,
        torch.no_grad(),
    ):
        for files, (images_KCSS, places, unreadable) in batches:
            for line in unreadable:
                console.print(f"skipped, unreadable: {line}", style="yellow")
            problems += unreadable
            if places:
                features_KD = pooled(encoder, images_KCSS.to(context.device), pool).float().cpu()
                require_finite_features(features_KD)
                rows.add([files[place].relative_to(folder) for place in places], features_KD)
            images += len(places)
            work.advance(len(files))
            if len(rows) >= _ROWS:
                writer.write_table(rows.take())
        if len(rows):
            writer.write_table(rows.take())
    return Embedded(images, problems, left_out)


def _schema(loaded: LoadedModel, width: int, pool: str, weights: str) -> pa.Schema:
    notes = {
        "model": str(loaded.path),
        "step": loaded.step,
        "weights": weights,
        "pool": pool,
        "img_size": loaded.source.img_size,
    }
    columns: list[Any] = [
        pa.field("path", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("embedding", pa.list_(pa.float32(), width), nullable=False),
    ]
    return pa.schema(columns, metadata={"curriculum-masking": json.dumps(notes)})


class _Rows:
    """Rows of the next row group."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.paths: list[Path] = []
        self.features: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, paths: Sequence[Path], features_KD: Tensor) -> None:
        self.paths += paths
        self.features.append(features_KD)

    def take(self) -> pa.Table:
        """All rows, which are then forgotten."""
        values = pa.array(torch.cat(self.features).flatten().numpy())
        labels = [printable(path.parts[0]) if len(path.parts) > 1 else None for path in self.paths]
        embedding = pa.FixedSizeListArray.from_arrays(values, self.schema.field("embedding").type.list_size)
        paths = [printable(path.as_posix()) for path in self.paths]
        table = pa.Table.from_arrays(
            [pa.array(paths, pa.string()), pa.array(labels, pa.string()), embedding], schema=self.schema
        )
        self.paths = []
        self.features = []
        return table


def _batches(files: Iterator[Path], size: int) -> Iterator[list[Path]]:
    while batch := list(itertools.islice(files, size)):
        yield batch


def _ahead(batches: Iterator[list[Path]], load: Callable[[list[Path]], Read]) -> Iterator[tuple[list[Path], Read]]:
    """Load batches in threads, in their order, a few ahead."""
    waiting: deque[tuple[list[Path], Future[Read]]] = deque()
    with ThreadPoolExecutor(_AHEAD) as pool:
        for files in batches:
            waiting.append((files, pool.submit(load, files)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
