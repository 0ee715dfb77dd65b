"""cooccurrence: for each item the items that share most users with it, without an I x I matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from graphkit.errors import InputError
from graphkit.ops import backends, cpu
from graphkit.ops.csr import CSR

_BLOCK = 1 << 22  # counts that the plain-torch form holds at a time


def cooccurrence(csr: CSR, k: int, *, include_self: bool = True) -> tuple[Tensor, Tensor]:
    r"""Find the ``k`` heaviest neighbours of each item in the item-item graph of a user-item graph.

    UltraGCN (arXiv 2110.15114), section 3.3, in the normalisation that its published results use:
    with :math:`G = R^\top R` and its row sums :math:`g`,

    .. math::
        \omega_{ij} = G_{ij} \, \frac{\sqrt{g_i + 1}}{g_i} \, \frac{1}{\sqrt{g_j + 1}}

    :math:`G` is counted one row at a time. Among equal weights the smaller id comes first; items
    with fewer neighbours than ``k`` are given others with weight zero.

    Args:
        csr: ``[U, I]``: row ``u`` holds the items of user ``u``, each once.
        k: how many, at most ``I``.
        include_self: an item counts as its own neighbour, with :math:`G_{ii}` its users.

    Shapes:
        - **neighbours:** int64 ``[I, k]``
        - **weights:** float64 ``[I, k]``, descending

    Raises:
        InputError: ``k`` out of range.

    Example:
        >>> pairs = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, 2, 1]])  # users, items
        >>> csr = CSR.from_edge_index(pairs.flip(0), size=(3, 3))
        >>> neighbours, weights = cooccurrence(csr, 2)
        >>> neighbours[0].tolist(), [round(w, 7) for w in weights[0].tolist()]
        ([0, 1], [0.5, 0.3535534])
    """
    most = csr.num_cols - (not include_self)
    if not 0 <= k <= max(most, 0):
        raise InputError(f"k: {k}, wanted 0..{max(most, 0)} for {csr.num_cols} items")
    degree = (csr.rowptr[1:] - csr.rowptr[:-1]).double()
    back = csr.transpose()
    # A user with d items adds d to the row sum of each of them.
    total = torch.zeros(csr.num_cols, dtype=torch.float64, device=csr.col.device)
    total.index_add_(
        0, csr.col.long(), degree.repeat_interleave((csr.rowptr[1:] - csr.rowptr[:-1]).long())
    )
    left = torch.where(total > 0, (total + 1).sqrt() / total.clamp(min=1), 0.0)
    right = 1 / (total + 1).sqrt()
    if backends.current(csr.col.device) != "native" or csr.col.device.type != "cpu":
        return _by_blocks(csr, back, left, right, k, include_self)
    neighbours = left.new_empty(csr.num_cols, k, dtype=torch.int64)
    weights = left.new_empty(csr.num_cols, k)
    assert cpu.kernels is not None
    cpu.kernels.cooccurrence(
        cpu.graph(csr.rowptr, csr.col, None, csr.num_cols, csr.num_entries, csr.num_rows),
        cpu.graph(back.rowptr, back.col, None, csr.num_rows, csr.num_entries, csr.num_cols),
        left.data_ptr(), right.data_ptr(), k, include_self, neighbours.data_ptr(),
        weights.data_ptr(), cpu.threads(),
    )  # fmt: skip
    return neighbours, weights


def _by_blocks(
    csr: CSR, back: CSR, left: Tensor, right: Tensor, k: int, include_self: bool
) -> tuple[Tensor, Tensor]:
    """The same in plain torch: dense counts of a few items at a time."""
    num = csr.num_cols
    ptr, users = back.rowptr.long(), back.col.long()
    found = []
    for begin in range(0, num, max(_BLOCK // max(num, 1), 1)):
        end = min(begin + max(_BLOCK // max(num, 1), 1), num)
        here = users[ptr[begin] : ptr[end]]
        item = torch.arange(end - begin, device=here.device).repeat_interleave(
            ptr[begin + 1 : end + 1] - ptr[begin:end]
        )
        first = csr.rowptr.long()[here]
        length = csr.rowptr.long()[here + 1] - first
        row = torch.arange(here.numel(), device=here.device).repeat_interleave(length)
        inside = torch.arange(row.numel(), device=here.device) - (length.cumsum(0) - length)[row]
        other = csr.col.long()[first[row] + inside]
        counts = torch.bincount(item[row] * num + other, minlength=(end - begin) * num)
        weights = counts.view(end - begin, num).double() * left[begin:end, None] * right
        if not include_self:
            own = torch.arange(begin, end, device=here.device)
            weights[own - begin, own] = -1
        best = weights.sort(dim=1, descending=True, stable=True)
        found.append((best.indices[:, :k], best.values[:, :k]))
    if not found:
        return ptr.new_empty(0, k), right.new_empty(0, k)
    return torch.cat([i for i, _ in found]), torch.cat([w for _, w in found])
