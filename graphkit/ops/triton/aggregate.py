"""aggregate on the GPU: all reduces of a row in one pass over its entries."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops import cpu
from graphkit.ops.triton import pieces as hubs
from graphkit.ops.triton.messages import entry_message
from graphkit.ops.triton.pieces import span

_EMPTY = -1  # winner of a row without entries


@triton.jit
def beats(m, best, arg, LARGEST: tl.constexpr):
    # Strict, so ties keep the first entry; a NaN wins once and stays, as in torch.
    if LARGEST:
        better = m > best
    else:
        better = m < best
    return better | ((m != m) & (best == best)) | (arg < 0)


@triton.jit
def _store_row(
    row, degree, total, square, origin, low, arg_low, high, arg_high, out, mean, low_out, high_out,
    f, mask, width, REDUCES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    count = degree.to(ACC)
    inverse = tl.where(degree > 0, 1.0 / tl.where(degree > 0, count, 1.0), 0.0)
    filled = f < tl.where(degree > 0, width, 0)
    shifted = total * inverse
    average = tl.where(filled, shifted + origin, 0.0)
    variance = square * inverse - shifted * shifted
    variance = tl.where(variance < 0, 0.0, variance)
    for r in tl.static_range(len(REDUCES)):
        if REDUCES[r] == "sum":
            value = total + count * origin
        elif REDUCES[r] == "mean":
            value = average
        elif REDUCES[r] == "min":
            value = low
        elif REDUCES[r] == "max":
            value = high
        elif REDUCES[r] == "var":
            value = variance
        else:  # as PyG's StdAggregation: variances of at most 1e-5 count as zero
            spread = variance > 1e-5
            value = tl.where(spread, tl.sqrt(tl.where(spread, variance, 1.0)), 0.0)
        value = tl.where(filled, value, 0.0)
        tl.store(out + (row * len(REDUCES) + r) * width + f, value, mask=mask)
    if mean is not None:
        tl.store(mean + row * width + f, average, mask=mask)
    if low_out is not None:
        tl.store(low_out + row * width + f, tl.where(filled, arg_low, -1), mask=mask)
    if high_out is not None:
        tl.store(high_out + row * width + f, tl.where(filled, arg_high, -1), mask=mask)


@triton.jit
def _forward(
    x, edge, rowptr, col, eid, rows, start, owner, out, mean, low_out, high_out, partial, args,
    width, per_head, ldx, lde, num_pieces,
    MESSAGE: tl.constexpr, REDUCES: tl.constexpr, MOMENTS: tl.constexpr, SUMS: tl.constexpr,
    MIN: tl.constexpr, MAX: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
    LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    column = f
    if MESSAGE == "scale":
        column = f // per_head
    row, first, last, begin, end = span(unit, rowptr, rows, start, owner, PIECES, PIECE, LIMIT)
    total = tl.zeros([BLOCK], ACC)
    square = tl.zeros([BLOCK], ACC)
    origin = tl.zeros([BLOCK], ACC)
    low = tl.full([BLOCK], float("inf"), ACC)
    high = tl.full([BLOCK], float("-inf"), ACC)
    arg_low = tl.full([BLOCK], -1, tl.int32)
    arg_high = tl.full([BLOCK], -1, tl.int32)
    if MOMENTS:
        # Sums around the row's first message: the variance does not cancel.
        origin = entry_message(
            x, edge, col, eid, first, begin < end, f, column, width, ldx, lde, MESSAGE, ACC
        )
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        fetched = ()
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            fetched = fetched + (entry_message(
                x, edge, col, eid, k, k < end, f, column, width, ldx, lde, MESSAGE, ACC
            ),)  # fmt: skip
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            m = fetched[n]
            live = f < tl.where(k < end, width, 0)
            if SUMS:
                d = m
                if MOMENTS:
                    d = tl.where(live, m - origin, 0.0)
                    square += d * d
                total += d
            here = (k - first).to(tl.int32)
            if MIN:
                better = live & beats(m, low, arg_low, False)
                low = tl.where(better, m, low)
                arg_low = tl.where(better, here, arg_low)
            if MAX:
                better = live & beats(m, high, arg_high, True)
                high = tl.where(better, m, high)
                arg_high = tl.where(better, here, arg_high)
    if PIECES:
        at = unit.to(tl.int64) * width + f
        plane = tl.cast(num_pieces, tl.int64) * width
        mask = f < width
        if SUMS:
            tl.store(partial + at, total, mask=mask)
        if MOMENTS:
            tl.store(partial + plane + at, square, mask=mask)
        if MIN:
            tl.store(partial + 2 * plane + at, low, mask=mask)
            tl.store(args + at, arg_low, mask=mask)
        if MAX:
            tl.store(partial + 3 * plane + at, high, mask=mask)
            tl.store(args + plane + at, arg_high, mask=mask)
    else:
        degree = last - first
        mask = f < tl.where(degree > LIMIT, 0, width)
        _store_row(
            row, degree, total, square, origin, low, arg_low, high, arg_high, out, mean, low_out,
            high_out, f, mask, width, REDUCES, ACC,
        )  # fmt: skip


@triton.jit
def _combine(
    x, edge, rowptr, col, eid, rows, start, out, mean, low_out, high_out, partial, args,
    width, per_head, ldx, lde, num_pieces,
    MESSAGE: tl.constexpr, REDUCES: tl.constexpr, MOMENTS: tl.constexpr, SUMS: tl.constexpr,
    MIN: tl.constexpr, MAX: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fold the pieces of a long row, earlier ones first."""
    hub = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < width
    column = f
    if MESSAGE == "scale":
        column = f // per_head
    row = tl.load(rows + hub).to(tl.int64)
    first = tl.load(rowptr + row)
    degree = tl.load(rowptr + row + 1) - first
    total = tl.zeros([BLOCK], ACC)
    square = tl.zeros([BLOCK], ACC)
    origin = tl.zeros([BLOCK], ACC)
    low = tl.full([BLOCK], float("inf"), ACC)
    high = tl.full([BLOCK], float("-inf"), ACC)
    arg_low = tl.full([BLOCK], -1, tl.int32)
    arg_high = tl.full([BLOCK], -1, tl.int32)
    if MOMENTS:
        origin = entry_message(
            x, edge, col, eid, first, degree > 0, f, column, width, ldx, lde, MESSAGE, ACC
        )
    plane = tl.cast(num_pieces, tl.int64) * width
    begin = tl.load(start + hub)
    for step in range(0, (tl.load(start + hub + 1) - begin).to(tl.int32)):
        at = (begin + step) * width + f
        if SUMS:
            total += tl.load(partial + at, mask=mask, other=0)
        if MOMENTS:
            square += tl.load(partial + plane + at, mask=mask, other=0)
        if MIN:
            m = tl.load(partial + 2 * plane + at, mask=mask, other=0)
            arg = tl.load(args + at, mask=mask, other=0)
            better = beats(m, low, arg_low, False)
            low = tl.where(better, m, low)
            arg_low = tl.where(better, arg, arg_low)
        if MAX:
            m = tl.load(partial + 3 * plane + at, mask=mask, other=0)
            arg = tl.load(args + plane + at, mask=mask, other=0)
            better = beats(m, high, arg_high, True)
            high = tl.where(better, m, high)
            arg_high = tl.where(better, arg, arg_high)
    _store_row(
        row, degree, total, square, origin, low, arg_low, high, arg_high, out, mean, low_out,
        high_out, f, mask, width, REDUCES, ACC,
    )  # fmt: skip


def edge_rows(edge: Tensor | None, message: str) -> tuple[Tensor | None, int, int]:
    """Edge features as a matrix with contiguous rows, their row distance, and the heads."""
    if edge is None:
        return None, 0, 1
    matrix, distance = cpu.rows(edge if edge.dim() == 2 else edge.unsqueeze(1))
    return matrix, distance, matrix.size(1) if message == "scale" else 1


def flags(names: tuple[str, ...]) -> dict[str, bool]:
    """Which running values the reduces need."""
    moments = "var" in names or "std" in names
    return {
        "MOMENTS": moments,
        "SUMS": moments or "sum" in names or "mean" in names,
        "MIN": "min" in names,
        "MAX": "max" in names,
    }


def aggregate_forward(
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    message: str,
    reduces: str,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Out, mean, argmin and argmax of ``graphkit::aggregate``."""
    names = tuple(reduces.split(","))
    needs = flags(names)
    n, width = rowptr.numel() - 1, x.size(1)
    x, ldx = cpu.rows(x)
    edge, lde, heads = edge_rows(edge, message)

    def kept(wanted: bool, dtype: torch.dtype) -> Tensor:
        return x.new_empty((n, width) if keep and wanted else (0,), dtype=dtype)

    out = x.new_empty(n, len(names), width)
    mean = kept(needs["MOMENTS"], x.dtype)
    low, high = kept(needs["MIN"], torch.int32), kept(needs["MAX"], torch.int32)
    if not out.numel():
        return out, mean, low, high
    if not col.numel():
        return out.zero_(), mean.zero_(), low.fill_(_EMPTY), high.fill_(_EMPTY)
    block = hubs.block_size(width)
    blocks = triton.cdiv(width, block)
    results = (out, *(t if t.numel() else None for t in (mean, low, high)))
    sizes = (width, width // heads, ldx, lde)
    options: dict[str, Any] = {
        "MESSAGE": message, "REDUCES": names, **needs, "ACC": hubs.accumulator(x.dtype),
        "BLOCK": block, **hubs.LAUNCH,
    }  # fmt: skip
    cutting = {"PIECE": hubs.PIECE, "LIMIT": hubs.LIMIT, "UNROLL": hubs.UNROLL}
    graph = (x, edge, rowptr, col, eid)
    with torch.cuda.device_of(x):
        cut = hubs.cut(rowptr, col.numel())
        _forward[(n, blocks)](
            *graph, None, None, None, *results, None, None, *sizes, 0, PIECES=False,
            **cutting, **options,
        )  # fmt: skip
        if cut is not None:
            partial = x.new_empty(4, cut.total, width, dtype=hubs.wide(x.dtype))
            args = low.new_empty(2, cut.total, width)
            _forward[(cut.total, blocks)](
                *graph, *cut, *results, partial, args, *sizes, cut.total, PIECES=True,
                **cutting, **options,
            )  # fmt: skip
            _combine[(cut.rows.numel(), blocks)](
                *graph, cut.rows, cut.start, *results, partial, args, *sizes, cut.total, **options
            )
    return out, mean, low, high
