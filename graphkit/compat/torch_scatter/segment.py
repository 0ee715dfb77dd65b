"""torch_scatter's segment and gather functions: consecutive groups, by pointer or sorted index."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.compat.torch_scatter.groups import Groups, by_ptr, check_range, remembered
from graphkit.compat.torch_scatter.reduce import (
    Rows,
    check_dim,
    check_reduce,
    fits,
    grouped,
    groups_of,
    into,
    size_along,
    spread_index,
    varies,
)
from graphkit.errors import InputError

REDUCES = ("sum", "add", "mean", "min", "max")
_INDEX = (torch.int32, torch.int64)


def _coo(
    src: Tensor, index: Tensor, out: Tensor | None, dim_size: int | None, reduce: str
) -> tuple[Tensor, Tensor | None]:
    dim = check_dim(src, max(index.dim() - 1, 0))
    full = spread_index(src, index, dim)
    size = size_along(src, index if src.numel() else full, dim, out, dim_size)
    return into(out, src, full, dim, size, reduce, rounding="trunc")


def _spread_ptr(indptr: Tensor, src: Tensor) -> tuple[Tensor, int]:
    """The pointer as ``[..., G + 1]`` over the leading dimensions of ``src``, and its dimension."""
    if indptr.dtype not in _INDEX or not indptr.dim() or not indptr.size(-1):
        raise InputError(
            f"indptr: {indptr.dtype} of shape {list(indptr.shape)}, "
            "wanted [..., G + 1] torch.int64 or torch.int32"
        )
    dim = check_dim(src, indptr.dim() - 1)
    lead = src.shape[:dim]
    if any(a not in (1, b) for a, b in zip(indptr.shape, lead, strict=False)):
        raise InputError(
            f"indptr: shape {list(indptr.shape)}, wanted {[*lead, 'G + 1']} (or 1 in places)"
        )
    return indptr.expand(*lead, -1), dim


def _check_ptr(lines: Tensor, entries: int) -> None:
    if not lines.numel():
        return
    low, high = (int(v) for v in torch.aminmax(lines))
    if low < 0 or high > entries or bool((lines[:, 1:] < lines[:, :-1]).any()):
        raise InputError(
            f"indptr: values from {low} to {high}, wanted non-decreasing ones in 0..{entries}"
        )


def _ptr_groups(indptr: Tensor, dim: int, entries: int) -> tuple[bool, Groups]:
    lead = any(d < dim for d in varies(indptr))
    # One line of the pointer where all are the same; an empty lead leaves none to choose.
    line = indptr if lead or not indptr.numel() else indptr[(0,) * dim]

    def build() -> Groups:
        lines = line.reshape(-1, line.size(-1))
        _check_ptr(lines, entries)
        return by_ptr(lines, entries)

    return lead or line is indptr, remembered(line, ("ptr", entries), build)


def _csr(
    src: Tensor, indptr: Tensor, out: Tensor | None, reduce: str
) -> tuple[Tensor, Tensor | None]:
    ptr, dim = _spread_ptr(indptr, src)
    size, entries = ptr.size(-1) - 1, src.size(dim)
    lead, groups = _ptr_groups(ptr, dim, entries)
    rows = Rows(src.shape, dim, lead)
    flat, csr = rows.of(src), groups.csr
    if size and fits(src, indptr):
        value, place = groups.reduce(flat, reduce)
    else:  # the entries of all groups, in order
        column, row = csr.col.long(), csr.row().long()[:, None].expand(-1, flat.size(1))
        value, place = grouped(flat[column], row, 0, csr.num_rows, reduce, "trunc")
        if place is not None:
            ends = torch.cat([column, column.new_full((1,), csr.num_cols)])
            place = ends[place]
    value = rows.back(value, size)
    if place is not None:
        place = rows.places(place, entries, size)
    if out is None:
        return value, place
    if out.shape != value.shape:
        raise InputError(f"out: shape {list(out.shape)}, wanted {list(value.shape)}")
    return out.copy_(value), place


def segment_csr(
    src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum"
) -> Tensor:
    r"""Reduce the ranges that a pointer marks in ``src`` (``torch_scatter.segment_csr``).

    .. math::
        out_i = \mathrm{REDUCE}_{k = indptr(i)}^{indptr(i + 1) - 1} \; src_k

    Args:
        src: the values.
        indptr: ``[..., G + 1]`` non-decreasing starts of ranges along its last dimension; the
            leading dimensions are those of ``src``, or 1.
        out: overwritten with the result.
        reduce: ``sum``, ``add``, ``mean``, ``min`` or ``max``.

    Shapes:
        - **out:** as ``src`` with ``G`` ranges along the last dimension of ``indptr``. An empty
          range gives 0.

    Raises:
        InputError: a pointer that decreases, leaves ``src`` or does not broadcast; an ``out`` that
            does not fit; an unknown reduce.

    Example:
        >>> segment_csr(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 2, 3])).tolist()
        [3.0, 0.0, 4.0]
    """
    return _csr(src, indptr, out, check_reduce(reduce, REDUCES))[0]


def segment_sum_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Sum each range; see :func:`segment_csr`."""
    return _csr(src, indptr, out, "sum")[0]


def segment_add_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Another name of :func:`segment_sum_csr`."""
    return _csr(src, indptr, out, "sum")[0]


def segment_mean_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    """Average each range (integers round towards zero); see :func:`segment_csr`."""
    return _csr(src, indptr, out, "mean")[0]


def segment_min_csr(
    src: Tensor, indptr: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the least entry of each range and its place; see :func:`segment_csr`.

    Example:
        >>> value, place = segment_min_csr(torch.tensor([3.0, 2.0]), torch.tensor([0, 2, 2]))
        >>> value.tolist(), place.tolist()
        ([2.0, 0.0], [1, 2])
    """
    value, place = _csr(src, indptr, out, "min")
    assert place is not None
    return value, place


def segment_max_csr(
    src: Tensor, indptr: Tensor, out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the largest entry of each range and its place; see :func:`segment_min_csr`."""
    value, place = _csr(src, indptr, out, "max")
    assert place is not None
    return value, place


def segment_coo(
    src: Tensor,
    index: Tensor,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    r"""Reduce by a sorted index along its last dimension (``torch_scatter.segment_coo``).

    .. math::
        out_i = \mathrm{REDUCE}_{k:\, index(k) = i} \; src_k

    It is :func:`graphkit.compat.torch_scatter.scatter` along ``dim = index.dim() - 1``; an index
    that is not sorted gives the same result here.

    Args:
        src: the values.
        index: groups, in the leading dimensions of ``src`` (or 1).
        out: reduced together with the groups and written to.
        dim_size: number of groups; the largest index and one if not given.
        reduce: ``sum``, ``add``, ``mean``, ``min`` or ``max``.

    Shapes:
        - **out:** as ``src`` with ``dim_size`` groups along the last dimension of ``index``. An
          empty group gives 0.

    Raises:
        InputError: as for scatter.

    Example:
        >>> index = torch.tensor([0, 0, 2])
        >>> segment_coo(torch.tensor([1.0, 2.0, 4.0]), index, reduce="max").tolist()
        [2.0, 0.0, 4.0]
    """
    return _coo(src, index, out, dim_size, check_reduce(reduce, REDUCES))[0]


def segment_sum_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Sum each group; see :func:`segment_coo`."""
    return _coo(src, index, out, dim_size, "sum")[0]


def segment_add_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Another name of :func:`segment_sum_coo`."""
    return _coo(src, index, out, dim_size, "sum")[0]


def segment_mean_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> Tensor:
    """Average each group (integers round towards zero); see :func:`segment_coo`."""
    return _coo(src, index, out, dim_size, "mean")[0]


def segment_min_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the least entry of each group and its place; see :func:`segment_coo`."""
    value, place = _coo(src, index, out, dim_size, "min")
    assert place is not None
    return value, place


def segment_max_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the largest entry of each group and its place; see :func:`segment_coo`."""
    value, place = _coo(src, index, out, dim_size, "max")
    assert place is not None
    return value, place


def gather_coo(src: Tensor, index: Tensor, out: Tensor | None = None) -> Tensor:
    r"""Give each entry its group's value: :math:`out_k = src_{index(k)}`, the inverse of segment.

    Args:
        src: a value per group along dimension ``index.dim() - 1``.
        index: groups of the entries, in the leading dimensions of ``src`` (or 1).
        out: overwritten with the result.

    Shapes:
        - **out:** as ``src`` with ``index.size(-1)`` entries.

    Raises:
        InputError: an index out of range or of a shape that does not broadcast.

    Example:
        >>> gather_coo(torch.tensor([5.0, 7.0]), torch.tensor([0, 1, 1])).tolist()
        [5.0, 7.0, 7.0]
    """
    dim = check_dim(src, max(index.dim() - 1, 0))
    entries, size = index.size(-1) if index.dim() else 1, src.size(dim)
    shape = [*src.shape[:dim], entries, *src.shape[dim + 1 :]]
    like = src.new_empty(()).expand(shape)
    full = spread_index(like, index, dim)
    if is_checked := like.numel() > 0 and size > 0:
        check_range(index, size)
    found = groups_of(like, full, dim, size) if is_checked and fits(like, index) else None
    if found is not None:
        rows, groups = found
        value = rows.back(groups.spread(Rows(src.shape, dim, rows.lead).of(src)), entries)
    else:
        if not is_checked:
            check_range(full, size)
        value = src.gather(dim, full.long())
    return value if out is None else _written(out, value)


def gather_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None) -> Tensor:
    r"""Repeat each value over its range: :math:`out_k = src_i`, :math:`k` in range :math:`i`.

    Args:
        src: ``G`` values along dimension ``indptr.dim() - 1``.
        indptr: ``[..., G + 1]`` starts of ranges, as for :func:`segment_csr`.
        out: overwritten with the result.

    Shapes:
        - **out:** as ``src`` with ``indptr.max()`` entries; zero before the first range.

    Raises:
        InputError: a pointer that decreases or does not broadcast, or that has not one range for
            each value.

    Example:
        >>> gather_csr(torch.tensor([5.0, 7.0]), torch.tensor([0, 1, 3])).tolist()
        [5.0, 7.0, 7.0]
    """
    ptr, dim = _spread_ptr(indptr, src)
    if ptr.size(-1) - 1 != src.size(dim):
        raise InputError(
            f"indptr: {ptr.size(-1) - 1} ranges, but src has {src.size(dim)} along dimension {dim}"
        )
    if out is not None and out.dim() == src.dim():
        entries = out.size(dim)
    else:
        entries = max(0, int(ptr[..., -1].max())) if ptr.numel() else 0
    lead, groups = _ptr_groups(ptr, dim, entries)
    rows = Rows(src.shape, dim, lead)
    flat = rows.of(src)
    if entries and src.numel() and fits(src, indptr):
        value = groups.spread(flat)
    else:
        csr = groups.csr
        value = flat.new_zeros(csr.num_cols, flat.size(1))
        value = value.index_add(0, csr.col.long(), flat[csr.row().long()])
    value = rows.back(value, entries)
    return value if out is None else _written(out, value)


def _written(out: Tensor, value: Tensor) -> Tensor:
    if out.shape != value.shape:
        raise InputError(f"out: shape {list(out.shape)}, wanted {list(value.shape)}")
    return out.copy_(value)
