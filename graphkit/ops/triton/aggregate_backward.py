"""Gradients of aggregate on the GPU: sources pull from their destinations, so nothing is atomic."""

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
from graphkit.ops.triton.aggregate import edge_rows, flags
from graphkit.ops.triton.messages import edge_row, message_value, through_edge, through_x
from graphkit.ops.triton.order import forward_positions, table_order
from graphkit.ops.triton.pieces import span


@triton.jit
def _moments(
    grad, out, mean, rowptr, shift, slope, width,
    REDUCES: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From the gradients of the outputs to dm = shift + slope * m."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < width
    degree = tl.load(rowptr + row + 1) - tl.load(rowptr + row)
    inverse = tl.where(degree > 0, 1.0 / tl.where(degree > 0, degree.to(ACC), 1.0), 0.0)
    constant = tl.zeros([BLOCK], ACC)
    linear = tl.zeros([BLOCK], ACC)
    for r in tl.static_range(len(REDUCES)):
        at = (row * len(REDUCES) + r) * width + f
        if REDUCES[r] != "min" and REDUCES[r] != "max":
            g = tl.load(grad + at, mask=mask, other=0).to(ACC)
            if REDUCES[r] == "sum":
                constant += g
            elif REDUCES[r] == "mean":
                constant += g * inverse
            elif REDUCES[r] == "var":  # d var = 2 (m - mean) / degree
                linear += 2.0 * g * inverse
            else:  # (m - mean) / (degree std), zero where std was clamped
                std = tl.load(out + at, mask=mask, other=0).to(ACC)
                linear += tl.where(std > 0, g * inverse / tl.where(std > 0, std, 1.0), 0.0)
    if slope is not None:
        average = tl.load(mean + row * width + f, mask=mask, other=0).to(ACC)
        tl.store(slope + row * width + f, linear, mask=mask)
        constant -= linear * average
    tl.store(shift + row * width + f, constant, mask=mask)


@triton.jit
def _message_gradient(
    m, i, position, f, mask, rowptr, shift, slope, grad, low, high, width,
    REDUCES: tl.constexpr, BY_DEGREE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Gradient of the message that destination ``i`` received at ``position`` of its row."""
    d = tl.zeros(f.shape, ACC)
    if shift is not None:
        d = tl.load(shift + i * width + f, mask=mask, other=0).to(ACC)
        if BY_DEGREE:
            degree = tl.load(rowptr + i + 1) - tl.load(rowptr + i)
            d = d * (1.0 / tl.maximum(degree, 1).to(ACC))
    if slope is not None:
        d += tl.load(slope + i * width + f, mask=mask, other=0) * m
    if low is not None:
        won = mask & (tl.load(low + i * width + f, mask=mask, other=-1) == position)
        for r in tl.static_range(len(REDUCES)):
            if REDUCES[r] == "min":
                at = (i * len(REDUCES) + r) * width + f
                d += tl.load(grad + at, mask=won, other=0).to(ACC)
    if high is not None:
        won = mask & (tl.load(high + i * width + f, mask=mask, other=-1) == position)
        for r in tl.static_range(len(REDUCES)):
            if REDUCES[r] == "max":
                at = (i * len(REDUCES) + r) * width + f
                d += tl.load(grad + at, mask=won, other=0).to(ACC)
    return d


@triton.jit
def _lanes(width, per_head, heads, parts, GROUP: tl.constexpr, PER: tl.constexpr):
    """Features of a program: ``GROUP`` heads, of each of them one part of ``PER`` features."""
    part = tl.program_id(1) % parts
    first_head = tl.program_id(1) // parts * GROUP
    lane = tl.arange(0, GROUP * PER)
    head = first_head + lane // PER
    inside = part * PER + lane % PER
    f = tl.where((head < heads) & (inside < per_head), head * per_head + inside, width)
    return f, head, first_head, part


@triton.jit
def _sum_heads(d, first_head, part, heads, parts, live, GROUP: tl.constexpr, PER: tl.constexpr):
    """Sums over the features of each head, where they go in a row of weights, and which do."""
    head = first_head + tl.arange(0, GROUP)
    total = tl.sum(tl.reshape(d, [GROUP, PER]), axis=1)
    return total, head * parts + part, head < tl.where(live, heads, 0)


@triton.jit
def _pull(
    x, edge, rowptr_t, col_t, eid_t, position, rows, start, owner, rowptr, shift, slope, grad, low,
    high, grad_x, grad_edge, width, per_head, heads, parts, ldx, lde,
    MESSAGE: tl.constexpr, REDUCES: tl.constexpr, BY_DEGREE: tl.constexpr, READ_X: tl.constexpr,
    READ_EDGE: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr, LIMIT: tl.constexpr,
    ACC: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Source ``row`` collects from its destinations; an edge row is written by its one entry."""
    unit = tl.program_id(0)
    f, head, first_head, part = _lanes(width, per_head, heads, parts, GROUP, PER)
    column = f
    if MESSAGE == "scale":
        column = head
    row, first, last, begin, end = span(unit, rowptr_t, rows, start, owner, PIECES, PIECE, LIMIT)
    value = tl.zeros([GROUP * PER], ACC)
    if READ_X:
        value = tl.load(x + row * ldx + f, mask=f < width, other=0).to(ACC)
    total = tl.zeros([GROUP * PER], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        gradients = ()
        features = ()
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            live = k < end
            mask = f < tl.where(live, width, 0)
            i = tl.load(col_t + k, mask=live, other=0).to(tl.int64)
            weight = value
            if READ_EDGE:
                e = edge_row(eid_t, k, live)
                weight = tl.load(edge + e * lde + column, mask=mask, other=0).to(ACC)
            at = 0
            if position is not None:
                at = tl.load(position + k, mask=live, other=0)
            d = _message_gradient(
                message_value(value, weight, MESSAGE), i, at, f, mask, rowptr, shift, slope, grad,
                low, high, width, REDUCES, BY_DEGREE, ACC,
            )  # fmt: skip
            gradients = gradients + (d,)
            features = features + (weight,)
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            live = k < end
            d = gradients[n]
            mask = f < tl.where(live, width, 0)
            if grad_x is not None:
                total += tl.where(mask, through_x(d, value, features[n], MESSAGE), 0.0)
            if grad_edge is not None:
                e = edge_row(eid_t, k, live)
                d = through_edge(d, value, features[n], MESSAGE)
                if MESSAGE == "scale":
                    d, to, mask = _sum_heads(d, first_head, part, heads, parts, live, GROUP, PER)
                    tl.store(grad_edge + e * heads * parts + to, d, mask=mask)
                else:
                    tl.store(grad_edge + e * width + f, d, mask=mask)
    if grad_x is not None:
        if PIECES:
            tl.store(grad_x + unit.to(tl.int64) * width + f, total, mask=f < width)
        else:
            mask = f < tl.where(last - first > LIMIT, 0, width)
            tl.store(grad_x + row * width + f, total, mask=mask)


@triton.jit
def _table(
    x, edge, rowptr, col, ptr, entry, destination, rows, start, owner, shift, slope, grad, low,
    high, partial, width, per_head, heads, parts, ldx, lde,
    MESSAGE: tl.constexpr, REDUCES: tl.constexpr, BY_DEGREE: tl.constexpr, READ_X: tl.constexpr,
    READ_EDGE: tl.constexpr, PIECE: tl.constexpr, ACC: tl.constexpr, GROUP: tl.constexpr,
    PER: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """A fixed number of the entries that read one table row, added in order."""
    unit = tl.program_id(0)
    f, head, first_head, part = _lanes(width, per_head, heads, parts, GROUP, PER)
    column = f
    if MESSAGE == "scale":
        column = head
    row, _, _, begin, end = span(unit, ptr, rows, start, owner, True, PIECE, 0)
    weight = tl.zeros([GROUP * PER], ACC)
    if READ_EDGE:
        weight = tl.load(edge + row * lde + column, mask=f < width, other=0).to(ACC)
    total = tl.zeros([GROUP * PER], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        for n in tl.static_range(UNROLL):
            live = begin + step + n < end
            mask = f < tl.where(live, width, 0)
            k = tl.load(entry + begin + step + n, mask=live, other=0)
            i = tl.load(destination + begin + step + n, mask=live, other=0).to(tl.int64)
            value = weight
            if READ_X:
                j = tl.load(col + k, mask=live, other=0).to(tl.int64)
                value = tl.load(x + j * ldx + f, mask=mask, other=0).to(ACC)
            at = (k - tl.load(rowptr + i)).to(tl.int32)
            d = _message_gradient(
                message_value(value, weight, MESSAGE), i, at, f, mask, rowptr, shift, slope, grad,
                low, high, width, REDUCES, BY_DEGREE, ACC,
            )  # fmt: skip
            total += tl.where(mask, through_edge(d, value, weight, MESSAGE), 0.0)
    if MESSAGE == "scale":
        total, to, mask = _sum_heads(total, first_head, part, heads, parts, True, GROUP, PER)
        tl.store(partial + unit.to(tl.int64) * heads * parts + to, total, mask=mask)
    else:
        tl.store(partial + unit.to(tl.int64) * width + f, total, mask=f < width)


def aggregate_backward(
    grad: Tensor,
    x: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    message: str,
    reduces: str,
    edge_is_table: bool,
    out: Tensor,
    mean: Tensor,
    low: Tensor,
    high: Tensor,
    need_x: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and edge of ``graphkit::aggregate``; empty where none was asked for."""
    names = tuple(reduces.split(","))
    needs = flags(names)
    width, entries = x.size(1), col.numel()
    need_edge = need_edge and edge is not None
    grad_x = x.new_empty(x.shape if need_x else (0,))
    grad_edge = x.new_empty(edge.shape if need_edge and edge is not None else (0,))
    if not grad.numel() or not entries:
        return grad_x.zero_(), grad_edge.zero_()
    grad = grad.contiguous()
    slopes = needs["MOMENTS"]
    reads_x = message == "add_relu" or slopes or (message in ("scale", "mul") and need_edge)
    reads_edge = message in ("scale", "mul", "add_relu") or (message == "add" and slopes)
    rows_x, ldx = cpu.rows(x) if reads_x else (None, 0)
    matrix, lde, heads = edge_rows(edge, message)
    per_head = width // heads
    per = hubs.block_size(per_head)
    if message == "scale" and per_head > per:  # one program per head as far as it goes
        per = min(1024, triton.next_power_of_2(per_head))
    parts = triton.cdiv(per_head, per)
    group = min(triton.next_power_of_2(heads), max(1, 128 // per)) if parts == 1 else 1
    blocks = triton.cdiv(heads, group) * parts
    wide = hubs.wide(x.dtype)
    with torch.cuda.device_of(x):
        shift, slope = _shift_and_slope(grad, out, mean, rowptr, names, slopes)
        received = (
            shift, slope, grad, low if needs["MIN"] else None, high if needs["MAX"] else None
        )  # fmt: skip
        sizes = (width, per_head, heads, parts, ldx, lde)
        options: dict[str, Any] = {
            "MESSAGE": message, "REDUCES": names, "BY_DEGREE": names == ("mean",),
            "READ_X": reads_x, "READ_EDGE": reads_edge, "PIECE": hubs.PIECE,
            "ACC": hubs.accumulator(x.dtype), "GROUP": group, "PER": per, "UNROLL": hubs.UNROLL,
            **hubs.LAUNCH,
        }  # fmt: skip
        # A head wider than a program leaves one sum per part.
        weights = grad_edge
        if need_edge and parts > 1 and message == "scale":
            weights = grad_edge.new_empty(*grad_edge.shape, parts, dtype=wide)
        if matrix is not None and (edge_is_table or matrix.size(0) != entries):
            weights.zero_()  # rows that no entry reads
        by_entry = weights if need_edge and not edge_is_table else None
        if need_x or by_entry is not None:
            position = None
            if needs["MIN"] or needs["MAX"]:
                position = forward_positions(
                    rowptr, col, eid, rowptr_t, col_t, eid_t, message != "copy", edge_is_table
                )
            graph = (rows_x, matrix, rowptr_t, col_t, eid_t, position)
            to_x = grad_x if need_x else None
            cut = hubs.cut(rowptr_t, entries)
            _pull[(x.size(0), blocks)](
                *graph, None, None, None, rowptr, *received, to_x, by_entry, *sizes,
                PIECES=False, LIMIT=hubs.LIMIT, **options,
            )  # fmt: skip
            if cut is not None:
                partial = x.new_empty(cut.total, width, dtype=wide) if need_x else None
                _pull[(cut.total, blocks)](
                    *graph, *cut, rowptr, *received, partial, by_entry, *sizes,
                    PIECES=True, LIMIT=hubs.LIMIT, **options,
                )  # fmt: skip
                if partial is not None:
                    hubs.fold(partial, cut.start, cut.rows, grad_x)
        if need_edge and edge_is_table and matrix is not None:
            assert eid is not None
            order = table_order(rowptr, eid, matrix.size(0))
            columns = weights.numel() // matrix.size(0)
            partial = x.new_empty(order.pieces.total, columns, dtype=wide)
            _table[(order.pieces.total, blocks)](
                rows_x, matrix, rowptr, col, order.ptr, order.entry, order.row, *order.pieces,
                *received, partial, *sizes, **options,
            )  # fmt: skip
            hubs.fold(partial, order.pieces.start, order.pieces.rows, weights)
    if weights is not grad_edge:
        grad_edge.copy_(weights.sum(-1))
    return grad_x, grad_edge


def _shift_and_slope(
    grad: Tensor, out: Tensor, mean: Tensor, rowptr: Tensor, names: tuple[str, ...], slopes: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Per destination: dm = shift + slope * m, besides what the winners get."""
    if names in (("sum",), ("mean",)):
        return grad, None
    if all(name in ("min", "max") for name in names):
        return None, None
    n, width = grad.size(0), grad.size(2)
    shift = grad.new_empty(n, width, dtype=hubs.wide(grad.dtype))
    slope = torch.empty_like(shift) if slopes else None
    block = hubs.block_size(width)
    _moments[(n, triton.cdiv(width, block))](
        grad, out, mean, rowptr, shift, slope, width, REDUCES=names,
        ACC=hubs.accumulator(grad.dtype), BLOCK=block, **hubs.LAUNCH,
    )  # fmt: skip
    return shift, slope
