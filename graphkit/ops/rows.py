"""Rows of a CSR in ascending order of their columns: how to get them, and what to ask of them."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import cpu
from graphkit.ops.csr import CSR, _transpose_arrays, transpose_arrays
from graphkit.ops.eager import is_plain

SORTED = "sorted_rows"  # derived: True where the rows are, else the CSR whose rows are


def sorted_rows(csr: CSR) -> CSR:
    """Return the same graph with the columns of each row in ascending order; remembered.

    A :meth:`CSR.transpose` has such rows already and is returned as it is.

    Args:
        csr: any CSR; ``eid`` of the result still names the edges it was built from.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[2, 0, 1], [0, 0, 1]]), num_nodes=3)
        >>> csr.col.tolist(), sorted_rows(csr).col.tolist(), sorted_rows(csr).eid.tolist()
        ([2, 0, 1], [0, 2, 1], [1, 0, 2])
    """
    found = csr.derived.get(SORTED)
    if found is True:
        return csr
    if found is None:
        compiling = torch.compiler.is_compiling()
        found = csr
        if compiling or disorder(csr.rowptr, csr.col, csr.num_cols) is not None:
            # Two stable sorts: by column, then by row.
            flip = _transpose_arrays if is_plain(csr.col) else transpose_arrays
            flipped = flip(csr.rowptr, csr.col, csr.eid, csr.num_cols)
            rowptr, col, eid = flip(flipped[0], flipped[1], flipped[2], csr.num_rows)
            found = CSR(rowptr, col, eid, csr.num_rows, csr.num_cols)
            found.derived[SORTED] = True
        if compiling:  # nothing that is traced outlives its graph
            return found
        csr.derived[SORTED] = True if found is csr else found
    assert isinstance(found, CSR)
    return found


def is_symmetric(csr: CSR) -> bool:
    """Whether every entry (i, j) stands beside an entry (j, i); looked at once per CSR.

    Args:
        csr: a graph whose rows are in ascending order (:func:`sorted_rows`).

    Raises:
        InputError: a row is out of order.

    Example:
        >>> path = torch.tensor([[0, 1, 1], [1, 0, 2]])
        >>> is_symmetric(sorted_rows(CSR.from_edge_index(path, num_nodes=3)))
        False
    """
    found = csr.derived.get("is_symmetric")
    if found is None:
        has_sorted_rows("csr", csr)
        found = False
        if csr.num_rows == csr.num_cols:
            other = csr.transpose()
            found = torch.equal(other.rowptr, csr.rowptr) and torch.equal(other.col, csr.col)
        csr.derived["is_symmetric"] = found
    return bool(found)


def has_sorted_rows(name: str, csr: CSR) -> None:
    """Refuse a CSR with a row out of order; looked at once per CSR."""
    if csr.derived.get(SORTED) is True:
        return
    refuse_disorder(name, csr.rowptr, csr.col, csr.num_cols)
    csr.derived[SORTED] = True


def refuse_disorder(name: str, rowptr: Tensor, col: Tensor, num_cols: int) -> None:
    """Raise an InputError that names the first row out of order, if there is one."""
    found = disorder(rowptr, col, num_cols)
    if found is not None:
        row, entry = found
        raise InputError(
            f"{name}: row {row} has column {int(col[entry])} after column {int(col[entry - 1])}, "
            "wanted ascending columns; graphkit.ops.sorted_rows(csr) gives them"
        )


def disorder(rowptr: Tensor, col: Tensor, num_cols: int) -> tuple[int, int] | None:
    """Row and entry of the first column that is smaller than the one before it, if any."""
    if cpu.kernels is not None and is_plain(rowptr, col):
        row, entry = cpu.kernels.find_disorder(
            cpu.graph(rowptr, col, None, num_cols, col.numel()), cpu.threads()
        )
        return None if row < 0 else (int(row), int(entry))
    falls = col[1:] < col[:-1]
    starts = rowptr[1:-1].long()  # a fall to the first entry of a row is none
    falls[starts[(starts > 0) & (starts < col.numel())] - 1] = False
    places = falls.nonzero()
    if not places.numel():
        return None
    entry = int(places[0]) + 1
    return int(torch.searchsorted(rowptr, entry, right=True)) - 1, entry
