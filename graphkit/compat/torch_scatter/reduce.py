"""What scatter, segment_coo and segment_csr share: by the kernels where they fit, else by torch."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from graphkit.compat.torch_scatter.broadcast import broadcast
from graphkit.compat.torch_scatter.groups import Groups, by_index, check_range, limits, remembered
from graphkit.errors import InputError, nearest
from graphkit.ops.eager import is_eager

REDUCES = ("sum", "add", "mul", "mean", "min", "max")
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_INDEX = (torch.int32, torch.int64)


def check_reduce(reduce: str, choices: tuple[str, ...]) -> str:
    """Return the reduce without its synonym; raise for an unknown one."""
    if reduce not in choices:
        raise InputError(
            f"reduce: {reduce!r} is not one of {', '.join(choices)}{nearest(reduce, choices)}"
        )
    return "sum" if reduce == "add" else reduce


def check_dim(src: Tensor, dim: int) -> int:
    """Return ``dim`` counted from the front; raise where ``src`` has no such dimension."""
    if not -src.dim() <= dim < src.dim():
        raise InputError(f"dim: {dim}, but src has {src.dim()} dimensions")
    return dim % src.dim()


def spread_index(src: Tensor, index: Tensor, dim: int) -> Tensor:
    """Return ``index`` expanded to the shape of ``src``; raise where it does not broadcast."""
    if index.dtype not in _INDEX:
        raise InputError(f"index: dtype {index.dtype}, wanted torch.int64 or torch.int32")
    wanted = list(src.shape[: index.dim()]) if index.dim() > 1 else [src.size(dim)]
    shape = list(index.shape) if index.dim() else [1]
    if len(shape) > src.dim() or any(a not in (1, b) for a, b in zip(shape, wanted, strict=False)):
        raise InputError(f"index: shape {list(index.shape)}, wanted {wanted} (or 1 in places)")
    return broadcast(index, src, dim)


class Rows(NamedTuple):
    """A tensor seen as ``[rows, F]`` along a dimension.

    With ``lead``, the dimensions before it are part of the rows, each with groups of its own;
    else they are part of the features.
    """

    shape: torch.Size
    dim: int
    lead: bool

    def of(self, src: Tensor) -> Tensor:
        before, after = prod(src.shape[: self.dim]), prod(src.shape[self.dim + 1 :])
        if self.lead:
            return src.reshape(before * src.size(self.dim), after)
        return src.movedim(self.dim, 0).reshape(src.size(self.dim), before * after)

    def back(self, rows: Tensor, size: int) -> Tensor:
        before, after = self.shape[: self.dim], self.shape[self.dim + 1 :]
        if self.lead:
            return rows.view(*before, size, *after)
        return rows.view(size, *before, *after).movedim(0, self.dim).contiguous()

    def places(self, rows: Tensor, entries: int, size: int) -> Tensor:
        """As :meth:`back` for places in ``src``, counted within each line of it."""
        if self.lead:
            none = prod(self.shape[: self.dim]) * entries
            rows = torch.where(rows == none, entries, rows % max(entries, 1))
        return self.back(rows, size)


def varies(index: Tensor) -> list[int]:
    """Dimensions along which an expanded index holds more than one value in memory."""
    return [d for d in range(index.dim()) if index.size(d) > 1 and index.stride(d)]


def groups_of(src: Tensor, index: Tensor, dim: int, size: int) -> tuple[Rows, Groups] | None:
    """The groups of an index expanded to ``src``, or ``None`` where it varies beyond ``dim``."""
    changing = varies(index)
    if any(d > dim for d in changing):
        return None
    lead = any(d < dim for d in changing)
    first = (slice(None) if d == dim or (lead and d < dim) else 0 for d in range(index.dim()))
    line = index[tuple(first)]
    groups = remembered(
        line, ("groups", size), lambda: by_index(line.reshape(-1, line.size(-1)), size)
    )
    return Rows(src.shape, dim, lead), groups


def fits(src: Tensor, index: Tensor) -> bool:
    """Whether the kernels can take this tensor at all."""
    return src.dtype in _FLOATS and src.numel() > 0 and is_eager(src, index)


def size_along(
    src: Tensor, index: Tensor, dim: int, out: Tensor | None, dim_size: int | None
) -> int:
    """Return the size of the result along ``dim``; raise where index or ``out`` do not fit."""
    if out is not None:
        wanted = list(src.shape)
        wanted[dim] = out.size(dim) if out.dim() == src.dim() else -1
        if list(out.shape) != wanted:
            raise InputError(
                f"out: shape {list(out.shape)}, wanted {list(src.shape)} up to dimension {dim}"
            )
        dim_size = out.size(dim)
    if dim_size is not None and dim_size < 0:
        raise InputError(f"dim_size: {dim_size}, wanted 0 or more")
    size = limits(index)[1] + 1 if dim_size is None else int(dim_size)
    if is_eager(src, index):
        check_range(index, size)
    return size


def grouped(
    src: Tensor, index: Tensor, dim: int, size: int, reduce: str, rounding: str = "floor"
) -> tuple[Tensor, Tensor | None]:
    """Reduce along ``dim``, for checked arguments and an expanded index; places for min, max."""
    found = groups_of(src, index, dim, size) if reduce != "mul" and fits(src, index) else None
    if found is None:
        return _plain(src, index.long(), dim, size, reduce, rounding)
    rows, groups = found
    value, place = groups.reduce(rows.of(src), reduce)
    if place is not None:
        place = rows.places(place, src.size(dim), size)
    return rows.back(value, size), place


def _plain(
    src: Tensor, index: Tensor, dim: int, size: int, reduce: str, rounding: str
) -> tuple[Tensor, Tensor | None]:
    shape = list(src.shape)
    shape[dim] = size
    if reduce == "mul":
        return src.new_ones(shape).scatter_reduce(dim, index, src, "prod"), None
    if reduce in ("sum", "mean"):
        total = src.new_zeros(shape).scatter_add(dim, index, src)
        if reduce == "sum":
            return total, None
        one = src.new_ones(()).expand(src.shape)
        count = src.new_zeros(shape).scatter_add(dim, index, one)
        return divide(total, count, rounding), None
    entries = src.size(dim)
    place = index.new_full(shape, entries)
    if not src.numel():  # zeros that are part of the graph
        return src.new_zeros(shape).scatter_add(dim, index, src), place
    best = src.detach().new_zeros(shape)
    best = best.scatter_reduce(dim, index, src.detach(), f"a{reduce}", include_self=False)
    attained = best.gather(dim, index)
    # A NaN equals nothing, not even itself, and a group that holds one has it as its extremum.
    hit = (src.detach() == attained) | (attained != attained)
    along = [1] * src.dim()
    along[dim] = entries
    entry = torch.arange(entries, device=src.device).view(along).expand(src.shape)
    place = place.scatter_reduce(dim, index, entry.masked_fill(~hit, entries), "amin")
    pad = list(src.shape)
    pad[dim] = 1
    return torch.cat([src, src.new_zeros(pad)], dim).gather(dim, place), place


def divide(total: Tensor, count: Tensor, rounding: str) -> Tensor:
    """Return a mean; integers are rounded as the original rounds them."""
    count = count.clamp(min=1)
    if total.is_floating_point():
        return total / count
    return total.div(count, rounding_mode=rounding)


def into(
    out: Tensor | None,
    src: Tensor,
    index: Tensor,
    dim: int,
    size: int,
    reduce: str,
    rounding: str = "floor",
) -> tuple[Tensor, Tensor | None]:
    """:func:`grouped`, reduced together with what ``out`` holds and written to it."""
    if out is None:
        return grouped(src, index, dim, size, reduce, rounding)
    value, place = grouped(src, index, dim, size, "sum" if reduce == "mean" else reduce)
    if reduce == "sum":
        return out.add_(value), None
    if reduce == "mul":
        return out.mul_(value), None
    if reduce == "mean":
        one = src.new_ones(()).expand(src.shape)
        count = grouped(one, index, dim, size, "sum")[0]
        return out.copy_(divide(out + value, count, rounding)), None
    assert place is not None
    better = value < out if reduce == "min" else value > out
    better = (better | (value != value)) & (place < src.size(dim))
    kept = torch.where(better, value, out)
    return out.copy_(kept), place.masked_fill(~better, src.size(dim))
