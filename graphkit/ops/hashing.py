"""64-bit hashes in plain torch: int64 tensors that are used as unsigned numbers, on any device."""

from __future__ import annotations

from torch import Tensor

from graphkit.ops.reference_sampling import GOLDEN


def hashed(key: Tensor | int, counter: Tensor) -> Tensor:
    """64 bits, as int64, that are decided by a key and a counter (SplitMix64's finaliser).

    Example:
        >>> import torch
        >>> hashed(0, torch.tensor([0])).item() & (2**64 - 1) == 0xE220A8397B1DCDAF
        True
    """
    z = key + (counter.long() + 1) * signed(GOLDEN)
    z = (z ^ shift_right(z, 30)) * signed(0xBF58476D1CE4E5B9)
    z = (z ^ shift_right(z, 27)) * signed(0x94D049BB133111EB)
    return z ^ shift_right(z, 31)


def shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift as an unsigned number is shifted.

    Example:
        >>> import torch
        >>> shift_right(torch.tensor([-1]), 60).tolist()
        [15]
    """
    return (bits >> places) & ((1 << (64 - places)) - 1)


def signed(bits: int) -> int:
    """The int64 of the same 64 bits as an unsigned number; any int is first taken modulo 2^64.

    Example:
        >>> signed(2**64 - 1)
        -1
    """
    bits %= 1 << 64
    return bits - (1 << 64) if bits >> 63 else bits
