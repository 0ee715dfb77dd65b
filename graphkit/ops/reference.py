"""Every op in plain torch: the specification, the float64 oracle, the fallback on any device.

Nothing here is fast: messages are materialised, one row per edge. ``scatter="torch_scatter"`` does
the reductions with torch_scatter instead of torch's own scatter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphkit.ops.csr import CSR

# PyG's StdAggregation clamps the variance here and calls what lies below zero.
STD_FLOOR = 1e-5


def messages(
    csr: CSR, x: Tensor, edge: Tensor | None, message: str, lookup: Tensor | None
) -> Tensor:
    """``[E, F]`` messages in the order of the entries of ``csr``."""
    source = x.index_select(0, csr.col.long())
    if message == "copy":
        return source
    assert edge is not None
    which = torch.arange(csr.num_entries, device=x.device) if csr.eid is None else csr.eid.long()
    rows = edge.index_select(0, which if lookup is None else lookup.long()[which])
    if message == "scale":
        heads = 1 if rows.dim() == 1 else rows.size(1)
        by_head = source.view(source.size(0), heads, source.size(1) // max(heads, 1))
        return (by_head * rows.view(-1, heads, 1)).reshape(source.shape)
    if message == "mul":
        return source * rows
    return (source + rows).relu() if message == "add_relu" else source + rows


def total(csr: CSR, values: Tensor, scatter: str = "torch") -> Tensor:
    """Sum of ``[E, F]`` values over each row."""
    row = csr.row().long()
    if scatter == "torch_scatter":
        import torch_scatter

        return torch_scatter.scatter_add(values, row, dim=0, dim_size=csr.num_rows)
    return values.new_zeros(csr.num_rows, values.size(1)).index_add(0, row, values)


def widen(tensor: Tensor) -> Tensor:
    """Half types in float32: a sum, a count or a square soon leaves their range."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def winners(csr: CSR, values: Tensor, largest: bool) -> Tensor:
    """``[N, F]`` first entry that attains each row's extremum; ``E`` for an empty row."""
    row = csr.row().long()[:, None].expand_as(values)
    detached = values.detach()
    reduce = "amax" if largest else "amin"
    best = detached.new_zeros(csr.num_rows, values.size(1))
    best = best.scatter_reduce(0, row, detached, reduce, include_self=False)
    found = best.gather(0, row)
    # A NaN equals nothing, not even itself, and a row that holds one has it as its extremum.
    hit = (detached == found) | (detached.isnan() & found.isnan())
    entry = torch.arange(values.size(0), device=values.device)[:, None].expand_as(values)
    first = torch.full_like(best, values.size(0), dtype=torch.int64)
    return first.scatter_reduce(0, row, entry.masked_fill(~hit, values.size(0)), "amin")


def _reduce(csr: CSR, values: Tensor, reduce: str, scatter: str) -> Tensor:
    count = csr.degree.clamp(min=1).to(values.dtype)[:, None]
    if reduce == "sum":
        return total(csr, values, scatter)
    if reduce == "mean":
        return total(csr, values, scatter) / count
    if reduce in ("min", "max"):
        first = winners(csr, values, reduce == "max")
        padded = torch.cat([values, values.new_zeros(1, values.size(1))])
        return padded.gather(0, first)
    mean = total(csr, values, scatter) / count
    centred = values - mean.index_select(0, csr.row().long())
    variance = total(csr, centred * centred, scatter) / count
    if reduce == "var":
        return variance
    spread = variance > STD_FLOOR
    return torch.where(spread, torch.where(spread, variance, 1.0).sqrt(), 0.0)


def aggregate(
    csr: CSR,
    x: Tensor,
    edge: Tensor | None = None,
    *,
    lookup: Tensor | None = None,
    message: str = "copy",
    reduces: Sequence[str] = ("sum",),
    scatter: str = "torch",
) -> Tensor:
    """``[N, R, F]`` of :func:`graphkit.ops.aggregate`, for checked arguments."""
    wide_edge = None if edge is None else widen(edge)
    values = messages(csr, widen(x), wide_edge, message, lookup)
    return torch.stack([_reduce(csr, values, r, scatter) for r in reduces], dim=1).to(x.dtype)


def gated_aggregate(
    csr: CSR,
    gate_dst: Tensor,
    gate_src: Tensor,
    value: Tensor,
    edge: Tensor | None = None,
    *,
    normalize: bool = True,
    eps: float = 1e-6,
    scatter: str = "torch",
) -> tuple[Tensor, Tensor | None]:
    """The pair of :func:`graphkit.ops.gated_aggregate`, for checked arguments."""
    row, col, dtype = csr.row().long(), csr.col.long(), value.dtype
    gate_dst, gate_src, value = widen(gate_dst), widen(gate_src), widen(value)
    gate = gate_dst.index_select(0, row) + gate_src.index_select(0, col)
    which = (
        torch.arange(csr.num_entries, device=value.device) if csr.eid is None else csr.eid.long()
    )
    if edge is not None:
        gate = gate + widen(edge).index_select(0, which)
    opened = torch.sigmoid(gate)
    out = total(csr, opened * value.index_select(0, col), scatter)
    if normalize:
        out = out / (total(csr, opened, scatter) + eps)
    if edge is None:
        return out.to(dtype), None
    return out.to(dtype), torch.empty_like(gate).index_copy(0, which, gate).to(dtype)


def _mix(x: Tensor) -> Tensor:
    """A 32-bit hash (in int64, which has no unsigned overflow to speak of)."""
    low = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & low
    x = ((x ^ (x >> 15)) * 0x846CA68B) & low
    return x ^ (x >> 16)


def keep_factors(
    seed: Tensor, edge: Tensor, heads: int, dropout: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """``[E, H]`` 0 or ``1 / (1 - dropout)`` for each edge id and head, as the kernels hash them."""
    low = 0xFFFFFFFF
    number = int(seed) & 0xFFFFFFFFFFFFFFFF
    x = _mix((edge & low) ^ (number & low))
    x = _mix(x ^ (edge >> 32) ^ (number >> 32))
    x = _mix(x[:, None] ^ torch.arange(heads, device=edge.device))
    threshold = int(min(dropout * 2.0**32, 2.0**32 - 1))
    factor = 0.0 if dropout >= 1.0 else 1.0 / (1.0 - dropout)
    return (x >= threshold).to(dtype) * factor


def edge_softmax(csr: CSR, scores: Tensor) -> Tensor:
    """``[E, H]`` softmax over the entries of each row; scores are in the order of the entries."""
    row = csr.row().long()
    index = row[:, None].expand_as(scores)
    low = scores.new_full((csr.num_rows, scores.size(1)), float("-inf"))
    most = low.scatter_reduce(0, index, scores.detach(), "amax")
    most = most.masked_fill(most == float("-inf"), 0.0)
    weight = (scores - most.index_select(0, row)).exp()
    total_weight = torch.zeros_like(most).index_add(0, row, weight)
    return weight / total_weight.masked_fill(total_weight == 0, 1.0).index_select(0, row)


def attention(
    csr: CSR,
    value: Tensor,
    dst: Tensor,
    src: Tensor,
    edge: Tensor | None = None,
    *,
    score: str,
    heads: int,
    att: Tensor | None = None,
    bias: Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float = 1.0,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """``[N, H * D]`` of :func:`graphkit.ops.attention`, for checked arguments."""
    row, col, dtype = csr.row().long(), csr.col.long(), value.dtype
    which = torch.arange(csr.num_entries, device=col.device) if csr.eid is None else csr.eid.long()

    def by_head(t: Tensor, index: Tensor) -> Tensor:
        rows = widen(t).index_select(0, index)
        return rows.view(rows.size(0), heads, rows.size(1) // heads)

    values, j = by_head(value, col), by_head(src, col)
    i = by_head(dst, row)
    if edge is not None:
        e = by_head(edge, which)
        j = j + e
        if score == "dot":
            values = values + e
    if score == "additive":
        scores = F.leaky_relu(i + j, negative_slope).squeeze(-1)
    elif score == "gatv2":
        assert att is not None
        weight = att.to(i.dtype).view(heads, -1)
        scores = (F.leaky_relu(i + j, negative_slope) * weight).sum(-1)
    else:
        scores = (i * j).sum(-1) * scale
    if bias is not None:
        scores = scores + widen(bias).index_select(0, which)
    weights = edge_softmax(csr, scores)
    if dropout:
        assert seed is not None
        weights = weights * keep_factors(seed, which, heads, dropout, weights.dtype)
    return total(csr, (weights[..., None] * values).flatten(1)).to(dtype)
