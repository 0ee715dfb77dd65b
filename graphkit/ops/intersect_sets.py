"""How intersect finds its sets: the kernel, plain torch, and the ops that torch.compile sees."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphkit.ops import backends, cpu
from graphkit.ops.aggregate import aggregate
from graphkit.ops.csr import CSR
from graphkit.ops.rows import refuse_disorder


def _one_width(
    rowptr: Tensor, col: Tensor, rowptr_b: Tensor | None, col_b: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if rowptr_b is None or col_b is None:
        return rowptr, col, rowptr, col
    if rowptr_b.dtype != rowptr.dtype:
        return rowptr.long(), col.long(), rowptr_b.long(), col_b.long()
    return rowptr, col, rowptr_b, col_b


def _find(
    arrays: tuple[Tensor, Tensor, Tensor, Tensor],
    pairs: Tensor,
    num_cols: int,
    difference: bool,
    count: Tensor,
    keep: bool,
    keep_b: bool,
) -> Any:
    """Run the kernel: counts are written, positions are in what it returns."""
    assert cpu.kernels is not None
    rowptr, col, rowptr_b, col_b = arrays
    return cpu.kernels.intersect_rows(
        cpu.graph(rowptr, col, None, num_cols, col.numel()),
        cpu.graph(rowptr_b, col_b, None, num_cols, col_b.numel()), difference, pairs.size(1),
        pairs[0].data_ptr(), pairs[1].data_ptr(), count.data_ptr(), keep, keep_b, cpu.threads(),
    )  # fmt: skip


def _native(col: Tensor) -> bool:
    return (
        col.device.type == "cpu"
        and cpu.kernels is not None
        and backends.current(col.device) == "native"
    )


def _start(count: Tensor, dtype: torch.dtype) -> Tensor:
    ptr = count.new_zeros(count.numel() + 1, dtype=dtype)
    torch.cumsum(count, 0, out=ptr[1:])
    return ptr


def packed(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
    entries: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return ptr, node, entry and entry_b; the last two may be empty where nobody wants them."""
    arrays = _one_width(rowptr, col, rowptr_b, col_b)
    nothing = col.new_empty(0)
    if not _native(col):
        count, entry, entry_b = _sets(*arrays, pairs, num_cols, difference)
        dtype = arrays[1].dtype if entry.numel() < 2**31 else torch.int64
        node = arrays[1][entry].to(dtype)
        return _start(count, dtype), node, entry.to(dtype), entry_b.to(dtype)
    count = cpu.empty(pairs, (pairs.size(1),))
    found = _find(arrays, pairs, num_cols, difference, count, True, entries and not difference)
    like = arrays[1].new_empty(0, dtype=torch.int64 if found.total >= 2**31 else None)
    node = cpu.empty(like, (found.total,))
    entry = cpu.empty(like, (found.total,)) if entries else nothing
    entry_b = cpu.empty(like, (found.total,)) if entries and not difference else nothing
    if found.total:
        found.copy(
            like.element_size() * 8, node.data_ptr(), entry.data_ptr() if entries else 0,
            entry_b.data_ptr() if entry_b.numel() else 0,
        )  # fmt: skip
    return _start(count, like.dtype), node, entry, entry_b


def counted(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> Tensor:
    arrays = _one_width(rowptr, col, rowptr_b, col_b)
    if not _native(col):
        return _sets(*arrays, pairs, num_cols, difference)[0]
    count = cpu.empty(pairs, (pairs.size(1),))
    _find(arrays, pairs, num_cols, difference, count, False, False)
    return count


def _sets(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor,
    col_b: Tensor,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Count, entry and entry_b in plain torch, on any device."""
    device = col.device
    starts, degree = rowptr[:-1].long(), (rowptr[1:] - rowptr[:-1]).long()
    length = degree[pairs[0]]
    pair = torch.arange(pairs.size(1), device=device).repeat_interleave(length)
    first = torch.cumsum(length, 0) - length
    entry = torch.arange(pair.numel(), device=device) - first[pair] + starts[pairs[0]][pair]
    node = col[entry].long()
    repeated = (entry > starts[pairs[0]][pair]) & (col[(entry - 1).clamp(min=0)] == node)
    pair, entry, node = (t[~repeated] for t in (pair, entry, node))
    degree_b = (rowptr_b[1:] - rowptr_b[:-1]).long()
    owner = torch.arange(degree_b.numel(), device=device).repeat_interleave(degree_b)
    keys = owner * num_cols + col_b.long()  # ascending, as the rows are
    wanted = pairs[1][pair] * num_cols + node
    place = torch.searchsorted(keys, wanted)
    there = torch.zeros_like(place, dtype=torch.bool)
    if keys.numel():
        there = keys[place.clamp(max=keys.numel() - 1)] == wanted
    chosen = ~there if difference else there
    count = torch.bincount(pair[chosen], minlength=pairs.size(1))
    return count, entry[chosen], place[:0] if difference else place[chosen]


def pool(found: tuple[Tensor, ...], x: Tensor, weight: Tensor | None) -> Tensor:
    """Sum rows of x over packed sets, given as ptr and node."""
    csr = CSR(found[0], found[1], None, found[0].numel() - 1, x.size(0))
    if weight is None:
        return aggregate(csr, x)
    return aggregate(csr, x, weight, lookup=csr.col, message="scale")


# What torch.compile sees: nobody has looked at the values when a graph was traced, so the rows'
# order is checked at every call, and ids by the kernel.


def _check_traced(
    rowptr: Tensor, col: Tensor, rowptr_b: Tensor | None, col_b: Tensor | None, num_cols: int
) -> None:
    refuse_disorder("csr", rowptr, col, num_cols)
    if rowptr_b is not None and col_b is not None:
        refuse_disorder("csr_b", rowptr_b, col_b, num_cols)


@torch.library.custom_op("graphkit::intersect", mutates_args=())
def intersect_op(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_traced(rowptr, col, rowptr_b, col_b, num_cols)
    return packed(rowptr, col, rowptr_b, col_b, pairs, num_cols, difference, True)


@intersect_op.register_fake
def _(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    wide = rowptr_b is not None and rowptr_b.dtype != rowptr.dtype
    like = rowptr.new_empty(0, dtype=torch.int64 if wide else None)
    return (
        like.new_empty(pairs.size(1) + 1), like.new_empty(total), like.new_empty(total),
        like.new_empty(0 if difference else total),
    )  # fmt: skip


@torch.library.custom_op("graphkit::common_neighbors", mutates_args=())
def count_op(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> Tensor:
    _check_traced(rowptr, col, rowptr_b, col_b, num_cols)
    return counted(rowptr, col, rowptr_b, col_b, pairs, num_cols, difference)


@count_op.register_fake
def _(
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> Tensor:
    return pairs.new_empty(pairs.size(1))


@torch.library.custom_op("graphkit::intersect_sum", mutates_args=())
def sum_op(
    x: Tensor,
    weight: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> Tensor:
    _check_traced(rowptr, col, rowptr_b, col_b, num_cols)
    found = packed(rowptr, col, rowptr_b, col_b, pairs, num_cols, difference, False)
    return pool(found, x, weight)


@sum_op.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> Tensor:
    return x.new_empty(pairs.size(1), x.size(1))


@torch.library.custom_op("graphkit::intersect_sum_backward", mutates_args=())
def _sum_backward_op(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight (empty without one); the sets are found again."""
    found = packed(rowptr, col, rowptr_b, col_b, pairs, num_cols, difference, False)
    csr = CSR(found[0], found[1], None, pairs.size(1), num_cols)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    total = aggregate(csr.transpose(), grad.to(compute))  # of the pairs that each node is in
    if weight is None:
        return total.to(x.dtype), x.new_empty(0)
    return (total * weight[:, None]).to(x.dtype), (total * x).sum(1).to(x.dtype)


@_sum_backward_op.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    rowptr: Tensor,
    col: Tensor,
    rowptr_b: Tensor | None,
    col_b: Tensor | None,
    pairs: Tensor,
    num_cols: int,
    difference: bool,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0 if weight is None else weight.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.num_cols, ctx.difference = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> Any:
    grads = _sum_backward_op(grad, *ctx.saved_tensors, ctx.num_cols, ctx.difference)
    weighted = ctx.saved_tensors[1] is not None
    return grads[0], grads[1] if weighted else None, *[None] * 7


sum_op.register_autograd(_backward, setup_context=_setup_context)
