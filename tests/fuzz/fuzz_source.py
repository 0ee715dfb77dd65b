"""Random and corrupt arguments for the fuzzers, all of a case from one seed."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from graphkit.ops import CSR

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
BAD = (-1, -(2**31), 2**31 - 1, 2**62, -(2**62), 7)


class Source:
    """Random arguments, all from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def size(self) -> int:
        return self.random.choice([0, 1, 2, 3, 5, 16, 17, 40, 150])

    def width(self) -> int:
        return self.random.choice([0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 33, 64])

    def features(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """Contiguous, with gaps between rows, transposed, or one row over and over."""
        kind = self.random.choice(["plain", "gaps", "transposed", "expanded", "shifted"])
        if kind == "expanded":
            return torch.randn(1, width, generator=self.torch).to(dtype).expand(rows, width)
        if kind == "transposed":
            return torch.randn(width, rows, generator=self.torch).to(dtype).t()
        more = self.random.randint(1, 5)
        wide = torch.randn(rows, width + more, generator=self.torch).to(dtype)
        if kind == "plain":
            return wide[:, :width].contiguous()
        return wide[:, :width] if kind == "gaps" else wide[:, more:]

    def graph(self, square: bool = False) -> CSR:
        """A right CSR, with entries now and then beyond the threshold of hubs."""
        rows, cols = self.size(), self.size()
        cols = rows if square else cols
        edges = 0
        if rows and cols:
            edges = self.random.choice([0, 1, 9, 70, 500, 500, 500, 40_000])
        ends = [
            torch.randint(max(limit, 1), (edges,), generator=self.torch) for limit in (cols, rows)
        ]
        dtype = self.random.choice([torch.int32, torch.int64])
        csr = CSR.from_edge_index(torch.stack(ends).to(dtype), size=(cols, rows))
        csr.transpose()
        return csr

    def corrupt(self, csr: CSR) -> bool:
        """Spoil some index of the graph or of its transpose, in place; whether it did."""
        part = csr if self.random.random() < 0.5 else csr.transpose()
        arrays = [a for a in (part.rowptr, part.col, part.eid) if a is not None and a.numel()]
        target = self.random.choice(arrays)
        if not target.numel():
            return False
        bad = self.random.choice(BAD)
        if target.dtype == torch.int32:
            bad = max(min(bad, 2**31 - 1), -(2**31))
        # Past torch's count of changes, by which it would refuse to run backward.
        target.numpy()[self.random.randrange(target.numel())] = bad
        return True

    def chance(self, part: float) -> bool:
        return self.random.random() < part


def backward(s: Source, out: Tensor, inputs: list[Tensor], csr: CSR) -> None:
    wanted = [t for t in inputs if t.requires_grad]
    if not wanted or not out.requires_grad:
        return
    if s.chance(0.3):
        s.corrupt(csr)
    torch.autograd.grad(out, wanted, torch.randn_like(out), allow_unused=True)


def leaf(s: Source, t: Tensor) -> Tensor:
    return t.detach().requires_grad_(s.chance(0.7))
