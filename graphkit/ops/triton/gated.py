"""gated_aggregate on the GPU: one sweep forward, one per destination and one per source back."""

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
from graphkit.ops.triton.messages import edge_row
from graphkit.ops.triton.pieces import span


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _store_sums(
    row, above, below, out, sums, f, mask, width, NORMALIZE: tl.constexpr, EPS: tl.constexpr
):
    if NORMALIZE:
        above = above / (below + EPS)
    tl.store(out + row * width + f, above, mask=mask)
    if sums is not None:
        tl.store(sums + row * width + f, below, mask=mask)


@triton.jit
def _forward(
    gate_dst, gate_src, value, edge, rowptr, col, eid, rows, start, owner, out, gates, sums,
    above_part, below_part, width, ldd, lds, ldv, lde,
    NORMALIZE: tl.constexpr, EPS: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
    LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, first, last, begin, end = span(unit, rowptr, rows, start, owner, PIECES, PIECE, LIMIT)
    target = tl.load(gate_dst + row * ldd + f, mask=f < width, other=0).to(ACC)
    above = tl.zeros([BLOCK], ACC)
    below = tl.zeros([BLOCK], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        raised = ()
        values = ()
        for n in tl.static_range(UNROLL):  # loads first: the stores below would hold them up
            k = begin + step + n
            mask = f < tl.where(k < end, width, 0)
            j = tl.load(col + k, mask=k < end, other=0).to(tl.int64)
            gate = target + tl.load(gate_src + j * lds + f, mask=mask, other=0).to(ACC)
            if edge is not None:
                e = edge_row(eid, k, k < end)
                gate += tl.load(edge + e * lde + f, mask=mask, other=0).to(ACC)
            raised = raised + (gate,)
            values = values + (tl.load(value + j * ldv + f, mask=mask, other=0).to(ACC),)
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            mask = f < tl.where(k < end, width, 0)
            if edge is not None:
                e = edge_row(eid, k, k < end)
                tl.store(gates + e * width + f, raised[n], mask=mask)
            opened = tl.where(mask, _sigmoid(raised[n]), 0.0)
            above += opened * values[n]
            below += opened
    if PIECES:
        at = unit.to(tl.int64) * width + f
        tl.store(above_part + at, above, mask=f < width)
        tl.store(below_part + at, below, mask=f < width)
    else:
        mask = f < tl.where(last - first > LIMIT, 0, width)
        _store_sums(row, above, below, out, sums, f, mask, width, NORMALIZE, EPS)


@triton.jit
def _combine(
    above_part, below_part, rows, start, out, sums, width,
    NORMALIZE: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    hub = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = f < width
    above = tl.zeros([BLOCK], ACC)
    below = tl.zeros([BLOCK], ACC)
    begin = tl.load(start + hub)
    for step in range(0, (tl.load(start + hub + 1) - begin).to(tl.int32)):
        at = (begin + step) * width + f
        above += tl.load(above_part + at, mask=mask, other=0)
        below += tl.load(below_part + at, mask=mask, other=0)
    row = tl.load(rows + hub).to(tl.int64)
    _store_sums(row, above, below, out, sums, f, mask, width, NORMALIZE, EPS)


@triton.jit
def _factors(
    i, grad, out, sums, f, mask, width, NORMALIZE: tl.constexpr, EPS: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """n = grad / (sum + eps) and d = -n out: the gradient of a gate is n value + d."""
    n = tl.load(grad + i * width + f, mask=mask, other=0).to(ACC)
    d = tl.zeros(f.shape, ACC)
    if NORMALIZE:
        n = n / (tl.load(sums + i * width + f, mask=mask, other=1).to(ACC) + EPS)
        d = -n * tl.load(out + i * width + f, mask=mask, other=0).to(ACC)
    return n, d


@triton.jit
def _destinations(
    gate_dst, gate_src, value, gates, rowptr, col, eid, rows, start, owner, grad, grad_gates, out,
    sums, grad_edge, grad_dst, width, ldd, lds, ldv,
    NORMALIZE: tl.constexpr, EPS: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
    LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Gradients of the edges, each written once, and their sum over each destination."""
    unit = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, first, last, begin, end = span(unit, rowptr, rows, start, owner, PIECES, PIECE, LIMIT)
    whole = f < width
    n_i, d_i = _factors(row, grad, out, sums, f, whole, width, NORMALIZE, EPS, ACC)
    target = tl.zeros([BLOCK], ACC)
    if gates is None:
        target = tl.load(gate_dst + row * ldd + f, mask=whole, other=0).to(ACC)
    total = tl.zeros([BLOCK], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        gradients = ()
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            mask = f < tl.where(k < end, width, 0)
            j = tl.load(col + k, mask=k < end, other=0).to(tl.int64)
            if gates is not None:
                at = edge_row(eid, k, k < end) * width + f
                gate = tl.load(gates + at, mask=mask, other=0).to(ACC)
            else:
                gate = target + tl.load(gate_src + j * lds + f, mask=mask, other=0).to(ACC)
            opened = _sigmoid(gate)
            g = n_i * tl.load(value + j * ldv + f, mask=mask, other=0).to(ACC) + d_i
            g = g * opened * (1.0 - opened)
            if grad_gates is not None:
                at = edge_row(eid, k, k < end) * width + f
                g += tl.load(grad_gates + at, mask=mask, other=0).to(ACC)
            gradients = gradients + (tl.where(mask, g, 0.0),)
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            if grad_edge is not None:
                mask = f < tl.where(k < end, width, 0)
                at = edge_row(eid, k, k < end) * width + f
                tl.store(grad_edge + at, gradients[n], mask=mask)
            total += gradients[n]
    if PIECES:
        tl.store(grad_dst + unit.to(tl.int64) * width + f, total, mask=whole)
    else:
        mask = f < tl.where(last - first > LIMIT, 0, width)
        tl.store(grad_dst + row * width + f, total, mask=mask)


@triton.jit
def _sources(
    gate_dst, gate_src, value, gates, rowptr_t, col_t, eid_t, rows, start, owner, grad, out, sums,
    grad_edge, grad_src, grad_value, width, ldd, lds, ldv,
    NORMALIZE: tl.constexpr, EPS: tl.constexpr, PIECES: tl.constexpr, PIECE: tl.constexpr,
    LIMIT: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Gradients of the gates and values of each source, pulled from its destinations."""
    unit = tl.program_id(0)
    f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    row, first, last, begin, end = span(unit, rowptr_t, rows, start, owner, PIECES, PIECE, LIMIT)
    whole = f < width
    source = tl.zeros([BLOCK], ACC)
    own = tl.zeros([BLOCK], ACC)
    if gates is None:
        source = tl.load(gate_src + row * lds + f, mask=whole, other=0).to(ACC)
        own = tl.load(value + row * ldv + f, mask=whole, other=0).to(ACC)
    to_src = tl.zeros([BLOCK], ACC)
    to_value = tl.zeros([BLOCK], ACC)
    for step in range(0, (end - begin).to(tl.int32), UNROLL):
        for n in tl.static_range(UNROLL):
            k = begin + step + n
            mask = f < tl.where(k < end, width, 0)
            i = tl.load(col_t + k, mask=k < end, other=0).to(tl.int64)
            if gates is not None:
                n_i, _ = _factors(i, grad, out, sums, f, mask, width, NORMALIZE, EPS, ACC)
                at = edge_row(eid_t, k, k < end) * width + f
                opened = _sigmoid(tl.load(gates + at, mask=mask, other=0).to(ACC))
                g = tl.load(grad_edge + at, mask=mask, other=0).to(ACC)
            else:
                n_i, d_i = _factors(i, grad, out, sums, f, mask, width, NORMALIZE, EPS, ACC)
                gate = tl.load(gate_dst + i * ldd + f, mask=mask, other=0).to(ACC) + source
                opened = _sigmoid(gate)
                g = (n_i * own + d_i) * opened * (1.0 - opened)
            to_src += tl.where(mask, g, 0.0)
            to_value += tl.where(mask, n_i * opened, 0.0)
    mask = whole
    at = unit.to(tl.int64) * width + f
    if not PIECES:
        mask = f < tl.where(last - first > LIMIT, 0, width)
    tl.store(grad_src + at, to_src, mask=mask)
    tl.store(grad_value + at, to_value, mask=mask)


def _options(value: Tensor, normalize: bool, eps: float) -> tuple[int, dict[str, Any]]:
    """Blocks of features, and the options all kernels share."""
    block = hubs.block_size(value.size(1))
    options = {
        "NORMALIZE": normalize, "EPS": eps, "ACC": hubs.accumulator(value.dtype), "BLOCK": block,
        **hubs.LAUNCH,
    }  # fmt: skip
    return triton.cdiv(value.size(1), block), options


def gated_forward(
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    normalize: bool,
    eps: float,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Out, e and the sums of the gates of ``graphkit::gated_aggregate``."""
    n, width = gate_dst.shape
    gate_dst, ldd = cpu.rows(gate_dst)
    gate_src, lds = cpu.rows(gate_src)
    value, ldv = cpu.rows(value)
    edge, lde = (None, 0) if edge is None else cpu.rows(edge)
    out = value.new_empty(n, width)
    gates = value.new_empty(0 if edge is None else edge.shape)
    sums = value.new_empty((n, width) if keep and normalize else (0,))
    if not out.numel() or not col.numel():
        return out.zero_(), gates, sums.zero_()
    blocks, options = _options(value, normalize, eps)
    cutting = {"PIECE": hubs.PIECE, "LIMIT": hubs.LIMIT, "UNROLL": hubs.UNROLL}
    kept = sums if sums.numel() else None
    inputs = (gate_dst, gate_src, value, edge, rowptr, col, eid)
    sizes = (width, ldd, lds, ldv, lde)
    with torch.cuda.device_of(value):
        cut = hubs.cut(rowptr, col.numel())
        _forward[(n, blocks)](
            *inputs, None, None, None, out, gates, kept, None, None, *sizes, PIECES=False,
            **cutting, **options,
        )  # fmt: skip
        if cut is not None:
            parts = value.new_empty(2, cut.total, width, dtype=hubs.wide(value.dtype))
            _forward[(cut.total, blocks)](
                *inputs, *cut, out, gates, kept, parts[0], parts[1], *sizes, PIECES=True,
                **cutting, **options,
            )  # fmt: skip
            _combine[(cut.rows.numel(), blocks)](
                parts[0], parts[1], cut.rows, cut.start, out, kept, width, **options
            )
    return out, gates, sums


def gated_backward(
    grad: Tensor,
    grad_gates: Tensor | None,
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    gates: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    normalize: bool,
    eps: float,
    out: Tensor,
    sums: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gate_dst, gate_src, value and edge (empty without edges)."""
    n, width = gate_dst.shape
    gate_dst, ldd = cpu.rows(gate_dst)
    gate_src, lds = cpu.rows(gate_src)
    value, ldv = cpu.rows(value)
    grad = grad.contiguous()
    grad_gates = None if grad_gates is None else grad_gates.contiguous()
    grad_dst = value.new_empty(n, width)
    grad_src, grad_value = value.new_empty(value.shape), value.new_empty(value.shape)
    grad_edge = value.new_empty(0 if gates is None else gates.shape)
    entries = col.numel()
    if not width or not entries:
        return grad_dst.zero_(), grad_src.zero_(), grad_value.zero_(), grad_edge.zero_()
    blocks, options = _options(value, normalize, eps)
    options |= {"PIECE": hubs.PIECE, "LIMIT": hubs.LIMIT, "UNROLL": hubs.UNROLL}
    inputs, sizes = (gate_dst, gate_src, value, gates), (width, ldd, lds, ldv)
    by_edge = None if gates is None else grad_edge
    wide = hubs.wide(value.dtype)
    with torch.cuda.device_of(value):
        _destinations[(n, blocks)](
            *inputs, rowptr, col, eid, None, None, None, grad, grad_gates, out, sums, by_edge,
            grad_dst, *sizes, PIECES=False, **options,
        )  # fmt: skip
        cut = hubs.cut(rowptr, entries)
        if cut is not None:
            part = value.new_empty(cut.total, width, dtype=wide)
            _destinations[(cut.total, blocks)](
                *inputs, rowptr, col, eid, *cut, grad, grad_gates, out, sums, by_edge, part,
                *sizes, PIECES=True, **options,
            )  # fmt: skip
            hubs.fold(part, cut.start, cut.rows, grad_dst)
        # The sources read the gradients of the edges that the destinations wrote.
        _sources[(value.size(0), blocks)](
            *inputs, rowptr_t, col_t, eid_t, None, None, None, grad, out, sums, by_edge, grad_src,
            grad_value, *sizes, PIECES=False, **options,
        )  # fmt: skip
        cut = hubs.cut(rowptr_t, entries)
        if cut is not None:
            parts = value.new_empty(2, cut.total, width, dtype=wide)
            _sources[(cut.total, blocks)](
                *inputs, rowptr_t, col_t, eid_t, *cut, grad, out, sums, by_edge, parts[0],
                parts[1], *sizes, PIECES=True, **options,
            )  # fmt: skip
            hubs.fold(parts[0], cut.start, cut.rows, grad_src)
            hubs.fold(parts[1], cut.start, cut.rows, grad_value)
    return grad_dst, grad_src, grad_value, grad_edge
