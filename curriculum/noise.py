"""Randomness that is addressed, not carried.

A generator carries state: what it draws depends on everything drawn before, so a resumed run, another number
of loader workers or another number of processes changes it. `Noise` has no state. Its values are a hash of
(seed, step, row, column), where a row is an image's position in the global batch or its index in a data set,
and a column is a patch. Drawing is a handful of integer tensor operations on the device, for the whole batch.

The hash is SplitMix64's finalizer (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
generators"), applied once for (seed, step), once for the row and once for the column.

Shape suffixes: N rows, K columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with the same 64 bits: torch has no arithmetic on uint64."""
    value &= _WORD
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    """SplitMix64's finalizer of a 64-bit word."""
    value &= _WORD
    value = ((value ^ (value >> 30)) * _MIX_1) & _WORD
    value = ((value ^ (value >> 27)) * _MIX_2) & _WORD
    return value ^ (value >> 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's `>>` on int64 copies the sign bit."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_tensor(x: Tensor) -> Tensor:
    """`_mix`, elementwise, on int64 tensors (multiplication wraps, as the hash wants)."""
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_signed(_MIX_1))
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_signed(_MIX_2))
    return _shift_right(x, 31).bitwise_xor_(x)


def hash_words(*words: int) -> int:
    """One 64-bit integer from several, e.g. a seed for (run seed, epoch)."""
    state = 0
    for word in words:
        state = _mix(state + _GOLDEN + _mix(word + _GOLDEN))
    return state


@dataclass(frozen=True)
class Noise:
    """Noise for one batch.

    Args:
        seed: the run's seed.
        step: the optimizer step (or the epoch, for augmentation).
        rows_N: int64 [N], what each image is called: its position in the *global* batch, or its sample index.
    """

    seed: int
    step: int
    rows_N: Tensor

    @classmethod
    def for_batch(
        cls, *, seed: int, step: int, batch_size: int, first: int = 0, device: torch.device | str | None = None
    ) -> Noise:
        """Noise for `batch_size` images whose first one stands at position `first` of the global batch."""
        return cls(seed, step, torch.arange(first, first + batch_size, device=device))

    def fold(self, stream: int) -> Noise:
        """Independent noise for the same images: one stream per purpose."""
        return replace(self, seed=hash_words(self.seed, stream))

    def bits(self, columns: int) -> Tensor:
        """Int64 [N, columns], all 64 bits random."""
        key = hash_words(self.seed, self.step)
        rows_N1 = _mix_tensor(self.rows_N.to(torch.int64).mul(_signed(_GOLDEN)).add_(_signed(key))).unsqueeze(1)
        columns_K = torch.arange(1, columns + 1, device=self.rows_N.device).mul_(_signed(_GOLDEN))
        return _mix_tensor(rows_N1 + columns_K)

    def uniform(self, columns: int) -> Tensor:
        """Float32 [N, columns], uniform in [0, 1) with a resolution of 2**-24."""
        return _shift_right(self.bits(columns), 40).to(torch.float32).mul_(2.0**-24)
