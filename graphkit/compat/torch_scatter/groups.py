"""From an index to groups of rows, and the reductions of these groups by the fused kernels.

A tensor whose index depends on nothing beyond the indexed dimension is seen as ``[rows, F]``; the
index, sorted once, is a :class:`CSR` whose rows are the groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit.errors import InputError
from graphkit.ops import CSR, aggregate, cpu
from graphkit.ops.csr import sort_arrays
from graphkit.ops.extremum import extremum

_INT32_MAX = 2**31 - 1
# Sorted forms remembered per tensor and its views: a window sliding over a large index must not
# collect them all.
_RECENT = 8
_memo: Any = WeakTensorKeyDictionary()
T = TypeVar("T")


def remembered(index: Tensor, key: object, build: Callable[[], T]) -> T:
    """What ``build()`` made of this index earlier, as long as nothing has written to it since.

    Views are found again under the tensor that they show: ``edge_index[1]`` is a new tensor each
    time it is written down.
    """
    if torch.compiler.is_compiling():
        return build()
    root = index if index._base is None else index._base
    if root.is_inference():  # such tensors do not count their changes
        return build()
    entry = _memo.get(root)
    if entry is None or entry[0] != root._version:
        entry = (root._version, {})
        _memo[root] = entry
    known: dict[object, Any] = entry[1]
    where = (index.storage_offset(), index.shape, index.stride(), index.dtype, key)
    found = known.get(where)
    if found is None:
        found = build()
        for old in list(known)[: max(0, len(known) + 1 - _RECENT)]:
            known.pop(old, None)
        known[where] = found
    return found


def limits(index: Tensor) -> tuple[int, int]:
    """Least and largest value of an index; ``(0, -1)`` of an empty one."""
    if not index.numel():
        return 0, -1

    def build() -> tuple[int, int]:
        low, high = torch.aminmax(index)
        return int(low), int(high)

    return remembered(index, "limits", build)


def check_range(index: Tensor, size: int) -> None:
    """Raise unless all values lie in ``0..size-1``."""
    low, high = limits(index)
    if low < 0 or high >= size:
        value = low if low < 0 else high
        place = (index == value).nonzero()[0].tolist()
        raise InputError(
            f"index: {value} at position {place[0] if len(place) == 1 else place}, "
            + (f"wanted 0..{size - 1}" if size else "but the indexed dimension has size 0")
        )


class Groups:
    """Rows of a ``[cols, F]`` matrix in groups: a CSR, and the group of each row.

    Attributes:
        csr: row ``g`` holds the places of the rows of group ``g``.
        owner: ``[cols]`` group of each row, or ``None`` where some rows are in no group.
    """

    def __init__(self, csr: CSR, owner: Tensor | None) -> None:
        self.csr = csr
        self.owner = owner

    def reduce(self, x: Tensor, reduce: str) -> tuple[Tensor, Tensor | None]:
        """``[groups, F]`` values, and of ``min`` and ``max`` the places that they came from."""
        if reduce in ("min", "max"):
            value, place = _Extremum.apply(x, self, reduce)  # type: ignore[no-untyped-call]
            return value, place
        return _Total.apply(x, self, reduce), None  # type: ignore[no-untyped-call]

    def spread(self, y: Tensor) -> Tensor:
        """``[cols, F]``: each row its group's value, zero where it has no group."""
        out: Tensor = _Spread.apply(y, self)  # type: ignore[no-untyped-call]
        return out


def by_index(index: Tensor, size: int) -> Groups:
    """Groups of equal values in each row of an ``[L, E]`` index, ``size`` groups per row."""
    lines, entries = index.shape
    flat = index.reshape(-1)
    if lines > 1:
        first = torch.arange(lines, device=index.device)[:, None] * size
        flat = (index.long() + first).reshape(-1)
    rows, cols = lines * size, lines * entries
    rowptr, _, place = sort_arrays(flat, flat, rows, rows)
    csr = CSR(rowptr, place, place, rows, cols)
    start = torch.arange(cols + 1, dtype=rowptr.dtype, device=index.device)
    # A copy: a view of the index would keep it, and with it this entry of the memo, alive.
    owner = flat.to(rowptr.dtype, copy=True)
    _join(csr, CSR(start, owner, None, cols, rows))
    return Groups(csr, owner)


def by_ptr(ptr: Tensor, entries: int) -> Groups:
    """Groups of consecutive columns in each row of an ``[L, G + 1]`` pointer."""
    lines, size = ptr.size(0), ptr.size(1) - 1
    rows, cols = lines * size, lines * entries
    device, dtype = ptr.device, torch.int64 if max(rows, cols) > _INT32_MAX else torch.int32
    ptr = ptr.long()
    count = (ptr[:, 1:] - ptr[:, :-1]).reshape(-1)
    rowptr = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    torch.cumsum(count, 0, out=rowptr[1:])
    total = int(rowptr[-1]) if rows else 0
    group = torch.arange(rows, device=device).repeat_interleave(count, output_size=total)
    place = torch.arange(total, device=device)
    if total < cols:  # some columns are in no group
        first = ptr[:, :-1] + torch.arange(lines, device=device)[:, None] * entries
        place += (first.reshape(-1) - rowptr[:-1])[group]
        return Groups(CSR(rowptr.to(dtype), place.to(dtype), None, rows, cols), None)
    csr = CSR(rowptr.to(dtype), place.to(dtype), None, rows, cols)
    start = torch.arange(cols + 1, dtype=dtype, device=device)
    _join(csr, CSR(start, group.to(dtype), None, cols, rows))
    return Groups(csr, csr.transpose().col)


def _join(csr: CSR, transposed: CSR) -> None:
    csr._transposed, transposed._transposed = transposed, csr


# Each backward pass is made of the other functions here, so that second derivatives (forces of a
# learnt potential) exist, and run on the kernels too.


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups, reduce: str) -> Tensor:
        ctx.groups, ctx.reduce = groups, reduce
        # In place, since autograd refuses in-place changes of views that a function returned.
        return aggregate(groups.csr, x, reduce=[reduce]).squeeze_(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if ctx.reduce == "mean":
            grad = grad / ctx.groups.csr.degree.clamp(min=1).to(grad.dtype)[:, None]
        return ctx.groups.spread(grad), None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, groups: Groups) -> Tensor:
        ctx.groups = groups
        if groups.owner is None:
            return aggregate(groups.csr.transpose(), y, reduce=["sum"]).squeeze_(1)
        out = None
        if y.device.type == "cpu":
            out = cpu.empty(y, (groups.owner.numel(), y.size(1)))
        return torch.index_select(y, 0, groups.owner, out=out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return ctx.groups.reduce(grad, "sum")[0], None


class _Extremum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: Groups, reduce: str) -> tuple[Tensor, Tensor]:
        value, place = extremum(groups.csr, x, reduce)
        ctx.save_for_backward(place)
        ctx.mark_non_differentiable(place)
        ctx.set_materialize_grads(False)
        ctx.cols = x.size(0)
        return value, place

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> Any:
        if grad is None:
            return None, None, None
        (place,) = ctx.saved_tensors
        # A row wins at most one group; those of empty groups meet in a row that is cut off.
        won = grad.new_zeros(ctx.cols + 1, grad.size(1)).scatter(0, place, grad)
        return won[:-1], None, None
