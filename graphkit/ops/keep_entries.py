"""keep_entries: the same graph with some entries left out, by compaction instead of a new sort."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops.csr import CSR
from graphkit.ops.rows import SORTED


def keep_entries(csr: CSR, keep: Tensor) -> CSR:
    """Leave out the entries of a CSR whose mask is false.

    Edges dropped at random and target links hidden in training (NCN, arXiv 2302.00890) change the
    graph at every step; the order of what stays is known already. One pass over the mask, one over
    the columns.

    Args:
        csr: any CSR.
        keep: ``[E]`` bool, in the order of the entries (of ``csr.col``, not of ``edge_index``).

    Shapes:
        - **out:** a CSR of as many rows and columns with ``keep.sum()`` entries. Its entries are
          numbered anew (``eid`` is ``None``): an edge tensor ``w`` of ``csr`` becomes
          ``w[csr.eid[keep]]``, or ``w[keep]`` where ``csr.eid`` is ``None``.

    Raises:
        InputError: a mask of another dtype, shape or device.

    Example:
        >>> csr = CSR.from_edge_index(torch.tensor([[1, 2, 0], [0, 0, 1]]), num_nodes=3)
        >>> less = keep_entries(csr, torch.tensor([False, True, True]))
        >>> less.rowptr.tolist(), less.col.tolist()
        ([0, 1, 2, 2], [2, 0])
    """
    if keep.dtype != torch.bool or keep.shape != csr.col.shape:
        raise InputError(
            f"keep: {keep.dtype} of shape {list(keep.shape)}, wanted bool [{csr.num_entries}]"
        )
    if keep.device != csr.col.device:
        raise InputError(f"keep: on {keep.device}, wanted {csr.col.device} as csr")
    before = csr.rowptr.new_zeros(keep.numel() + 1)
    torch.cumsum(keep, 0, dtype=before.dtype, out=before[1:])
    rowptr = before.index_select(0, csr.rowptr)
    out = CSR(rowptr, csr.col[keep], None, csr.num_rows, csr.num_cols)
    if csr.derived.get(SORTED) is True:
        out.derived[SORTED] = True
    return out
