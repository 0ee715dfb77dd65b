"""Which entry of one view of the graph is which of another: what pulling needs, not atomics."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit.ops.triton import pieces as hubs
from graphkit.ops.triton.pieces import Pieces


class _Positions(NamedTuple):
    eid: Tensor | None
    eid_t: Tensor | None
    by_edge: bool
    value: Tensor


class TableOrder(NamedTuple):
    """Entries sorted by the table row they read.

    Attributes:
        ptr: ``[R + 1]`` where the entries of each table row begin.
        entry: ``[E]`` forward entries, by table row and then in order.
        row: ``[E]`` destination of each of them.
        pieces: the cut of every table row that is read at all.
    """

    ptr: Tensor
    entry: Tensor
    row: Tensor
    pieces: Pieces


_positions: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
_tables: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def row_of_entry(rowptr: Tensor, entries: int) -> Tensor:
    """``[E]`` the row of each entry."""
    rows = torch.arange(rowptr.numel() - 1, device=rowptr.device)
    return rows.repeat_interleave(rowptr[1:] - rowptr[:-1], output_size=entries)


def forward_positions(
    rowptr: Tensor,
    col: Tensor,
    eid: Tensor | None,
    rowptr_t: Tensor,
    col_t: Tensor,
    eid_t: Tensor | None,
    by_edge: bool,
    edge_is_table: bool,
) -> Tensor:
    """``[E]`` int32: where each transposed entry stands in its destination's row.

    It is compared with the winners of ``min`` and ``max``, which are counted from the start of the
    row. Entries of equal ends (and, for a table, equal table row) send equal messages to the same
    place, so any one-to-one match among them will do. Remembered per ``col_t``.
    """
    kept = _positions.get(col_t)
    if kept is not None and kept.eid is eid and kept.eid_t is eid_t and kept.by_edge >= by_edge:
        return kept.value
    entries = col.numel()
    counted = torch.arange(entries, device=col.device)
    if eid is None and eid_t is None:
        entry = counted
    elif by_edge and not edge_is_table:
        entry = counted
        if eid is not None:
            entry = torch.empty_like(counted).scatter_(0, eid.long(), counted)
        if eid_t is not None:
            entry = entry[eid_t.long()]
    else:
        row, source = row_of_entry(rowptr, entries), row_of_entry(rowptr_t, entries)
        there = _by_ends(col.long(), row, eid if by_edge else None, rowptr.numel() - 1)
        here = _by_ends(source, col_t.long(), eid_t if by_edge else None, rowptr.numel() - 1)
        entry = torch.empty_like(there).scatter_(0, here, there)
    value = (entry - rowptr[col_t.long()]).to(torch.int32)
    _positions[col_t] = _Positions(eid, eid_t, by_edge, value)
    return value


def _by_ends(source: Tensor, row: Tensor, edge: Tensor | None, num_rows: int) -> Tensor:
    key = source * num_rows + row
    if edge is None:
        return torch.sort(key, stable=True).indices
    by_edge = torch.sort(edge, stable=True).indices
    return by_edge[torch.sort(key[by_edge], stable=True).indices]


def table_order(rowptr: Tensor, eid: Tensor, num_rows: int) -> TableOrder:
    """Sort the entries by table row; remembered per ``eid``."""
    kept = _tables.get(eid)
    key = (num_rows, hubs.PIECE)
    if kept is not None and kept[0] == key and kept[1] is rowptr:
        return kept[2]
    entry = torch.sort(eid, stable=True).indices
    counts = torch.bincount(eid, minlength=num_rows)
    ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=eid.device)
    torch.cumsum(counts, 0, out=ptr[1:])
    read = counts.nonzero().flatten()
    row = row_of_entry(rowptr, eid.numel())[entry]
    # As wide as the graph's own indices: half the traffic for all but the largest graphs.
    order = TableOrder(
        ptr, entry.to(eid.dtype), row.to(eid.dtype), hubs.pieces_of(read, counts[read])
    )
    _tables[eid] = (key, rowptr, order)
    return order
