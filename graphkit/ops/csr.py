"""CSR: the view of an ``edge_index`` sorted by destination, built once and remembered.

Row ``i`` of a :class:`CSR` holds the entries whose messages node ``i`` receives. ``col`` names
their sources, ``eid`` the column of ``edge_index`` each entry came from: edge features never move.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from graphkit.errors import InputError
from graphkit.ops import cpu
from graphkit.ops.eager import is_plain

_INT32_MAX = 2**31 - 1
_memo: Any = WeakTensorKeyDictionary()


class CSR:
    """A sparse structure of ``num_rows`` destinations and ``num_cols`` sources.

    Build it with :meth:`from_edge_index` (remembered per tensor) or :meth:`from_ptr`.

    Attributes:
        rowptr: ``[num_rows + 1]`` int32 or int64; row ``i`` owns entries ``rowptr[i]:rowptr[i+1]``.
        col: ``[E]`` source of each entry, same dtype.
        eid: ``[E]`` edge that each entry came from, or ``None`` for the identity.
        num_rows, num_cols: numbers of destinations and sources.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[0, 2, 1], [1, 1, 0]]), num_nodes=3)
        >>> csr.rowptr.tolist(), csr.col.tolist(), csr.eid.tolist()
        ([0, 1, 3, 3], [1, 0, 2], [2, 0, 1])
    """

    def __init__(
        self, rowptr: Tensor, col: Tensor, eid: Tensor | None, num_rows: int, num_cols: int
    ) -> None:
        self.rowptr = rowptr
        self.col = col
        self.eid = eid
        self.num_rows = num_rows
        self.num_cols = num_cols
        self.derived: dict[object, object] = {}
        self._transposed: CSR | None = None
        self._degree: Tensor | None = None

    @staticmethod
    def from_edge_index(
        edge_index: Tensor,
        num_nodes: int | None = None,
        *,
        size: tuple[int, int] | None = None,
        flow: str = "source_to_target",
        validate: bool = True,
    ) -> CSR:
        """Sort the edges of a graph by destination; the same tensor is sorted once only.

        Args:
            edge_index: ``[2, E]`` int32 or int64 in any order; row 0 sources, row 1 destinations.
            num_nodes: number of nodes of a graph whose two ends are of one kind.
            size: ``(sources, destinations)`` of a bipartite graph; instead of ``num_nodes``.
            flow: ``"target_to_source"`` swaps the roles of the two rows.
            validate: check that every index lies in range (once, when the CSR is built).

        Raises:
            InputError: wrong shape or dtype, a negative index, or one beyond the number of nodes.
        """
        _check_edge_index(edge_index)
        if flow not in ("source_to_target", "target_to_source"):
            raise InputError(f"flow: {flow!r}, wanted 'source_to_target' or 'target_to_source'")
        if size is None:
            if num_nodes is None:
                num_nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
            size = (num_nodes, num_nodes)
        if torch.compiler.is_compiling():
            return _build(edge_index, size, flow, validate=False)
        key = (size, flow)
        entry = _memo.get(edge_index)
        version = 0 if edge_index.is_inference() else edge_index._version
        if entry is None or entry[0] != version:
            entry = (version, {})
            _memo[edge_index] = entry
        built: dict[object, CSR] = entry[1]
        if key not in built:
            built[key] = _build(edge_index, size, flow, validate)
        return built[key]

    @staticmethod
    def from_ptr(ptr: Tensor) -> CSR:
        """Rows of consecutive entries: row ``g`` owns entries ``ptr[g]:ptr[g+1]`` (pooling).

        Args:
            ptr: ``[G + 1]`` non-decreasing integers from 0.

        Raises:
            InputError: wrong shape, dtype or order.
        """
        if ptr.dim() != 1 or ptr.numel() == 0 or ptr.dtype not in (torch.int32, torch.int64):
            raise InputError(
                f"ptr: {ptr.dtype} of shape {tuple(ptr.shape)}, wanted [G + 1] int32 or int64"
            )
        if int(ptr[0]) != 0 or bool((ptr[1:] < ptr[:-1]).any()):
            raise InputError("ptr: wanted non-decreasing values that begin with 0")
        total = int(ptr[-1])
        col = torch.arange(total, dtype=ptr.dtype, device=ptr.device)
        csr = CSR(ptr.contiguous(), col, None, ptr.numel() - 1, total)
        groups = torch.arange(csr.num_rows, dtype=ptr.dtype, device=ptr.device)
        owner = groups.repeat_interleave(ptr[1:] - ptr[:-1], output_size=total)
        start = torch.arange(total + 1, dtype=ptr.dtype, device=ptr.device)
        csr._transposed = CSR(start, owner, None, total, csr.num_rows)
        csr._transposed._transposed = csr
        return csr

    @property
    def num_entries(self) -> int:
        """Number of entries (edges)."""
        return self.col.numel()

    @property
    def degree(self) -> Tensor:
        """``[num_rows]`` number of entries of each row, in the dtype of ``rowptr``."""
        if self._degree is None:
            self._degree = self.rowptr[1:] - self.rowptr[:-1]
        return self._degree

    def row(self) -> Tensor:
        """``[E]`` the row that each entry belongs to."""
        rows = torch.arange(self.num_rows, dtype=self.col.dtype, device=self.col.device)
        degree = self.degree
        if is_plain(degree) and (bool((degree < 0).any()) or int(degree.sum()) != self.num_entries):
            raise InputError(
                "rowptr: wanted non-decreasing values that end with the number of entries"
            )
        return rows.repeat_interleave(degree, output_size=self.num_entries)

    def transpose(self) -> CSR:
        """The same entries sorted by source, with the edges they came from; built once."""
        if self._transposed is None:
            flip = _transpose_arrays if is_plain(self.col) else transpose_arrays
            rowptr, col, eid = flip(self.rowptr, self.col, self.eid, self.num_cols)
            self._transposed = CSR(rowptr, col, eid, self.num_cols, self.num_rows)
            self._transposed._transposed = self
        return self._transposed

    def edge_index(self) -> Tensor:
        """``[2, E]`` sources and destinations in the order the edges were given in."""
        pair = torch.stack([self.col, self.row()])
        if self.eid is None:
            return pair
        out = torch.empty_like(pair)
        out[:, self.eid.long()] = pair
        return out

    def to(self, device: torch.device | str) -> CSR:
        """The same structure on another device."""
        eid = None if self.eid is None else self.eid.to(device)
        return CSR(self.rowptr.to(device), self.col.to(device), eid, self.num_rows, self.num_cols)

    def __repr__(self) -> str:
        return f"CSR({self.num_rows} x {self.num_cols}, {self.num_entries} entries)"


def _check_edge_index(edge_index: Tensor) -> None:
    if not isinstance(edge_index, Tensor):
        raise InputError(f"edge_index: {type(edge_index).__name__}, wanted a [2, E] integer tensor")
    if edge_index.dtype not in (torch.int32, torch.int64):
        raise InputError(f"edge_index: dtype {edge_index.dtype}, wanted torch.int64 or torch.int32")
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise InputError(f"edge_index: shape {list(edge_index.shape)}, wanted [2, num_edges]")


def _build(edge_index: Tensor, size: tuple[int, int], flow: str, validate: bool) -> CSR:
    source, target = edge_index[0], edge_index[1]
    num_cols, num_rows = size
    if flow == "target_to_source":
        source, target = target, source
        num_cols, num_rows = num_rows, num_cols
    if validate:
        source_row = 0 if flow == "source_to_target" else 1
        _check_range(source, num_cols, source_row)
        _check_range(target, num_rows, 1 - source_row)
    sort = _sort_arrays if is_plain(edge_index) else sort_arrays
    rowptr, col, eid = sort(target, source, num_rows, num_cols)
    return CSR(rowptr, col, eid, num_rows, num_cols)


def _check_range(index: Tensor, limit: int, row: int) -> None:
    if index.numel() == 0:
        return
    if cpu.kernels is not None and index.device.type == "cpu":
        index = index.contiguous()
        low, high, low_at, high_at, _ = cpu.kernels.index_range(
            index.data_ptr(), index.element_size() * 8, index.numel(), cpu.threads()
        )
    else:
        low, high = (int(v) for v in torch.aminmax(index))
        low_at, high_at = int(index.argmin()), int(index.argmax())
    if low < 0:
        raise InputError(
            f"edge_index: negative node id {low} in row {row} at edge {low_at}, "
            f"wanted 0..{limit - 1}"
        )
    if high >= limit:
        raise InputError(
            f"edge_index: node id {high} in row {row} at edge {high_at}, "
            f"but there are {limit} nodes (wanted 0..{limit - 1})"
        )


def _sort_arrays(
    key: Tensor, other: Tensor, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Stable sort of edges by ``key``: rowptr, the other end, and the edge of each entry."""
    wide = max(key.numel(), num_rows, num_cols) > _INT32_MAX
    dtype = torch.int64 if wide else torch.int32
    entries = key.numel()
    if cpu.kernels is None or key.device.type != "cpu":
        perm = torch.sort(key, stable=True).indices
        counts = torch.bincount(key, minlength=num_rows)
        rowptr = torch.zeros(num_rows + 1, dtype=dtype, device=key.device)
        rowptr[1:] = torch.cumsum(counts, 0)
        return rowptr, other[perm].to(dtype), perm.to(dtype)
    key, other = key.contiguous(), other.to(key.dtype).contiguous()
    rowptr = key.new_empty(num_rows + 1, dtype=dtype)
    col, perm = key.new_empty(entries, dtype=dtype), key.new_empty(entries, dtype=dtype)
    cpu.kernels.sort_edges(
        key.element_size() * 8, rowptr.element_size() * 8, entries, num_rows, num_cols,
        key.data_ptr(), other.data_ptr(), rowptr.data_ptr(), col.data_ptr(), perm.data_ptr(),
        cpu.threads(),
    )  # fmt: skip
    return rowptr, col, perm


sort_arrays = torch.library.custom_op("graphkit::csr_sort", _sort_arrays, mutates_args=())


@sort_arrays.register_fake
def _(key: Tensor, other: Tensor, num_rows: int, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.int32
    return (
        key.new_empty(num_rows + 1, dtype=dtype),
        key.new_empty(key.numel(), dtype=dtype),
        key.new_empty(key.numel(), dtype=dtype),
    )


def _transpose_arrays(
    rowptr: Tensor, col: Tensor, eid: Tensor | None, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the entries of a CSR by column: rowptr, row and edge of each entry."""
    entries, num_rows = col.numel(), rowptr.numel() - 1
    if cpu.kernels is None or col.device.type != "cpu":
        rows = torch.arange(num_rows, dtype=col.dtype, device=col.device)
        row = rows.repeat_interleave(rowptr[1:] - rowptr[:-1], output_size=entries)
        perm = torch.sort(col, stable=True).indices
        rowptr_t = torch.zeros(num_cols + 1, dtype=rowptr.dtype, device=col.device)
        rowptr_t[1:] = torch.cumsum(torch.bincount(col, minlength=num_cols), 0)
        return rowptr_t, row[perm], perm.to(col.dtype) if eid is None else eid[perm]
    rowptr_t = rowptr.new_empty(num_cols + 1)
    col_t, eid_t = torch.empty_like(col), torch.empty_like(col)
    cpu.kernels.transpose(
        cpu.graph(rowptr, col, eid, num_cols, entries), rowptr_t.data_ptr(), col_t.data_ptr(),
        eid_t.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return rowptr_t, col_t, eid_t


transpose_arrays = torch.library.custom_op(
    "graphkit::csr_transpose", _transpose_arrays, mutates_args=()
)


@transpose_arrays.register_fake
def _(
    rowptr: Tensor, col: Tensor, eid: Tensor | None, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    return rowptr.new_empty(num_cols + 1), torch.empty_like(col), torch.empty_like(col)
