"""Every purpose of randomness has a stream of its own, and no two draw the same numbers."""

from __future__ import annotations

import ast
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from curriculum import (
    ADIOS,
    Batch,
    Blockwise,
    Cached,
    Cells,
    Constant,
    Curriculum,
    DifficultyEstimator,
    FilteredNoise,
    HardestFirst,
    Hint,
    InverseBlock,
    LossSpread,
    Mixture,
    MultiBlock,
    Noise,
    Parts,
    Pool,
    PredictedLoss,
    Quotas,
    Residual,
    SampledAttention,
    Sampler,
    Stratified,
    Stream,
    Switched,
    TrainingContext,
    TrueLoss,
    Weighted,
)
from curriculum.noise import hash_words
from curriculum.testing import TinyTeacher, tiny_batch

ROOT = Path(__file__).parents[2]
SOURCES = [path for package in ("curriculum", "hpm", "studies") for path in sorted((ROOT / package).rglob("*.py"))]
DIFFICULTIES = [
    TrueLoss(),
    LossSpread(),
    Parts(parts=3),
    Mixture(estimators=[TrueLoss(), Mixture(estimators=[PredictedLoss(), TrueLoss(probes=3)])]),
    Switched(estimators=[PredictedLoss(), TrueLoss()], scheduler=Constant(value=1.0)),
    Cached(estimator=TrueLoss(), every=1),
    ADIOS(width=32),
    SampledAttention(),
    Residual(estimator=TrueLoss()),
]
SAMPLERS = [
    HardestFirst(),
    Pool(),
    Weighted(),
    Hint(reveal=(0.3, 0.6), among=0.3),
    Cells(size=2),
    Cells(size=2, sampler=Cells(size=2, sampler=Stratified())),
    Stratified(),
    Blockwise(min_patches=4, attempts=6),
    MultiBlock(),
    InverseBlock(),
    FilteredNoise(),
    FilteredNoise(bank=5),
    Quotas(parts=3),
]


# Values.


def test_all_values_are_distinct() -> None:
    values = [stream.value for stream in Stream.__members__.values()]
    assert len(set(values)) == len(values)
    assert all(name == stream.name for name, stream in Stream.__members__.items()), "a name is an alias of another"


def test_streams_that_define_data_keep_their_hashes() -> None:
    """The seeds from which the scenes of DigitScenes and Composites are rendered."""
    assert hash_words(0, Stream.DIGIT_SCENES_TRAIN) == 9414328390532763172
    assert hash_words(0, Stream.DIGIT_SCENES_TEST) == 12416261422349131856
    assert hash_words(0, Stream.COMPOSITES_TRAIN) == 2773310039523687767
    assert hash_words(0, Stream.COMPOSITES_VALIDATION) == 13682035284950319637
    assert hash_words(0, Stream.COMPOSITES_TEST) == 3962339062506082966


# The source.


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """The calls of a function or method of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called == name:
                yield node


def names_stream(argument: ast.expr) -> bool:
    """`Stream.NAME`, or a parameter that a caller gives one."""
    if isinstance(argument, ast.Attribute):
        return isinstance(argument.value, ast.Name) and argument.value.id == "Stream"
    return isinstance(argument, ast.Name) and argument.id == "stream"


def unnamed_draws(source: str) -> list[int]:
    """The lines where something is folded or hashed whose purpose has no name."""
    tree = ast.parse(source)
    folds = [call for call in calls(tree, "fold") if not call.args or not names_stream(call.args[0])]
    hashes = [call for call in calls(tree, "hash_words") if not any(map(names_stream, call.args))]
    return sorted(call.lineno for call in [*folds, *hashes])


def test_every_draw_names_its_stream() -> None:
    unnamed = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        if path != ROOT / "curriculum" / "noise.py"  # where the hash itself is defined
        for line in unnamed_draws(path.read_text())
    }
    assert not unnamed


@pytest.mark.parametrize(
    "line", ["noise.fold(1)", "noise.fold(place)", "noise.fold(_STREAM + 1)", "hash_words(seed, 3)", "hash_words(a, b)"]
)
def test_a_draw_without_a_stream_is_noticed(line: str) -> None:
    assert unnamed_draws(line) == [1]


def test_every_stream_has_one_purpose() -> None:
    """Each member is used, and in one module alone."""
    users = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Stream":
                users[node.attr].add(str(path.relative_to(ROOT)))
    assert set(users) == set(Stream.__members__) - {"CUSTOM"}
    assert {name: paths for name, paths in users.items() if len(paths) > 1} == {}


# What is drawn.


@dataclass(frozen=True)
class RecordingNoise(Noise):
    """Remembers the first bits of everything that is drawn from it and from what is folded from it."""

    drawn: list[tuple[int, ...]] = field(default_factory=list)

    def bits(self, columns: int) -> Tensor:
        bits_NK = super().bits(columns)
        self.drawn.append(tuple(bits_NK[:, 0].tolist()))
        return bits_NK


def draws_of(difficulty: DifficultyEstimator, sampler: Sampler) -> tuple[set[tuple[int, ...]], set[tuple[int, ...]]]:
    """The first draws of a difficulty and of a sampler, which are given a batch's noise as a curriculum gives it."""
    batch, teacher = tiny_batch(num_images=3, grid=(8, 8)), TinyTeacher()
    if difficulty.stateful:
        difficulty.prepare(
            TrainingContext(
                num_images=200,
                steps_per_epoch=1,
                in_chans=3,
                patch_size=4,
                grid=(8, 8),
                device=torch.device("cpu"),
                seed=0,
            )
        )
    noise = RecordingNoise(3, 5, torch.arange(3))
    own = noise.fold(Stream.DIFFICULTY)
    scores_NL = difficulty.at(0.5)(batch, teacher, num_masked=48, noise=own)
    scored = set(noise.drawn)
    noise.drawn.clear()
    scores_NL = scores_NL.masked_fill(torch.arange(64) % 7 == 0, float("nan"))
    sampler(scores_NL, alpha=0.5, num_masked=48, grid=(8, 8), noise=noise)
    return scored, set(noise.drawn)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_difficulty_and_a_sampler_share_no_draw(sampler: Sampler) -> None:
    for difficulty in DIFFICULTIES:
        scored, sampled = draws_of(difficulty, sampler)
        assert scored, f"{type(difficulty).__name__} draws nothing"
        assert sampled
        assert not scored & sampled, f"{type(difficulty).__name__} draws what the sampler draws"


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_sampler_folds_for_each_further_draw(sampler: Sampler) -> None:
    """Nothing is drawn twice, but for the keys: cells within cells, say, draw from streams of their own."""
    noise = RecordingNoise(3, 5, torch.arange(3))
    scores_NL = Noise.for_batch(seed=1, step=0, batch_size=3).uniform(64)
    sampler(scores_NL, alpha=0.5, num_masked=48, grid=(8, 8), noise=noise)
    keys = tuple(noise.bits(1)[:, 0].tolist())
    further = [drawn for drawn in noise.drawn if drawn != keys]
    assert len(further) == len(set(further))


def test_all_streams_of_difficulties_and_samplers_differ() -> None:
    """As the curriculum gives them, and where an evaluation asks an estimator without a curriculum."""
    noise = Noise.for_batch(seed=0, step=0, batch_size=5)
    difficulties = [stream for stream in Stream if 1100 < stream < 1200]
    samplers = [stream for stream in Stream if 1200 < stream < 1300]
    assert len(difficulties) == 9
    assert len(samplers) == 15
    own = noise.fold(Stream.DIFFICULTY)
    asked = [own, *(whose.fold(stream) for stream in difficulties for whose in (own, noise))]
    drawn = [noise, *(noise.fold(stream) for stream in samplers)]
    for one, other in itertools.product(asked, drawn):
        assert not torch.equal(one.bits(4), other.bits(4))


class SixStrips(TinyTeacher):
    """A teacher to whom each row of 6 x 6 patches is a part."""

    def features(self, images_NCHW: Tensor) -> Tensor:
        return torch.eye(6).repeat_interleave(6, dim=0).expand(len(images_NCHW), 36, 6)


def test_the_first_part_to_be_masked_does_not_depend_on_where_parts_are_found() -> None:
    """Of six parts each is masked first in a sixth of the images, in whichever half of the image part 0 lies."""
    batch = Batch(torch.zeros(12_000, 1, 6, 6), 1)
    curriculum = Curriculum(
        scheduler=Constant(value=1.0), difficulty=Parts(parts=6), sampler=Quotas(parts=6), mask_ratio=1 / 6
    )
    noise = Noise.for_batch(seed=0, step=0, batch_size=len(batch))
    mask = curriculum.draw(batch, SixStrips(), 0.5, noise)
    assert curriculum.scores is not None
    part_NM = mask.gather_masked(curriculum.scores)
    assert bool((part_NM == part_NM[:, :1]).all()), "a whole part is masked"
    upper_N = (curriculum.scores[:, :18] == 0).any(dim=1)
    assert 5700 < int(upper_N.sum()) < 6300
    for half_N in (upper_N, ~upper_N):
        # 6000 images each: a standard deviation is 0.0048.
        assert float((part_NM[half_N, 0] == 0).float().mean()) == pytest.approx(1 / 6, abs=0.02)
