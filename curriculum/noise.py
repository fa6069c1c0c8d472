"""Randomness that is addressed, not carried.

A generator carries state: what it draws depends on everything drawn before, so a resumed run, another number
of loader workers or another number of processes changes it. `Noise` has no state. Its values are a hash of
(seed, step, row, column), where a row is an image's position in the global batch or its index in a data set,
and a column is a patch. Drawing is a handful of integer tensor operations on the device, for the whole batch.
Different purposes draw from different streams of it; `curriculum.streams` names them all.

The hash is SplitMix64's finalizer (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), applied once for (seed, step), once for the row and once for the column.

Shape suffixes: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from curriculum.streams import Stream

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def _signed(value: int) -> int:
    """Return the int64 with the same 64 bits: torch has no arithmetic on uint64."""
    value &= _WORD
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    """Apply SplitMix64's finalizer to a 64-bit word."""
    value &= _WORD
    value = ((value ^ (value >> 30)) * _MIX_1) & _WORD
    value = ((value ^ (value >> 27)) * _MIX_2) & _WORD
    return value ^ (value >> 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift logically: torch's `>>` on int64 copies the sign bit."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_tensor(x: Tensor) -> Tensor:
    """Apply `_mix` elementwise to an int64 tensor, whose multiplication wraps as the hash requires."""
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_signed(_MIX_1))
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_signed(_MIX_2))
    return _shift_right(x, 31).bitwise_xor_(x)


def hash_words(*words: int) -> int:
    """Hash several integers into one of 64 bits, e.g. a run's seed and a `Stream` into the seed of one purpose."""
    state = 0
    for word in words:
        state = _mix(state + _GOLDEN + _mix(word + _GOLDEN))
    return state


@dataclass(frozen=True)
class Noise:
    """The noise of one batch: a hash of (seed, step, row, column).

    Args:
        seed: the seed of the run, or of one stream of it.
        step: the optimizer step, or the epoch for augmentation.
        rows_N: int64 [N], the number by which each image is addressed: its position in the *global* batch, or its
            index in the data set.
        part: (k, n), these rows are the k-th, counted from 0, of n equal parts of the global batch; for what the images
            of a part have in common. Default (0, 1), all of it.
    """

    seed: int
    step: int
    rows_N: Tensor
    part: tuple[int, int] = (0, 1)

    @classmethod
    def for_batch(
        cls,
        *,
        seed: int,
        step: int,
        batch_size: int,
        first: int = 0,
        device: torch.device | str | None = None,
        of: int | None = None,
    ) -> Noise:
        """Make the noise of `batch_size` images, the first of which stands at position `first` of the global batch.

        That is made of as large parts, and has `of` images in all; by default nothing depends on how many.
        """
        part = (0, 1) if of is None else (first // batch_size, of // batch_size)
        return cls(seed, step, torch.arange(first, first + batch_size, device=device), part)

    def fold(self, stream: Stream, number: int | None = None) -> Noise:
        """Make independent noise for another purpose and the same images.

        Args:
            stream: the purpose.
            number: which of several items that one purpose has, such as the third probe; None where it has one.

        Raises:
            ValueError: if `stream` is a bare number, which another purpose may have taken.
        """
        if not isinstance(stream, Stream):
            raise ValueError(f"Noise.fold takes a member of Stream, got {stream!r}; your own parts use Stream.CUSTOM")
        words = (self.seed, stream) if number is None else (self.seed, stream, number)
        return replace(self, seed=hash_words(*words))

    def bits(self, columns: int) -> Tensor:
        """Draw int64 [N, columns], of which all 64 bits are random."""
        key = hash_words(self.seed, self.step)
        rows_N1 = _mix_tensor(self.rows_N.to(torch.int64).mul(_signed(_GOLDEN)).add_(_signed(key))).unsqueeze(1)
        columns_K = torch.arange(1, columns + 1, device=self.rows_N.device).mul_(_signed(_GOLDEN))
        return _mix_tensor(rows_N1 + columns_K)

    def uniform(self, columns: int) -> Tensor:
        """Draw float32 [N, columns], uniform in [0, 1) with a resolution of 2**-24."""
        return _shift_right(self.bits(columns), 40).to(torch.float32).mul_(2.0**-24)
