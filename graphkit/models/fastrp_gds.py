"""The random numbers of Neo4j's Graph Data Science library, for results equal to its own.

Its generator is that of "Numerical Recipes" (Press et al., 3rd ed., section 7.1.1) with 64-bit
words throughout; every node starts one of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops.hashing import shift_right, signed

_V = 4101842887655102017
_SIXTH = 1.0 / 6.0


class _Streams:
    """Many generators that step together."""

    def __init__(self, seed: Tensor) -> None:
        self.v = torch.full_like(seed, _V)
        self.w = torch.ones_like(seed)
        self.u = seed ^ self.v
        self.next()
        self.v = self.u.clone()
        self.next()
        self.w = self.v.clone()
        self.next()

    def next(self) -> Tensor:
        """64 bits of each, as int64."""
        self.u = self.u * 2862933555777941757 + 7046029254386353087
        self.v = self.v ^ shift_right(self.v, 17)
        self.v = self.v ^ (self.v << 31)
        self.v = self.v ^ shift_right(self.v, 8)
        self.w = 4294957665 * self.w + shift_right(self.w, 32)
        x = self.u ^ (self.u << 21)
        x = x ^ shift_right(x, 35)
        x = x ^ (x << 4)
        return (x + self.v) ^ self.w

    def unit(self) -> Tensor:
        """Doubles in [0, 1) of 53 bits."""
        high, low = shift_right(self.next(), 38), shift_right(self.next(), 37)
        return (high * (1 << 27) + low).double() * 2.0**-53


def gds_entries(ids: Tensor | None, seed: int, first: int, last: int) -> Tensor:
    """Entries 1, 0, -1 of columns ``first`` to ``last - 1``.

    Args:
        ids: ``[n]`` original ids of the nodes; ``None`` for the one stream of the property vectors.
        seed: of the user.
        first, last: columns, drawn one after the other from 0.

    Shapes:
        - **out:** float32 ``[n, last - first]``

    Example:
        >>> (gds_entries(torch.arange(2), 42, 0, 4) + 0.0).tolist()
        [[0.0, -1.0, 0.0, -1.0], [1.0, 0.0, -1.0, 0.0]]
    """
    base = _Streams(torch.tensor([signed(seed)])).next()
    streams = _Streams(base if ids is None else base.to(ids.device) ^ ids.long())
    columns = []
    for column in range(last):
        z = streams.unit()
        if column >= first:
            columns.append((z < _SIXTH).float() - ((z >= _SIXTH) & (z < 2 * _SIXTH)).float())
    return torch.stack(columns, dim=1) if columns else torch.empty(len(streams.u), 0)
