from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curriculum.noise import Noise, hash_words
from curriculum.streams import Stream

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
WORDS = st.integers(0, WORD)


class SplitMix64:
    """The generator as its authors publish it (splitmix64.c), in unbounded integers."""

    def __init__(self, state: int) -> None:
        self.state = state & WORD

    def __next__(self) -> int:
        self.state = (self.state + GOLDEN) & WORD
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        return z ^ (z >> 31)


def reference_hash(*words: int) -> int:
    state = 0
    for word in words:
        state = next(SplitMix64(state + next(SplitMix64(word))))
    return state


def reference_bits(seed: int, step: int, row: int, columns: int) -> list[int]:
    """Row `row` is the stream of a generator that output `row` of the key's own stream seeds; output 0 is its state."""
    key = reference_hash(seed, step)
    row_generator = SplitMix64(next(SplitMix64(key + (row - 1) * GOLDEN)))
    return [next(row_generator) for _ in range(columns)]


def unsigned(x: torch.Tensor) -> list[int]:
    return [value & WORD for value in x.tolist()]


def test_the_reference_generator_gives_the_published_numbers() -> None:
    generator = SplitMix64(1234567)
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert [next(generator) for _ in range(5)] == published


@settings(deadline=None, derandomize=True, max_examples=50)
@given(words=st.lists(WORDS, min_size=1, max_size=4))
def test_hash_words_is_splitmix64(words: list[int]) -> None:
    assert hash_words(*words) == reference_hash(*words)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(
    seed=WORDS,
    step=st.integers(0, 10**9),
    rows=st.lists(st.integers(0, 2**62), min_size=1, max_size=4),
    columns=st.integers(1, 9),
)
def test_bits_are_splitmix64(seed: int, step: int, rows: list[int], columns: int) -> None:
    bits_NK = Noise(seed, step, torch.tensor(rows)).bits(columns)
    assert bits_NK.dtype == torch.int64
    for row, bits_K in zip(rows, bits_NK, strict=True):
        assert unsigned(bits_K) == reference_bits(seed, step, row, columns)


def test_golden_numbers() -> None:
    """A run of today must be repeatable by every later version."""
    noise = Noise.for_batch(seed=0, step=0, batch_size=2)
    assert hash_words(0, 0) == 11149429884311503545
    assert noise.bits(3).tolist() == [
        [7386190744080818170, -4039222008122958881, -134897885263605604],
        [2963171517476313205, 6307936488522300775, -9021780396475614799],
    ]
    assert noise.uniform(3).tolist() == [
        [0.4004061818122864, 0.7810332775115967, 0.9926871657371521],
        [0.16063380241394043, 0.3419538736343384, 0.5109282732009888],
    ]
    assert noise.fold(Stream.DIGIT_SCENES_TRAIN).bits(1).tolist() == [[8757593133405128485], [5517517193848225870]]


def test_uniform_is_the_upper_24_bits() -> None:
    noise = Noise.for_batch(seed=3, step=1, batch_size=50)
    uniform_NK = noise.uniform(40)
    assert uniform_NK.dtype == torch.float32
    assert 0 <= float(uniform_NK.min()) < float(uniform_NK.max()) < 1
    expected = [(value >> 40) / 2**24 for value in unsigned(noise.bits(40).flatten())]
    assert uniform_NK.flatten().tolist() == expected


@pytest.mark.parametrize("axis", ["row", "column", "step", "seed"])
def test_values_are_uniform_along_every_axis(axis: str) -> None:
    count = 40_000
    if axis == "row":
        values = Noise.for_batch(seed=1, step=2, batch_size=count).uniform(1)
    elif axis == "column":
        values = Noise.for_batch(seed=1, step=2, batch_size=1).uniform(count)
    elif axis == "step":
        values = torch.cat([Noise.for_batch(seed=1, step=step, batch_size=1).uniform(8) for step in range(count // 8)])
    else:
        values = torch.cat([Noise.for_batch(seed=seed, step=2, batch_size=1).uniform(8) for seed in range(count // 8)])
    observed = torch.histc(values, bins=100, min=0, max=1)
    assert int(observed.sum()) == count
    assert stats.chisquare(observed.numpy()).pvalue > 1e-3


def test_every_bit_is_fair() -> None:
    bits_K = Noise.for_batch(seed=5, step=0, batch_size=200).bits(200).flatten()
    shares = torch.stack([((bits_K >> bit) & 1).double().mean() for bit in range(64)])
    # 40000 coins: a standard deviation is 0.0025.
    assert float((shares - 0.5).abs().max()) < 5 * 0.0025


@pytest.mark.parametrize("other", ["next row", "next column", "next step", "next seed", "fold"])
def test_neighbors_are_independent(other: str) -> None:
    """Chi-square of the joint distribution of each value and its neighbor's, in 10 x 10 cells."""
    noise = Noise.for_batch(seed=1, step=2, batch_size=200)
    neighbor = {
        "next row": Noise.for_batch(seed=1, step=2, batch_size=200, first=1).uniform(200),
        "next column": noise.uniform(201)[:, 1:],
        "next step": Noise.for_batch(seed=1, step=3, batch_size=200).uniform(200),
        "next seed": Noise.for_batch(seed=2, step=2, batch_size=200).uniform(200),
        "fold": noise.fold(Stream.CUSTOM).uniform(200),
    }[other]
    cell = (noise.uniform(200) * 10).long() * 10 + (neighbor * 10).long()
    assert stats.chisquare(torch.bincount(cell.flatten(), minlength=100).numpy()).pvalue > 1e-3


@settings(deadline=None, derandomize=True, max_examples=50)
@given(size=st.integers(1, 12), cut=st.integers(0, 12), first=st.integers(0, 10**6), columns=st.integers(1, 20))
def test_rows_do_not_depend_on_the_batch_they_stand_in(size: int, cut: int, first: int, columns: int) -> None:
    cut = min(cut, size)
    whole = Noise.for_batch(seed=4, step=9, batch_size=size, first=first)
    parts = [
        Noise.for_batch(seed=4, step=9, batch_size=cut, first=first),
        Noise.for_batch(seed=4, step=9, batch_size=size - cut, first=first + cut),
    ]
    assert torch.equal(torch.cat([part.bits(columns) for part in parts]), whole.bits(columns))
    folded = [part.fold(Stream.CUSTOM).bits(columns) for part in parts]
    assert torch.equal(torch.cat(folded), whole.fold(Stream.CUSTOM).bits(columns))


def test_columns_do_not_depend_on_how_many_are_drawn() -> None:
    noise = Noise.for_batch(seed=4, step=9, batch_size=3)
    assert torch.equal(noise.bits(50)[:, :7], noise.bits(7))


def test_drawing_has_no_state() -> None:
    rows_N = torch.tensor([5, 2, 5])
    noise = Noise(1, 1, rows_N)
    first = noise.bits(6)
    noise.uniform(6)
    assert torch.equal(noise.bits(6), first)
    assert rows_N.tolist() == [5, 2, 5]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])


def test_fold_gives_one_stream_for_each_purpose() -> None:
    noise = Noise.for_batch(seed=1, step=1, batch_size=2)
    one, other = Stream.HINT_REVEALED, Stream.DISJOINT_PROBES
    streams = [noise, *(noise.fold(stream) for stream in Stream)]
    streams += [noise.fold(one).fold(other), noise.fold(other).fold(one)]
    streams += [noise.fold(one, number) for number in range(20)]
    assert len({tuple(stream.bits(4).flatten().tolist()) for stream in streams}) == len(streams)
    assert torch.equal(noise.fold(one).bits(4), noise.fold(one).bits(4))
    assert torch.equal(noise.fold(one).rows_N, noise.rows_N)


def test_fold_refuses_a_bare_number() -> None:
    noise = Noise.for_batch(seed=1, step=1, batch_size=2)
    with pytest.raises(ValueError, match=r"takes a member of Stream, got 3; your own parts use Stream\.CUSTOM"):
        noise.fold(3)  # type: ignore[arg-type]


def test_int32_rows_give_the_same_noise() -> None:
    rows_N = torch.arange(5)
    assert torch.equal(Noise(1, 1, rows_N.int()).bits(3), Noise(1, 1, rows_N).bits(3))
