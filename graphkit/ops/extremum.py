"""extremum: the smallest or largest source of each row, and which source that was."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.ops import backends, reference
from graphkit.ops.aggregate_native import aggregate_cpu, aggregate_op
from graphkit.ops.csr import CSR
from graphkit.ops.eager import is_plain


def extremum(csr: CSR, x: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
    """``min`` or ``max`` of the sources of each row with its place, without gradients.

    The kernels of :func:`graphkit.ops.aggregate` note the winner of each row for their backward
    pass; this reads it. Ties go to the first entry; a NaN wins and stays.

    Args:
        csr: the rows.
        x: ``[num_cols, F]`` floating-point source features.
        reduce: ``"min"`` or ``"max"``.

    Shapes:
        - **out:** ``[num_rows, F]`` values, 0 for an empty row, and ``[num_rows, F]`` int64
          sources, ``num_cols`` for an empty row.

    Example:
        >>> csr = CSR.from_ptr(torch.tensor([0, 2, 2]))
        >>> value, source = extremum(csr, torch.tensor([[3.0], [5.0]]), "max")
        >>> value.tolist(), source.tolist()
        ([[5.0], [0.0]], [[1], [2]])
    """
    x = x.detach()
    if backends.current(x.device) in ("reference", "torch_scatter"):
        values = x.index_select(0, csr.col.long())
        entry = reference.winners(csr, reference.widen(values), reduce == "max")
        out = torch.cat([values, values.new_zeros(1, x.size(1))]).gather(0, entry)
        empty = entry == csr.num_entries
    else:
        run = aggregate_cpu if is_plain(x) else aggregate_op
        found = run(
            x, None, csr.rowptr, csr.col, None, None, None, None, "copy", reduce, False, True
        )  # fmt: skip
        out, winner = found[0].squeeze_(1), found[2 if reduce == "min" else 3]
        empty = winner < 0
        entry = csr.rowptr[:-1, None] + winner
    entry = entry.masked_fill(empty, 0)
    if not csr.num_entries:
        return out, entry.long().fill_(csr.num_cols)
    source = csr.col[entry.flatten()].view(entry.shape).long()
    return out, source.masked_fill_(empty, csr.num_cols)
