"""How long rows are shared out: pieces of fixed size, reduced apart and combined in order.

The cut depends on the graph alone, so results do not depend on how a kernel was launched.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LIMIT = 2048  # entries; longer rows are cut
PIECE = 1024
UNROLL = 4  # entries whose loads are in flight together
# Contracted multiply-adds would make the bits depend on the version of Triton.
LAUNCH = {"num_warps": 1, "enable_fp_fusion": False}


class Pieces(NamedTuple):
    """Rows cut into pieces: row ``rows[h]`` owns pieces ``start[h]:start[h+1]``; ``owner`` is h."""

    rows: Tensor
    start: Tensor
    owner: Tensor

    @property
    def total(self) -> int:
        return self.owner.numel()


_kept: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def cut(rowptr: Tensor, entries: int) -> Pieces | None:
    """The pieces of the rows longer than ``LIMIT``, or ``None``; remembered per ``rowptr``.

    Finding them waits for the GPU, which is why it is done once per graph.
    """
    if entries <= LIMIT:
        return None
    key = (rowptr._version if not rowptr.is_inference() else 0, LIMIT, PIECE)
    kept = _kept.get(rowptr)
    if kept is None or kept[0] != key:
        degree = rowptr[1:] - rowptr[:-1]
        rows = (degree > LIMIT).nonzero().flatten()
        pieces = pieces_of(rows, degree[rows]) if rows.numel() else None
        kept = (key, pieces)
        _kept[rowptr] = kept
    return kept[1]


def pieces_of(rows: Tensor, lengths: Tensor) -> Pieces:
    """Cut rows of the given lengths, in order."""
    counts = (lengths + PIECE - 1) // PIECE
    start = torch.zeros(rows.numel() + 1, dtype=torch.int64, device=rows.device)
    torch.cumsum(counts, 0, out=start[1:])
    hubs = torch.arange(rows.numel(), device=rows.device)
    return Pieces(rows, start, hubs.repeat_interleave(counts, output_size=int(start[-1])))


@triton.jit
def span(
    unit, rowptr, rows, start, owner,
    PIECES: tl.constexpr, PIECE: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """Row of a unit (a row, or with PIECES a piece of one), the row's ends and the unit's ends."""
    if PIECES:
        hub = tl.load(owner + unit)
        row = tl.load(rows + hub).to(tl.int64)
    else:
        row = unit.to(tl.int64)
    first = tl.load(rowptr + row)
    last = tl.load(rowptr + row + 1)
    if PIECES:
        number = unit - tl.load(start + hub)
        begin = first + number.to(first.dtype) * PIECE
        end = tl.minimum(begin + PIECE, last)
    else:
        begin = first
        end = tl.where(last - first > LIMIT, first, last)
    return row, first, last, begin, end


@triton.jit
def _fold(
    partial, start, rows, out, width, ACC: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr
):
    group = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(start + group)
    end = tl.load(start + group + 1)
    total = tl.zeros([BLOCK], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        for n in tl.static_range(UNROLL):
            p = begin + step + n
            total += tl.load(partial + p * width + f, mask=f < tl.where(p < end, width, 0), other=0)
    row = group
    if rows is not None:
        row = tl.load(rows + group)
    tl.store(out + row * width + f, total, mask=f < width)


def fold(partial: Tensor, start: Tensor, rows: Tensor | None, out: Tensor) -> None:
    """``out[rows[h]] = sum(partial[start[h]:start[h+1]])`` in order, into contiguous rows."""
    width = partial.size(1)
    block = block_size(width)
    grid = (start.numel() - 1, triton.cdiv(width, block))
    _fold[grid](
        partial, start, rows, out, width, ACC=accumulator(partial.dtype), BLOCK=block,
        UNROLL=UNROLL, **LAUNCH,
    )  # fmt: skip


def block_size(width: int) -> int:
    """Features that one program owns: four per lane at most."""
    return min(128, triton.next_power_of_2(max(width, 1)))


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """The type that sums are kept in."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def wide(dtype: torch.dtype) -> torch.dtype:
    """The same for buffers."""
    return torch.float64 if dtype == torch.float64 else torch.float32
