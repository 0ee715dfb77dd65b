"""Gradients of attention on the GPU: a sweep over the destinations, then one over the sources.

Scores are computed again from lse = log(sum(exp(score))). Nothing has a row per edge but the
gradient of the edge features, where that is asked for.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated, index"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.triton import pieces as hubs
from graphkit.ops.triton.attention_scores import (
    inputs_of,
    leaky,
    load_own,
    load_rows,
    own_lanes,
    raw_scores,
    slope_of_scores,
    through_leaky,
)
from graphkit.ops.triton.messages import edge_row
from graphkit.ops.triton.pieces import span

# The gradient of `att` is a sum over all edges: each of so many programs adds up one row of it.
ATT_PROGRAMS = 8192


@triton.jit
def _to_destinations(
    value, dst, src, edge, att, bias, seed, ldv, ldd, lds, lde,
    rowptr, col, eid, rows, start, owner, grad, out, lse, delta,
    grad_dst, grad_edge, grad_bias, grad_att, units,
    SCORE: tl.constexpr, SHARED: tl.constexpr, HEADS: tl.constexpr, PER_HEAD: tl.constexpr,
    SLOPE: tl.constexpr, SCALE: tl.constexpr, THRESHOLD: tl.constexpr, FACTOR: tl.constexpr,
    PIECES: tl.constexpr, PIECE: tl.constexpr, LIMIT: tl.constexpr, ACC: tl.constexpr,
    ENTRIES: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Gradients of dst, edge and bias, a part of that of att; leaves delta = grad . out."""
    narrow: tl.constexpr = SCORE == "additive"
    columns: tl.constexpr = HEADS if narrow else HEADS * PER_HEAD
    program = tl.program_id(0)
    head, there, f, whole = own_lanes(HEADS, PER_HEAD, GROUP, PER)
    weight = None
    if att is not None:
        weight = tl.load(att + f, mask=whole, other=0).to(ACC)
    of_att = tl.zeros([ENTRIES, GROUP, PER], ACC)
    for turn in range(0, tl.cdiv(units - program, tl.num_programs(0))):
        unit = program + turn * tl.num_programs(0)
        row, first, last, begin, end = span(unit, rowptr, rows, start, owner, PIECES, PIECE, LIMIT)
        target = load_own(dst, row, ldd, head, there, f, whole, narrow, ACC)[None]
        g = tl.load(grad + row * HEADS * PER_HEAD + f, mask=whole, other=0).to(ACC)
        result = tl.load(out + row * HEADS * PER_HEAD + f, mask=whole, other=0).to(ACC)
        level = tl.load(lse + row * HEADS + head, mask=there, other=0)[None, :]
        own_delta = tl.sum(g * result, 1)
        if not PIECES:
            tl.store(delta + row * HEADS + head, own_delta, mask=there)
        if narrow:
            total = tl.zeros([ENTRIES, GROUP], ACC)
        else:
            total = tl.zeros([ENTRIES, GROUP, PER], ACC)
        for step in range(0, (end - begin).to(tl.int32), ENTRIES):
            k = begin + step + tl.arange(0, ENTRIES)
            live = k < end
            j = tl.load(col + k, mask=live, other=0).to(tl.int64)
            e = edge_row(eid, k, live)
            v = load_rows(value, j, ldv, live, head, there, f, whole, False, ACC)
            if SHARED:
                source = v
            else:
                source = load_rows(src, j, lds, live, head, there, f, whole, narrow, ACC)
            if edge is not None:
                features = load_rows(edge, e, lde, live, head, there, f, whole, narrow, ACC)
                source += features
                if SCORE == "dot":
                    v += features
            s, u = raw_scores(target, source, weight, SCORE, SLOPE, SCALE)
            if bias is not None:
                s += load_rows(bias, e, HEADS, live, head, there, f, whole, True, ACC)
            towards = tl.sum(g[None, :, :] * v, 2)
            ds, kept = slope_of_scores(
                s, towards, level, own_delta[None, :], live, seed, e, head, THRESHOLD, FACTOR, ACC
            )
            if grad_bias is not None:
                at = e[:, None] * HEADS + head[None, :]
                tl.store(grad_bias + at, ds, mask=live[:, None] & there[None, :])
            if SCORE == "additive":
                d = through_leaky(ds, u, SLOPE)
                total += d
            elif SCORE == "gatv2":
                d = through_leaky(ds[:, :, None] * weight[None, :, :], u, SLOPE)
                total += d
                if grad_att is not None:
                    of_att += ds[:, :, None] * leaky(u, SLOPE)
            else:
                d = (ds * SCALE)[:, :, None] * target + kept[:, :, None] * g[None, :, :]
                total += (ds * SCALE)[:, :, None] * u
            if grad_edge is not None:
                if narrow:
                    at = e[:, None] * columns + head[None, :]
                    tl.store(grad_edge + at, d, mask=live[:, None] & there[None, :])
                else:
                    at = e[:, None, None] * columns + f[None, :, :]
                    tl.store(grad_edge + at, d, mask=live[:, None, None] & whole[None, :, :])
        where = row
        mine = head < tl.where(last - first > LIMIT, 0, HEADS)
        if PIECES:
            where = unit.to(tl.int64)
            mine = there
        if narrow:
            tl.store(grad_dst + where * columns + head, tl.sum(total, 0), mask=mine)
        else:
            tl.store(grad_dst + where * columns + f, tl.sum(total, 0), mask=mine[:, None] & whole)
    if grad_att is not None:
        at = program.to(tl.int64) * HEADS * PER_HEAD + f
        tl.store(grad_att + at, tl.sum(of_att, 0), mask=whole)


@triton.jit
def _to_sources(
    value, dst, src, edge, att, bias, seed, ldv, ldd, lds, lde,
    rowptr_t, col_t, eid_t, rows, start, owner, grad, lse, delta, grad_src, grad_value,
    SCORE: tl.constexpr, SHARED: tl.constexpr, HEADS: tl.constexpr, PER_HEAD: tl.constexpr,
    SLOPE: tl.constexpr, SCALE: tl.constexpr, THRESHOLD: tl.constexpr, FACTOR: tl.constexpr,
    PIECES: tl.constexpr, PIECE: tl.constexpr, LIMIT: tl.constexpr, ACC: tl.constexpr,
    ENTRIES: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Gradients of src and value of each source, pulled from its destinations."""
    narrow: tl.constexpr = SCORE == "additive"
    columns: tl.constexpr = HEADS if narrow else HEADS * PER_HEAD
    unit = tl.program_id(0)
    head, there, f, whole = own_lanes(HEADS, PER_HEAD, GROUP, PER)
    row, first, last, begin, end = span(unit, rowptr_t, rows, start, owner, PIECES, PIECE, LIMIT)
    own_value = tl.load(value + row * ldv + f, mask=whole, other=0).to(ACC)[None, :, :]
    if SHARED:
        own = own_value
    else:
        own = load_own(src, row, lds, head, there, f, whole, narrow, ACC)[None]
    weight = None
    if att is not None:
        weight = tl.load(att + f, mask=whole, other=0).to(ACC)
    to_value = tl.zeros([ENTRIES, GROUP, PER], ACC)
    if narrow:
        to_src = tl.zeros([ENTRIES, GROUP], ACC)
    else:
        to_src = tl.zeros([ENTRIES, GROUP, PER], ACC)
    for step in range(0, (end - begin).to(tl.int32), ENTRIES):
        k = begin + step + tl.arange(0, ENTRIES)
        live = k < end
        i = tl.load(col_t + k, mask=live, other=0).to(tl.int64)
        e = edge_row(eid_t, k, live)
        g = load_rows(grad, i, HEADS * PER_HEAD, live, head, there, f, whole, False, ACC)
        target = load_rows(dst, i, ldd, live, head, there, f, whole, narrow, ACC)
        level = load_rows(lse, i, HEADS, live, head, there, f, whole, True, ACC)
        their_delta = load_rows(delta, i, HEADS, live, head, there, f, whole, True, ACC)
        source = own
        v = own_value
        if edge is not None:
            features = load_rows(edge, e, lde, live, head, there, f, whole, narrow, ACC)
            source = own + features
            if SCORE == "dot":
                v = own_value + features
        s, u = raw_scores(target, source, weight, SCORE, SLOPE, SCALE)
        if bias is not None:
            s += load_rows(bias, e, HEADS, live, head, there, f, whole, True, ACC)
        ds, kept = slope_of_scores(
            s, tl.sum(g * v, 2), level, their_delta, live, seed, e, head, THRESHOLD, FACTOR, ACC
        )
        to_value += kept[:, :, None] * g
        if SCORE == "additive":
            to_src += through_leaky(ds, u, SLOPE)
        elif SCORE == "gatv2":
            to_src += through_leaky(ds[:, :, None] * weight[None, :, :], u, SLOPE)
        else:
            to_src += (ds * SCALE)[:, :, None] * target
    where = row
    mine = head < tl.where(last - first > LIMIT, 0, HEADS)
    if PIECES:
        where = unit.to(tl.int64)
        mine = there
    at = where * HEADS * PER_HEAD + f
    tl.store(grad_value + at, tl.sum(to_value, 0), mask=mine[:, None] & whole)
    if narrow:
        tl.store(grad_src + where * columns + head, tl.sum(to_src, 0), mask=mine)
    else:
        tl.store(grad_src + at, tl.sum(to_src, 0), mask=mine[:, None] & whole)


def attention_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None,
    att: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    need_edge: bool,
    need_att: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, dst, src, edge, att and bias; empty where none was asked for."""
    n, entries, wide = rowptr.numel() - 1, col.numel(), hubs.wide(value.dtype)

    def like(t: Tensor | None, wanted: bool = True) -> Tensor | None:
        return value.new_empty(t.shape) if t is not None and wanted else None

    grad_value, grad_dst, grad_src = (value.new_empty(t.shape) for t in (value, dst, src))
    grad_edge, grad_bias, grad_att = like(edge, need_edge), like(bias, need_bias), None
    if not entries or not grad.numel():
        grads = (grad_value, grad_dst, grad_src, grad_edge, like(att, need_att), grad_bias)
        e, a, b = (value.new_empty(0) if g is None else g.zero_() for g in grads[3:])
        return grad_value.zero_(), grad_dst.zero_(), grad_src.zero_(), e, a, b
    given = inputs_of(
        value, dst, src, edge, att, bias, seed, score, heads, slope, scale, dropout
    )  # fmt: skip
    inputs, options = (*given.tensors, *given.distances), given.options
    grad, out, delta = grad.contiguous(), out.contiguous(), torch.empty_like(lse)
    received = (grad, out, lse, delta)
    by_edge = (grad_edge, grad_bias)
    with torch.cuda.device_of(value):
        cut, cut_t = hubs.cut(rowptr, entries), hubs.cut(rowptr_t, entries)
        few = ATT_PROGRAMS if need_att and att is not None else max(n, entries)
        programs = (min(n, few), 0 if cut is None else min(cut.total, few))
        parts: tuple[Tensor | None, ...] = (None, None)
        if need_att and att is not None:
            grad_att = value.new_empty(sum(programs), value.size(1), dtype=wide)
            parts = (grad_att[: programs[0]], grad_att[programs[0] :])
        _to_destinations[(programs[0], given.blocks)](
            *inputs, rowptr, col, eid, None, None, None, *received, grad_dst, *by_edge, parts[0],
            n, PIECES=False, **options,
        )  # fmt: skip
        if cut is not None:
            sums = value.new_empty(cut.total, dst.size(1), dtype=wide)
            _to_destinations[(programs[1], given.blocks)](
                *inputs, rowptr, col, eid, *cut, *received, sums, *by_edge, parts[1], cut.total,
                PIECES=True, **options,
            )  # fmt: skip
            hubs.fold(sums, cut.start, cut.rows, grad_dst)
        # The sources read the delta that the destinations left.
        received = (grad, lse, delta)
        _to_sources[(value.size(0), given.blocks)](
            *inputs, rowptr_t, col_t, eid_t, None, None, None, *received, grad_src, grad_value,
            PIECES=False, **options,
        )  # fmt: skip
        if cut_t is not None:
            sums = value.new_empty(cut_t.total, src.size(1), dtype=wide)
            sums_v = value.new_empty(cut_t.total, value.size(1), dtype=wide)
            _to_sources[(cut_t.total, given.blocks)](
                *inputs, rowptr_t, col_t, eid_t, *cut_t, *received, sums, sums_v, PIECES=True,
                **options,
            )  # fmt: skip
            hubs.fold(sums, cut_t.start, cut_t.rows, grad_src)
            hubs.fold(sums_v, cut_t.start, cut_t.rows, grad_value)
    none = value.new_empty(0)
    of_att = none
    if grad_att is not None and att is not None:
        of_att = grad_att.sum(0).to(value.dtype).view(att.shape)
    return (
        grad_value, grad_dst, grad_src, none if grad_edge is None else grad_edge, of_att,
        none if grad_bias is None else grad_bias,
    )  # fmt: skip
