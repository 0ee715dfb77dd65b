"""attention on the GPU: a row's maximum, its sum of weights and its values in one sweep.

Each of the entries that a program looks at together has a maximum and sums of its own, which are
put together when the row is done: no step waits for a reduction over entries.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment, var-annotated"
# (Triton compiles the kernels from their source; Python types do not describe them.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from graphkit.ops.triton import pieces as hubs
from graphkit.ops.triton.attention_scores import (
    inputs_of,
    keep_factor,
    load_own,
    load_rows,
    own_lanes,
    raw_scores,
)
from graphkit.ops.triton.messages import edge_row
from graphkit.ops.triton.pieces import span


@triton.jit
def _finite(most):
    # A row of -inf: exp(-inf - 0) = 0, not exp(-inf + inf).
    return tl.where(most == float("-inf"), 0.0, most)


@triton.jit
def _store_row(
    row, above, total, most, out, lse, head, there, f, whole, HEADS: tl.constexpr,
    PER_HEAD: tl.constexpr,
):  # fmt: skip
    some = total != 0
    inverse = tl.where(some, 1.0 / tl.where(some, total, 1.0), 0.0)
    tl.store(out + row * HEADS * PER_HEAD + f, above * inverse[:, None], mask=whole)
    if lse is not None:
        level = tl.where(some, most + tl.log(tl.where(some, total, 1.0)), float("inf"))
        tl.store(lse + row * HEADS + head, level, mask=there)


@triton.jit
def _attend(
    value, dst, src, edge, att, bias, seed, ldv, ldd, lds, lde,
    rowptr, col, eid, rows, start, owner, out, lse, sums, totals, num_pieces,
    SCORE: tl.constexpr, SHARED: tl.constexpr, HEADS: tl.constexpr, PER_HEAD: tl.constexpr,
    SLOPE: tl.constexpr, SCALE: tl.constexpr, THRESHOLD: tl.constexpr, FACTOR: tl.constexpr,
    PIECES: tl.constexpr, PIECE: tl.constexpr, LIMIT: tl.constexpr, ACC: tl.constexpr,
    ENTRIES: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    narrow: tl.constexpr = SCORE == "additive"
    unit = tl.program_id(0)
    head, there, f, whole = own_lanes(HEADS, PER_HEAD, GROUP, PER)
    row, first, last, begin, end = span(unit, rowptr, rows, start, owner, PIECES, PIECE, LIMIT)
    target = load_own(dst, row, ldd, head, there, f, whole, narrow, ACC)[None]
    weight = None
    if att is not None:
        weight = tl.load(att + f, mask=whole, other=0).to(ACC)
    most = tl.full([ENTRIES, GROUP], float("-inf"), ACC)
    total = tl.zeros([ENTRIES, GROUP], ACC)
    above = tl.zeros([ENTRIES, GROUP, PER], ACC)
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
        s, _ = raw_scores(target, source, weight, SCORE, SLOPE, SCALE)
        if bias is not None:
            s += load_rows(bias, e, HEADS, live, head, there, f, whole, True, ACC)
        s = tl.where(live[:, None], s, float("-inf"))
        high = tl.maximum(most, s)
        level = _finite(high)
        fade = tl.exp(most - level)
        p = tl.exp(s - level)
        total = total * fade + p
        if THRESHOLD > 0:
            p = p * keep_factor(seed, e, head, THRESHOLD, FACTOR, ACC)
        above = above * fade[:, :, None] + p[:, :, None] * v
        most = high
    top = tl.max(most, 0)
    fade = tl.exp(most - _finite(top)[None, :])
    below = tl.sum(total * fade, 0)
    summed = tl.sum(above * fade[:, :, None], 0)
    if PIECES:
        piece = unit.to(tl.int64)
        tl.store(sums + piece * HEADS * PER_HEAD + f, summed, mask=whole)
        tl.store(totals + piece * HEADS + head, below, mask=there)
        tl.store(totals + (num_pieces + piece) * HEADS + head, top, mask=there)
    else:
        mine = head < tl.where(last - first > LIMIT, 0, HEADS)
        _store_row(
            row, summed, below, top, out, lse, head, mine, f, mine[:, None] & whole, HEADS, PER_HEAD
        )


@triton.jit
def _attend_hubs(
    sums, totals, rows, start, out, lse, num_pieces, HEADS: tl.constexpr, PER_HEAD: tl.constexpr,
    ACC: tl.constexpr, GROUP: tl.constexpr, PER: tl.constexpr,
):  # fmt: skip
    """Put the pieces of a long row together, earlier ones first."""
    hub = tl.program_id(0)
    head, there, f, whole = own_lanes(HEADS, PER_HEAD, GROUP, PER)
    most = tl.full([GROUP], float("-inf"), ACC)
    total = tl.zeros([GROUP], ACC)
    above = tl.zeros([GROUP, PER], ACC)
    begin = tl.load(start + hub)
    for step in range(0, (tl.load(start + hub + 1) - begin).to(tl.int32)):
        piece = begin + step
        top = tl.load(totals + (num_pieces + piece) * HEADS + head, mask=there, other=0)
        high = tl.maximum(most, top)
        level = _finite(high)
        fade = tl.exp(most - level)
        later = tl.exp(top - level)
        total = total * fade + later * tl.load(totals + piece * HEADS + head, mask=there, other=0)
        other = tl.load(sums + piece * HEADS * PER_HEAD + f, mask=whole, other=0)
        above = above * fade[:, None] + other * later[:, None]
        most = high
    row = tl.load(rows + hub).to(tl.int64)
    _store_row(row, above, total, most, out, lse, head, there, f, whole, HEADS, PER_HEAD)


def attention_forward(
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
    rowptr_t: Tensor | None,
    col_t: Tensor | None,
    eid_t: Tensor | None,
    score: str,
    heads: int,
    slope: float,
    scale: float,
    dropout: float,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Out and, if ``keep``, log(sum(exp(score))) of ``graphkit::attention``."""
    n, width, wide = rowptr.numel() - 1, value.size(1), hubs.wide(value.dtype)
    out = value.new_empty(n, width)
    lse = value.new_empty((n, heads) if keep else (0,), dtype=wide)
    if not out.numel() or not col.numel():
        return out.zero_(), lse.fill_(torch.inf)
    given = inputs_of(
        value, dst, src, edge, att, bias, seed, score, heads, slope, scale, dropout
    )  # fmt: skip
    inputs = (*given.tensors, *given.distances, rowptr, col, eid)
    levels = lse if keep else None
    with torch.cuda.device_of(value):
        cut = hubs.cut(rowptr, col.numel())
        _attend[(n, given.blocks)](
            *inputs, None, None, None, out, levels, None, None, 0, PIECES=False, **given.options
        )
        if cut is not None:
            sums = value.new_empty(cut.total, width, dtype=wide)
            totals = value.new_empty(2, cut.total, heads, dtype=wide)
            _attend[(cut.total, given.blocks)](
                *inputs, *cut, out, levels, sums, totals, cut.total, PIECES=True, **given.options
            )
            names = ("HEADS", "PER_HEAD", "ACC", "GROUP", "PER", *hubs.LAUNCH)
            _attend_hubs[(cut.rows.numel(), given.blocks)](
                sums, totals, cut.rows, cut.start, out, levels, cut.total,
                **{name: given.options[name] for name in names},
            )  # fmt: skip
    return out, lse
